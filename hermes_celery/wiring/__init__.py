"""The composition root: settings in, collaborators out.

Which class gets which value is said here and nowhere else; nothing is decided. The command line,
the doors and the package's public names import it, nobody else.
"""
