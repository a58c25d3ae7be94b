"""What every child process of this worker shares, whatever kind of work it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from hermes_celery.running.child_process import ReapsOrphans


class WorkerMachine(msgspec.Struct, frozen=True, kw_only=True):
    """One Hermes home on one machine, and how children are started there."""

    home: Path
    #: What children get, beside the home's `.env` and the session.
    environment: Mapping[str, str]
    #: Ends children whose worker process was killed.
    reaper: ReapsOrphans
    #: Whether secrets are hidden in what children print.
    redact: bool = True
