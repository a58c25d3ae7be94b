"""An outcome reaches people, and so does a trouble."""
