"""This process and its machine: children, descriptors, disk, and the end of a worker.

Nothing here knows of jobs or Redis. The children that do a run's work are in `running`.
"""
