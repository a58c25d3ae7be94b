#!/bin/bash
# Collects what the agent shall report on: yesterday's commits in REPOSITORY. hermes-celery puts it into
# the prompt. On a day without commits this prints nothing, and the agent does not wake.
exec git -C "$REPOSITORY" log --since="1 day ago" --pretty="- %s (%an)" --stat
