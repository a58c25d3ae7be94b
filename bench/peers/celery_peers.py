"""Celery beat, RedBeat and django-celery-beat, each set up as documented."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from bench.peers.beats import WARM_UP, Stage, measure_beat
from bench.peers.inside.stamps import Stamps
from bench.peers.install import CELERY, DJANGO, REDBEAT, ROOT, Package
from bench.peers.measure import Times
from bench.server import child, run_to_end, valkey

_INSIDE = "bench.peers.inside"
_APP = f"{_INSIDE}.celery_app"
_TASK_SECONDS = 600.0
_A_DAY_SECONDS = 86_400


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The parts in which the Celery schedulers differ."""

    #: Name of the scheduler for the modules in `inside/`.
    kind: str
    package: Package
    scheduler: str
    #: Longest sleep of its beat by default.
    idles: str


KINDS = (
    Kind(
        kind="beat",
        package=CELERY,
        scheduler="celery.beat:PersistentScheduler",
        idles="300 s",
    ),
    Kind(
        kind="redbeat",
        package=REDBEAT,
        scheduler="redbeat.RedBeatScheduler",
        idles="300 s",
    ),
    Kind(
        kind="django",
        package=DJANGO,
        scheduler="django_celery_beat.schedulers:DatabaseScheduler",
        idles="5 s",
    ),
)


def _entries(*, jobs: int, due: int, warm_up: int) -> Mapping[str, str]:
    """Return the environment variables that define the entries for the modules in `inside/`."""
    return {"PEER_JOBS": str(jobs), "PEER_DUE": str(due), "PEER_WARM_UP": str(warm_up)}


class _PeerStage:
    """A fresh server and directory; the task's stamps show the progress of the runs."""

    def __init__(self, kind: Kind, url: str, home: Path) -> None:
        self.url = url
        self.queue = "celery"
        self._kind = kind
        self._home = home
        self._stamps = Stamps(home / "stamps")
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HERMES_", "CELERY_"))},
            "PYTHONPATH": str(ROOT),
            "PEER_KIND": kind.kind,
            "PEER_URL": url,
            "PEER_STAMPS": str(home / "stamps"),
            "PEER_DATABASE": str(home / "db.sqlite3"),
            # A worker needs no entries.
            **_entries(jobs=0, due=0, warm_up=0),
        }
        if kind.kind == "django":
            self._environment["DJANGO_SETTINGS_MODULE"] = f"{_INSIDE}.django_settings"

    def store(self, count: int, *, due: int, warm_up: int = WARM_UP) -> None:
        """Store the entries, except for plain Celery, which reads them from its configuration."""
        self._environment |= _entries(jobs=count, due=due, warm_up=warm_up)
        if self._kind.kind != "beat":
            self._run("celery_store")

    def beat(self) -> AbstractContextManager[object]:
        """Run `celery beat` with the peer's scheduler class."""
        schedule = str(self._home / "celerybeat-schedule")
        return self._celery("beat", "--scheduler", self._kind.scheduler, "--schedule", schedule)

    def worker(self) -> AbstractContextManager[object]:
        """Run a plain Celery worker with default settings and four slots."""
        return self._celery("worker")

    def ended(self) -> int:
        """Return the number of stamps; the task only stamps, so a stamp means a finished run."""
        return self._stamps.count()

    def run_instants(self) -> tuple[float, float]:
        """Return the first and last stamp after those of the warm-up."""
        instants = self._stamps.read()[WARM_UP:]
        return instants[0], instants[-1]

    def idle_ticks(self) -> list[float]:
        """Return the milliseconds of ticks in a process of the peer's environment."""
        path = self._home / "idle.json"
        self._run("celery_idle", str(path), self._kind.scheduler)
        took: list[float] = json.loads(path.read_text())
        return took

    def _celery(self, *arguments: str) -> AbstractContextManager[object]:
        command = [self._kind.package.python, "-m", "celery", "-A", _APP, *arguments]
        return child(command, environment=self._environment, log=self._home / "log")

    def _run(self, module: str, *arguments: str) -> None:
        run_to_end(
            [self._kind.package.python, "-m", f"{_INSIDE}.{module}", *arguments],
            environment=self._environment,
            log=self._home / "log",
            seconds=_TASK_SECONDS,
        )


class CeleryPeer:
    """Measures one Celery scheduler."""

    def __init__(self, kind: Kind, *, version: str) -> None:
        self.name = f"{'celery beat' if kind.kind == 'beat' else kind.package.name} {version}"
        self.idles = kind.idles
        self._kind = kind

    def measure(self, count: int, *, limit_seconds: float) -> Times:
        """Make `count` no-op tasks due at once and measure both spans, each up to the limit."""
        return measure_beat(self, count, limit_seconds=limit_seconds)

    def idle_ticks(self, stored: int) -> list[float]:
        """Return the milliseconds of single ticks with `stored` entries, none of them due."""
        with self._fresh() as stage:
            stage.store(stored, due=int(time.time()) + _A_DAY_SECONDS, warm_up=0)
            return stage.idle_ticks()

    @contextmanager
    def open(self) -> Iterator[Stage]:
        """Yield a fresh server with this peer."""
        with self._fresh() as stage:
            yield stage

    @contextmanager
    def _fresh(self) -> Iterator[_PeerStage]:
        with valkey() as url, tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory:
            yield _PeerStage(self._kind, url, Path(directory))
