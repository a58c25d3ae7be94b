"""What must be in order, looked at one thing after the other; each answer is a `Finding`.

A check is handed what it looks at: the settings, the database, a look at one namespace. It opens
nothing, prints nothing and changes nothing.
"""
