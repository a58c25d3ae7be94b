"""Values and decisions: no input or output, and no clock."""
