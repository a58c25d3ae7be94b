"""The process and its machine: children, file descriptors, disk, and the end of a stuck worker.

Nothing here knows jobs or Redis. The children that do the work of runs are in `running`.
"""
