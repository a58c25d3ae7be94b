"""A bed for real Celery projects: a Redis of its own, real workers and beats, what they noted.

A project is a folder beside this file, as somebody would have it: its modules take the broker from
the variable `BROKER` and note what they do with `note`, which `notes.py` of the bed provides. It
runs in its own folder, with Celery's own command line and no setting of ours but the home.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hermes_celery import embedded_server
from hermes_celery.client import Client
from hermes_celery.core.run import Run
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Jobs, Runs, connect
from hermes_celery.store.keys import Keys
from hermes_celery.store.worker_signs import alive
from hermes_celery.wiring.client import open_cron
from tests.redis_servers import RedisServer
from tests.support import eventually

_HERE = Path(__file__).parent
#: Written beside each project: one line per note, in one write, so that processes do not mix.
_NOTES = '''
import os, time

def note(*words):
    """Write one line: the instant, Unix seconds, and the words."""
    line = " ".join(map(str, (f"{time.time():.3f}", *words))) + "\\n"
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(line)
'''


class Server(RedisServer):
    """A Valkey of its own on a loopback port; `options` go to its command line."""

    def __init__(self, place: Path, *options: str) -> None:
        self.binary = embedded_server.server_command(place)[0]
        super().__init__(place, *options)


class AServer(Protocol):
    """What a bed needs of its server."""

    url: str
    port: int

    def start(self) -> None:
        """Start it and wait until it answers."""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""

    def end(self) -> None:
        """Kill it."""


class Bed:
    """One project on a server of its own."""

    def __init__(self, name: str, place: Path, *, server: AServer | None = None) -> None:
        """`name` is its folder here and what `-A` names; `place` is the test's own directory."""
        self.name = name
        self.place = place
        self.server: AServer = server or Server(place / "server")
        self.home = place / "home"
        (self.home / "scripts").mkdir(parents=True, exist_ok=True)
        library = place / "library"
        library.mkdir(exist_ok=True)
        (library / "notes.py").write_text(_NOTES, encoding="utf-8")
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environment = {
            **kept,
            "PYTHONPATH": str(library),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BROKER": self.server.url,
            "NOTES": str(place / "notes.txt"),
            "HERMES_HOME": str(self.home),
            "HERMES_TIMEZONE": "UTC",
        }
        #: Where the project keeps its jobs: under the name of its app.
        self.namespace = name
        #: What a program of version 0.1.0 is told besides; see `tests.version_0_1_0`.
        self.old: dict[str, str] = {}
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._databases: list[Database] = []

    def __enter__(self) -> Bed:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.server.end()

    def end(self) -> None:
        """Kill what still runs of the project; the server stays."""
        for process, _path in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for database in self._databases:
            database.close()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """A command in the project's folder, in a session of its own; see `log`."""
        path = self.place / f"{len(self._running)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command, env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=_HERE / self.name,
            )  # fmt: skip
        self._running.append((process, path))
        return process

    def celery(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`celery -A <project> ...`."""
        return self.start(
            sys.executable, "-m", "celery", "-A", self.name, *arguments, **environment
        )

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """A worker, two slots unless it says otherwise."""
        given = arguments if "-c" in arguments else ("-c", "2", *arguments)
        return self.celery("worker", "-l", "INFO", *given, **environment)

    def beat(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """A beat with our scheduler."""
        scheduler = ("-S", "hermes_celery.beat:CronScheduler")
        return self.celery("beat", "-l", "INFO", *scheduler, *arguments, **environment)

    def up(self, *worker_arguments: str) -> None:
        """A worker and a beat, and wait until both are there."""
        self.worker(*worker_arguments)
        self.beat()
        self.await_worker()
        self.await_leader()

    def hermes(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`hermes-celery -N <namespace> ...` to its end, in the project's folder."""
        return self.command("-N", self.namespace, *arguments)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`hermes-celery ...`, with nothing before these arguments."""
        return subprocess.run(
            [sys.executable, "-m", "hermes_celery", *arguments],
            env={**self.environment, "HERMES_REDIS_URL": self.server.url},
            cwd=_HERE / self.name, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def run(self, job: str) -> str:
        """Ask for a run of a job, as soon as there is one of that name; its id."""
        eventually(lambda: self._is_there(job), what=f"the job {job}")
        return self.cron().run(job)

    def cron(self) -> Client:
        """The verbs on the project's jobs and runs, as the command line has them."""
        return open_cron(
            read_settings(
                {
                    **self.environment,
                    "HERMES_REDIS_URL": self.server.url,
                    "HERMES_CELERY_NAMESPACE": self.namespace,
                }
            )
        )

    def _is_there(self, job: str) -> bool:
        try:
            return bool(Jobs(self.database()).find(job))
        except LookupError:
            return False

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has printed so far."""
        path = next(path for one, path in self._running if one is process)
        return path.read_text(encoding="utf-8", errors="replace")

    def database(self) -> Database:
        """The project's namespace."""
        database = Database(connect(self.server.url), keys=Keys(namespace=self.namespace))
        self._databases.append(database)
        return database

    def notes(self, word: str = "") -> list[list[str]]:
        """What the project noted, line by line, word by word; those whose first word is `word`.

        The instant (Unix seconds) comes last.
        """
        path = Path(self.environment["NOTES"])
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = [(*line.split(" ")[1:], line.split(" ")[0]) for line in lines]
        return [list(row) for row in rows if not word or row[0] == word]

    def await_notes(self, word: str, count: int = 1, *, seconds: float = 40) -> list[list[str]]:
        """Wait until the project noted a word so many times."""
        eventually(
            lambda: len(self.notes(word)) >= count,
            seconds=seconds,
            what=f"{count} notes of {word!r} (there are {len(self.notes(word))})",
        )
        return self.notes(word)

    def runs(self, job: str) -> list[Run]:
        """The runs of the job of that name, the newest first."""
        database = self.database()
        found = Jobs(database).find(job)
        return list(Runs(database).latest(job_id=found.id, limit=1000))

    def await_run(
        self, job: str, wanted: Callable[[Run], bool], *, seconds: float = 40, what: str = ""
    ) -> Run:
        """Wait for a run of a job that is as wanted."""
        return eventually(
            lambda: next((run for run in self._runs_if_any(job) if wanted(run)), None),
            seconds=seconds,
            what=what or f"a run of {job} as wanted",
        )  # type: ignore[return-value]  # it is None no more

    def _runs_if_any(self, job: str) -> list[Run]:
        try:
            return self.runs(job)
        except LookupError:
            return []

    def await_worker(self, count: int = 1) -> None:
        """Wait until so many workers with our hooks are there."""
        database = self.database()
        eventually(
            lambda: len(alive(database, now_ms=database.now_ms())) >= count, what=f"{count} workers"
        )

    def await_leader(self) -> None:
        """Wait until a beat leads."""
        database = self.database()
        eventually(lambda: database.call("GET", database.keys.lease), what="a beat that leads")
