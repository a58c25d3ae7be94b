"""What a project declares becomes jobs: when it is written, by the leader of its namespace.

Written when a beat takes the lead, and again when something changes that kept a part of it back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from hermes_celery.beat_schedule import declared_of, requests_of
from hermes_celery.instant import from_ms
from hermes_celery.log import event
from hermes_celery.managed import synchronise
from hermes_celery.project_app import manager_of

if TYPE_CHECKING:
    from celery import Celery

    from hermes_celery.moving_in import MovingIn
    from hermes_celery.store import Jobs

_log = logging.getLogger(__name__)


class Declares(Protocol):
    """What a leader does for what its project declares."""

    def begin(self, now_ms: int) -> None:
        """As a new leader."""

    def step(self, now_ms: int) -> None:
        """In each pass of rescue."""

    def stop(self) -> None:
        """At the end."""


class NothingDeclared:
    """Declares nothing and removes nothing."""

    def begin(self, now_ms: int) -> None:
        """Nothing."""

    def step(self, now_ms: int) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class Declaring:
    """A leader's part in what its project declares."""

    def __init__(
        self, app: Celery, jobs: Jobs, *, default_timezone: str, moving: MovingIn | None
    ) -> None:
        """`moving` brings jobs along that are in another namespace; None: there can be none."""
        self._app = app
        self._jobs = jobs
        self._default_timezone = default_timezone
        self._moving = moving
        self._left: frozenset[str] | None = None

    def begin(self, now_ms: int) -> None:
        """Write it, as a new leader. Raises StoreError."""
        self._left = None
        self._write_if_new(self._moving is None or self._moving.begin(now_ms), now_ms)

    def step(self, now_ms: int) -> None:
        """Write what was kept back and may be written now. Raises StoreError."""
        if self._moving is not None:
            self._write_if_new(self._moving.step(now_ms), now_ms)

    def stop(self) -> None:
        """End what goes on beside."""
        if self._moving is not None:
            self._moving.stop()

    def _write_if_new(self, may_write: bool, now_ms: int) -> None:
        left = frozenset() if self._moving is None else self._moving.left
        if may_write and left != self._left:
            self._write(now_ms, left=left)
            self._left = left

    def _write(self, now_ms: int, *, left: frozenset[str]) -> None:
        taken, refused = requests_of(self._app)
        declared, unzoned = declared_of(self._app, default_timezone=self._default_timezone)
        for name, why in {**refused, **unzoned}.items():
            event(_log, "job.refused", level=logging.ERROR, job=name, why=why)
        synchronise(
            self._jobs,
            {**taken, **declared},
            manager=manager_of(self._app),
            now=from_ms(now_ms),
            default_timezone=self._default_timezone,
            left=left,
        )
