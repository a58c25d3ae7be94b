#!/bin/bash
# Fails when a file system is fuller than DISK_LIMIT percent. Prints nothing when all is well, so that
# nothing is delivered.
limit=${DISK_LIMIT:-90}

full=$(df -P -x tmpfs -x devtmpfs | awk -v limit="$limit" 'NR > 1 && $5 + 0 > limit { print $6 " is " $5 " full" }')

if [ -n "$full" ]; then
    echo "$full" >&2
    exit 1
fi
