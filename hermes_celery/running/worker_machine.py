"""Settings that all child processes of this worker share, for every kind of work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from hermes_celery.running.child_process import ReapsOrphans


class WorkerMachine(msgspec.Struct, frozen=True, kw_only=True):
    """One Hermes home on one machine, and the settings of the children started there."""

    home: Path
    #: The base environment of children; the home's `.env` and the session are added.
    environment: Mapping[str, str]
    #: Kills children whose worker process was killed.
    reaper: ReapsOrphans
    #: Whether secrets in the children's output are masked.
    redact: bool = True
