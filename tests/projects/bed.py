"""A test bed for real Celery projects: it starts a Redis server, workers and beats of its own.

A project is a folder beside this file, laid out like a user's. Its modules read the broker's URL
from the variable `BROKER` and record what they do with `note`, from the bed's module `notes.py`. It
runs in its own folder with Celery's command line; of the package's settings only the home is set.
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
#: The module `notes.py`. Each note is one line in one write, so that processes do not mix lines.
_NOTES = '''
import os, time

def note(*words):
    """Write one line: the instant, Unix seconds, and the words."""
    line = " ".join(map(str, (f"{time.time():.3f}", *words))) + "\\n"
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(line)
'''


class Server(RedisServer):
    """Runs a Valkey on a loopback port; `options` are added to its command line."""

    def __init__(self, place: Path, *options: str) -> None:
        self.binary = embedded_server.server_command(place)[0]
        super().__init__(place, *options)


class BedServer(Protocol):
    """The methods that a bed calls on its server."""

    url: str
    port: int

    def start(self) -> None:
        """Start the server and wait until it answers."""

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""

    def end(self) -> None:
        """Kill the server."""


class Bed:
    """Runs one project on a server of its own."""

    def __init__(self, name: str, place: Path, *, server: BedServer | None = None) -> None:
        """Prepare the project in folder `name` (also its `-A`); `place` is the test's directory."""
        self.name = name
        self.place = place
        self.server: BedServer = server or Server(place / "server")
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
        #: The project's namespace: the name of its app.
        self.namespace = name
        #: More environment variables for programs of version 0.1.0; see `tests.version_0_1_0`.
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
        """Kill the project's processes that still run; the server goes on running."""
        for process, _path in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for database in self._databases:
            database.close()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in the project's folder and in a session of its own; see `log`."""
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
        """Start `celery -A <project>` with these arguments."""
        return self.start(
            sys.executable, "-m", "celery", "-A", self.name, *arguments, **environment
        )

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker, with two slots unless `-c` is given."""
        given = arguments if "-c" in arguments else ("-c", "2", *arguments)
        return self.celery("worker", "-l", "INFO", *given, **environment)

    def beat(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a beat with the package's scheduler."""
        scheduler = ("-S", "hermes_celery.beat:CronScheduler")
        return self.celery("beat", "-l", "INFO", *scheduler, *arguments, **environment)

    def up(self, *worker_arguments: str) -> None:
        """Start a worker and a beat; wait until the worker is alive and the beat leads."""
        self.worker(*worker_arguments)
        self.beat()
        self.await_worker()
        self.await_leader()

    def hermes(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `hermes-celery -N <namespace>` in the project's folder and wait until it exits."""
        return self.command("-N", self.namespace, *arguments)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `hermes-celery` with only these arguments and wait until it exits."""
        return subprocess.run(
            [sys.executable, "-m", "hermes_celery", *arguments],
            env={**self.environment, "HERMES_REDIS_URL": self.server.url},
            cwd=_HERE / self.name, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def run(self, job: str) -> str:
        """Wait until a job of that name exists, run it now, and return the run id."""
        eventually(lambda: self._job_exists(job), what=f"the job {job}")
        return self.cron().run(job)

    def cron(self) -> Client:
        """Return a client of the project's namespace, as the command line opens it."""
        return open_cron(
            read_settings(
                {
                    **self.environment,
                    "HERMES_REDIS_URL": self.server.url,
                    "HERMES_CELERY_NAMESPACE": self.namespace,
                }
            )
        )

    def _job_exists(self, job: str) -> bool:
        try:
            return bool(Jobs(self.database()).find(job))
        except LookupError:
            return False

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """Return the output of a process so far."""
        path = next(path for one, path in self._running if one is process)
        return path.read_text(encoding="utf-8", errors="replace")

    def database(self) -> Database:
        """Return a connection to the project's namespace."""
        database = Database(connect(self.server.url), keys=Keys(namespace=self.namespace))
        self._databases.append(database)
        return database

    def notes(self, word: str = "") -> list[list[str]]:
        """Return the project's notes as lists of words, only those that begin with `word`.

        The last word is the time of the note in Unix seconds.
        """
        path = Path(self.environment["NOTES"])
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = [(*line.split(" ")[1:], line.split(" ")[0]) for line in lines]
        return [list(row) for row in rows if not word or row[0] == word]

    def await_notes(self, word: str, count: int = 1, *, seconds: float = 40) -> list[list[str]]:
        """Wait until at least `count` notes begin with `word` and return them."""
        eventually(
            lambda: len(self.notes(word)) >= count,
            seconds=seconds,
            what=f"{count} notes of {word!r} (there are {len(self.notes(word))})",
        )
        return self.notes(word)

    def runs(self, job: str) -> list[Run]:
        """Return the runs of the job of that name, the newest first."""
        database = self.database()
        found = Jobs(database).find(job)
        return list(Runs(database).latest(job_id=found.id, limit=1000))

    def await_run(
        self, job: str, wanted: Callable[[Run], bool], *, seconds: float = 40, what: str = ""
    ) -> Run:
        """Wait until a run of a job satisfies `wanted` and return it."""
        return eventually(
            lambda: next((run for run in self._runs_if_any(job) if wanted(run)), None),
            seconds=seconds,
            what=what or f"a run of {job} in the expected state",
        )  # type: ignore[return-value]  # eventually never returns None

    def _runs_if_any(self, job: str) -> list[Run]:
        try:
            return self.runs(job)
        except LookupError:
            return []

    def await_worker(self, count: int = 1) -> None:
        """Wait until at least `count` workers with the package's hooks are alive."""
        database = self.database()
        eventually(
            lambda: len(alive(database, now_ms=database.now_ms())) >= count, what=f"{count} workers"
        )

    def await_leader(self) -> None:
        """Wait until a beat leads."""
        database = self.database()
        eventually(lambda: database.call("GET", database.keys.lease), what="a beat that leads")
