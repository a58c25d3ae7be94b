"""How whoever meets an unreadable record says so, without knowing who listens.

The composition root makes it an incident (`delivering.broken_records`); one of each is counted
once.
"""

from __future__ import annotations

from collections.abc import Callable

#: Told of what cannot be read: the job's id where it is one job's, else ""; the key in Redis, ""
#: where it is said in what follows; and what is wrong, a phrase that follows it: "is a string".
OnBroken = Callable[[str, str, str], None]


def ignored(job_id: str, key: str, what: str) -> None:
    """Tell nobody."""
