"""The checks of `doctor`, one function for each; the result is a `Finding`.

A check takes what it examines as arguments: the settings, the database, the status of a namespace.
It opens nothing, prints nothing and changes nothing.
"""
