#!/bin/bash
# Fails when a file system is fuller than DISK_LIMIT percent. Prints nothing when all is well, so that
# nothing is delivered.
limit=${DISK_LIMIT:-90}

# Memory is no disk, and the images of snaps are always full.
full=$(df -P | awk -v limit="$limit" '
    $1 ~ /^(tmpfs|devtmpfs|devfs|udev|shm|\/dev\/loop.*)$/ { next }
    NR > 1 && $5 + 0 > limit { print $6 " is " $5 " full" }
')

if [ -n "$full" ]; then
    echo "$full" >&2
    exit 1
fi
