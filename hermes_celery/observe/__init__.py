"""Answer questions about a running system: figures for `status`, and findings for `doctor`.

These modules read and judge, and change nothing. The command line prints the results.
`delivering.watchdog` reports troubles without being asked.
"""
