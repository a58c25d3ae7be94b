"""The composition root: takes settings, returns collaborators.

It alone says which class gets which value, and decides nothing else. Only the command line, the
doors and the package's public names import it.
"""
