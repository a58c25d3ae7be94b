"""The callback with which code reports an unreadable record, without knowing who listens.

The wiring turns each report into an incident (`delivering.broken_records`); reports about the same
record count as one.
"""

from __future__ import annotations

from collections.abc import Callable

#: Arguments: the job's id, or "" if it is not a single job; the key in Redis, or "" if the next
#: argument names it; and what is wrong, as a phrase after the key: "is a string".
OnBroken = Callable[[str, str, str], None]


def ignored(job_id: str, key: str, what: str) -> None:
    """Ignore the report."""
