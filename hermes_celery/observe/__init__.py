"""What is asked of a running system: figures for `status`, and findings of `doctor`.

It reads and judges, and changes nothing. The command line prints it; what is told to people without
being asked is `delivering.watchdog`'s.
"""
