"""An end to what other people's code, servers and records do: errors, hours, megabytes.

A duty that fails is tried again, work that hangs is left behind, an answer without end is cut. What
secrets may be shown is `masking`'s, and how a process is ended is `process`'s.
"""
