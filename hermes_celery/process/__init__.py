"""This process and its machine: children, descriptors, disk, and the end of a worker."""
