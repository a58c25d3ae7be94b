"""The composition root: settings in, collaborators out. Nothing is decided here."""
