"""`hermes-celery up`: server, beat and worker of one machine under one supervisor.

While it starts, a child that ends with an error or is not ready within some seconds stops `up` with
one sentence: a wrong setting does not repair itself. Once everything is up, `up` ends only on
request: a child that ends is restarted, however often, and the end of its log is shown. Only when
its own directory or lock is removed does it end by itself: the server would write into nowhere, or
a second `up` beside it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import click

from hermes_celery import embedded_server
from hermes_celery.cli.next_steps import needs_the_server_url, next_steps
from hermes_celery.cli.scope import project, read_settings
from hermes_celery.cli.screen import summary, took
from hermes_celery.cli.terminal import printable
from hermes_celery.client import Client
from hermes_celery.core.counted import counted
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import Run, RunState
from hermes_celery.errors import (
    AlreadyRunning,
    HermesCeleryError,
    StoreError,
    StoreUnavailable,
)
from hermes_celery.events import RateLimitedLog
from hermes_celery.masking.server_urls import without_password
from hermes_celery.observe.figures import read_status
from hermes_celery.process.last_resort import PATIENCE_SECONDS
from hermes_celery.process.supervisor import Child, Supervisor
from hermes_celery.settings import (
    Settings,
    check_home,
    process_environment,
    redis_url,
    unusable_home,
)
from hermes_celery.store import CANNOT_SAVE, Database, QueueLoad, Shards
from hermes_celery.store.database import MOST_SHARDS
from hermes_celery.wiring.beat import split_due_index
from hermes_celery.wiring.client import check_broker, open_cron
from hermes_celery.wiring.delivery import check_alerts
from hermes_celery.wiring.server import open_database, unreachable

_READY_SECONDS = 20.0
_SERVER_SECONDS = 10.0
_LOOK_SECONDS = 0.25
_DISK_SECONDS = 5.0
#: Seconds that a worker may take beyond its runs' grace before it is killed, if it does not kill
#: itself.
_WORKER_EXTRA_SECONDS = PATIENCE_SECONDS + 2.0
_STOP_SECONDS = 10.0
#: Longer than a lease that nobody renews.
_LEASE_SECONDS = 3.0
#: The name of the first beat; the beats of further shards are `beat-2`, `beat-3`, ...
_BEAT = "beat"
_SERVER = "server"
_LOCK = "up.lock"
#: Seconds for which a server that is starting may have no socket.
_SOCKET_SECONDS = 5.0
#: What follows when something of `up` was removed.
_NOTHING_KEPT = "nothing was kept there any more"
_SECOND_UP = "a second `up` could write the same data"
_ALREADY = "already stopping; it waits for what runs, and another Ctrl-C makes it no faster\n"
_DEMO_SCRIPT = '#!/usr/bin/env bash\necho "hello from $(hostname) at $(date +%T)"\n'


@click.command()
@click.option("--demo", is_flag=True, help="Add a job that prints a greeting every ten seconds.")
@click.option(
    "--shards",
    type=click.IntRange(1, MOST_SHARDS),
    metavar="COUNT",
    help="Split the due index into COUNT shards, and start a beat for each. Default: no change.",
)
def up(demo: bool, shards: int | None) -> None:
    """Start everything on this machine, and stop it in order on Ctrl-C.

    Starts a beat, a worker with HERMES_CRON_MAX_WORKERS slots (default 4), and a Valkey server
    unless HERMES_REDIS_URL names a server. If the due index is split into shards, it starts a beat
    for each shard, but no more than there are cores. Prints each run as it ends. On a stop, a
    running job gets HERMES_CELERY_GRACE seconds (default 30) to end.
    """
    if project() is not None:
        raise click.UsageError(
            "`up` starts our own app, not a project's; start `celery -A APP worker` and "
            "`celery -A APP beat -S hermes`"
        )
    raise SystemExit(bring_up(read_settings(), demo=demo, shards=shards))


def bring_up(settings: Settings, *, demo: bool, shards: int | None) -> int:
    """Run until Ctrl-C or SIGTERM; return the exit code.

    With `shards`, split the due index before a beat starts. Raises AlreadyRunning for a second `up`
    on the same home, and SettingsError when Celery's variables name another server than ours.
    """
    check_broker(settings)
    _make_home(settings)
    check_alerts(settings)
    for text in settings.ignored:
        _say(text)
    with _only_one(settings), _stop_signal() as stop:
        supervisor, display = Supervisor(environment=_environment(settings), say=_say), None
        places = _Places(settings)
        try:
            cron = _start(settings, supervisor, stop=stop, demo=demo, shards=shards)
            if cron is not None:
                display = _RunDisplay(cron)
                _watch(settings, supervisor, display, places, stop=stop)
        finally:
            _shut_down(settings, supervisor, display, is_kept=not places.are_data_lost())
    return 0


def _make_home(settings: Settings) -> None:
    check_home(settings)
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with (settings.state_dir / _LOCK).open("a"):
            pass
    except OSError as error:
        raise unusable_home(settings, error) from None


def _start(
    settings: Settings,
    supervisor: Supervisor,
    *,
    stop: threading.Event,
    demo: bool,
    shards: int | None,
) -> Client | None:
    """Start all children and wait until they are ready; return None if stopped before that."""
    began = time.monotonic()
    if settings.redis_url is None:
        supervisor.start(_server(settings))
    _await_server(settings, supervisor, stop=stop)
    cron = open_cron(settings)
    if demo:
        _add_demo(cron, settings)
    _split(settings, shards, stop=stop)
    for name in _beats(settings):
        supervisor.start(_celery(settings, name, "beat", stop_seconds=_STOP_SECONDS))
    worker_seconds = settings.grace_seconds + _WORKER_EXTRA_SECONDS
    supervisor.start(
        _celery(settings, "worker", "worker", "-n", "hermes@%h", stop_seconds=worker_seconds)
    )
    _await_ready(settings, supervisor, stop=stop)
    if stop.is_set():
        return None
    _greet(settings, supervisor, seconds=time.monotonic() - began)
    return cron


def _watch(
    settings: Settings,
    supervisor: Supervisor,
    display: _RunDisplay,
    places: _Places,
    *,
    stop: threading.Event,
) -> None:
    """Show ended runs and restart ended children until stopped.

    Raises HermesCeleryError when a file or directory that is needed was removed.
    """
    disk, socket = _ServerDisk(open_database(settings)), _Socket(settings, supervisor)
    while not stop.wait(_LOOK_SECONDS):
        if missing := places.missing():
            raise HermesCeleryError(
                f"{missing.path} was removed or replaced while `hermes-celery up` ran, so "
                f"{missing.why}; start `hermes-celery up` again: it goes on with what is there now"
            )
        supervisor.check()
        socket.look(time.monotonic())
        disk.look(time.monotonic())
        display.show()


class _Missing(NamedTuple):
    """A file or directory of `up` that is no longer the one that was there before."""

    path: Path
    #: What follows from that.
    why: str
    is_data: bool


class _Places:
    """Notices that something `up` relies on was removed: open files are written into nowhere."""

    def __init__(self, settings: Settings) -> None:
        paths = {settings.state_dir: _NOTHING_KEPT}
        if settings.redis_url is None:
            paths[embedded_server.make_directories(settings.state_dir)] = _NOTHING_KEPT
        paths[settings.state_dir / _LOCK] = _SECOND_UP
        # What is open keeps its number: a new directory cannot be mistaken for a removed one.
        self._opened = {path: (os.open(path, os.O_RDONLY), why) for path, why in paths.items()}

    def missing(self) -> _Missing | None:
        """Return the first place that was removed or replaced; None if all are there."""
        for path, (opened, why) in self._opened.items():
            try:
                is_there = os.path.samestat(path.stat(), os.fstat(opened))
            except (FileNotFoundError, NotADirectoryError):
                is_there = False
            except OSError:
                is_there = True  # the disk may answer again
            if not is_there:
                return _Missing(path, why, is_data=why is _NOTHING_KEPT)
        return None

    def are_data_lost(self) -> bool:
        """Return whether the directories of jobs and runs are gone."""
        missing = self.missing()
        return missing is not None and missing.is_data


class _Socket:
    """Restarts our own server when its socket was removed, so that nobody can connect any more.

    A socket whose path is long lies in the temporary directory, which some systems empty.
    """

    def __init__(self, settings: Settings, supervisor: Supervisor) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._missing_since: float | None = None

    def look(self, now: float) -> None:
        """Restart the server if its socket has been missing for some seconds while it runs."""
        path = embedded_server.socket_path(self._settings.state_dir)
        is_running = (
            self._supervisor.pid(_SERVER) is not None
            and self._supervisor.exit_code(_SERVER) is None
        )
        if not is_running or path.exists():
            self._missing_since = None
            return
        if self._missing_since is None:
            self._missing_since = now
        if now - self._missing_since >= _SOCKET_SECONDS:
            self._missing_since = None
            _say(f"the socket of the server, {path}, was removed; starting the server again")
            self._supervisor.stop(_SERVER)
            self._supervisor.start(_server(self._settings))


class _RunDisplay:
    """Prints a line for each run that has ended since the last call."""

    def __init__(self, cron: Client) -> None:
        self._cron = cron
        self._seen = _Seen(cron)
        self._complaint = RateLimitedLog()

    @property
    def running(self) -> int:
        """How many runs were under way at the last call."""
        return self._seen.running

    def show(self) -> None:
        """Print the lines."""
        try:
            for run in self._seen.newly_ended():
                text = summary(run, self._cron.runs.output(run.id))
                # A run that was never performed took no time.
                time_taken = "" if run.started_at is None else f" in {took(run)}"
                _say(f"{run.job_name}: {run.state.value}{time_taken}  {text}".rstrip())
        except Exception as error:  # noqa: BLE001 - a failed display must not stop the children
            if self._complaint.may_say(time.monotonic()):
                _say(f"runs cannot be shown: {error}")
        else:
            self._complaint.over()


class _ServerDisk:
    """Reports when the server cannot save to its disk: no run ends then, and nothing is shown."""

    def __init__(self, database: Database) -> None:
        self._load = QueueLoad(database)
        self._looked_at = 0.0
        self._was_full = False

    def look(self, now: float) -> None:
        """Check whether the server can save, at most every few seconds."""
        if now - self._looked_at < _DISK_SECONDS:
            return
        self._looked_at = now
        try:
            is_full = self._load.cannot_save()
        except StoreError:
            return  # the server is down; the supervisor restarts it
        if is_full and not self._was_full:
            _say(f"nothing is queued or recorded: {CANNOT_SAVE}")
        if self._was_full and not is_full:
            _say("the server saves to its disk again")
        self._was_full = is_full


class _Seen:
    """Remembers which runs were shown."""

    def __init__(self, cron: Client) -> None:
        self._cron = cron
        self._since = cron.now
        self._shown: set[str] = set()
        self.running = 0

    def newly_ended(self) -> list[Run]:
        """Return the runs that ended since the last call, oldest first."""
        try:
            found = self._cron.runs.latest(since=self._since, limit=1000)
        except StoreError:
            return []
        # An unreadable run would be returned by every call; `runs` shows it.
        runs = [run for run in found if run.fault is None]
        self.running = sum(run.state is RunState.RUNNING for run in runs)
        ended = [run for run in reversed(runs) if run.state.is_final and run.id not in self._shown]
        self._shown |= {run.id for run in ended}
        waiting = [run.queued_at for run in runs if not run.state.is_final]
        if not waiting and runs:
            # Everything up to here was shown; later calls need not read it again.
            self._since = runs[0].queued_at
            self._shown = {run.id for run in runs if run.queued_at == self._since}
        return ended


def _shut_down(
    settings: Settings, supervisor: Supervisor, display: _RunDisplay | None, *, is_kept: bool
) -> None:
    """Stop the beats first, so that no new run comes; then the worker; the server last."""
    names = supervisor.names()
    beats = [name for name in names if name.startswith(_BEAT)]
    if beats:
        what = "the beat" if len(beats) == 1 else f"the {len(beats)} beats"
        most = supervisor.longest_stop_seconds()
        within = f"; everything is stopped in {most:g} s at most" if most else ""
        _say(f"stopping {what}{within}")
        supervisor.stop(*beats)
    if display is not None:
        display.show()
    if "worker" in names:
        _say(f"stopping the worker; {_time_of_runs(settings, display)}")
        supervisor.stop("worker")
    if display is not None:
        display.show()
    if "server" in names and supervisor.exit_code("server") is None:
        _say(f"stopping the server; jobs and runs are {'kept' if is_kept else 'lost'}")
    supervisor.stop()


def _time_of_runs(settings: Settings, display: _RunDisplay | None) -> str:
    """Say how long the runs get that are under way."""
    running = display.running if display else 0
    who = counted(running, "run is under way and gets", "runs are under way and get")
    return f"{who if running else 'running jobs get'} {settings.grace_seconds:g} s"


def _split(settings: Settings, shards: int | None, *, stop: threading.Event) -> None:
    """Split the due index into `shards`.

    Tries for a few seconds, because a beat that has just died still holds its lease.
    """
    database = open_database(settings)
    if shards is None or Shards(database).count() == shards:
        return
    deadline = time.monotonic() + _LEASE_SECONDS
    while not stop.is_set():
        try:
            moved = split_due_index(database, shards)
        except StoreError:
            if time.monotonic() > deadline:
                raise
            stop.wait(_LOOK_SECONDS)
        else:
            _say(f"the due index is split into {shards}; {counted(moved, 'job')} moved")
            return


def _beats(settings: Settings) -> list[str]:
    """Return the names of the beats to start: one per shard, but no more than there are cores."""
    shards = Shards(open_database(settings)).count()
    count = min(shards, max(os.cpu_count() or 1, 1))
    return [_BEAT, *(f"{_BEAT}-{number}" for number in range(2, count + 1))]


def _server(settings: Settings) -> Child:
    return Child(
        name=_SERVER,
        command=embedded_server.server_command(settings.state_dir),
        log=settings.state_dir / "server.log",
        stop_seconds=_STOP_SECONDS,
        # On SIGTERM the server writes its append-only file to the end before it exits.
        death_signal=signal.SIGTERM,
    )


def _celery(settings: Settings, name: str, *arguments: str, stop_seconds: float) -> Child:
    return Child(
        name=name,
        command=[
            *(sys.executable, "-m", "celery", "-A", "hermes_celery"),
            *arguments,
            *("--loglevel", "info"),
        ],
        log=settings.state_dir / f"{name}.log",
        stop_seconds=stop_seconds,
    )


def _environment(settings: Settings) -> dict[str, str]:
    """Return the children's environment: ours, with `-N` and an absolute HERMES_HOME.

    The home must be absolute because children may start in another directory.
    """
    given = {"HERMES_HOME": str(settings.home), "HERMES_CELERY_NAMESPACE": settings.namespace}
    return {**process_environment(), **given}


def _await_server(settings: Settings, supervisor: Supervisor, *, stop: threading.Event) -> None:
    """Wait until the embedded server answers; a server of the user's must answer at once."""
    database = open_database(settings)
    deadline = time.monotonic() + (_SERVER_SECONDS if settings.redis_url is None else 0)
    while not stop.is_set():
        try:
            database.ping()
            return
        except StoreUnavailable as error:
            if settings.redis_url is not None:
                raise StoreUnavailable(unreachable(settings, error)) from None
        if supervisor.exit_code("server") is not None or time.monotonic() > deadline:
            log = settings.state_dir / "server.log"
            raise HermesCeleryError(
                f"the embedded server did not start{_last_line(log)}; its log is {log}"
            )
        stop.wait(0.02)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f" ({said[-1][-300:]})" if said else ""


def _await_ready(settings: Settings, supervisor: Supervisor, *, stop: threading.Event) -> None:
    database = open_database(settings)
    deadline = time.monotonic() + _READY_SECONDS
    while not stop.is_set():
        state = read_status(database)
        if state.leader and state.workers:
            return
        if time.monotonic() > deadline:
            raise HermesCeleryError(
                f"beat or worker did not start in {_READY_SECONDS:g} s; see their logs in "
                f"{settings.state_dir}"
            )
        for ending in supervisor.check():
            if ending.why:
                log = settings.state_dir / f"{ending.name}.log"
                raise HermesCeleryError(
                    f"the {ending.name} does not start: {ending.why.removeprefix('Error: ')} (its "
                    f"log is {log})"
                )
        stop.wait(0.05)


def _greet(settings: Settings, supervisor: Supervisor, *, seconds: float) -> None:
    where = without_password(redis_url(settings))
    slots = counted(settings.max_workers, "run")
    rows = [
        ("server", where if settings.redis_url else f"{where} (embedded Valkey)"),
        ("beat", _beat_row(settings, supervisor)),
        ("worker", f"process {supervisor.pid('worker')}, {slots} at once"),
        ("logs", str(settings.state_dir)),
    ]
    click.echo(f"hermes-celery is up ({seconds:.1f} s)")
    for label, text in rows:
        click.echo(f"  {label:<8}{text}")
    also = ", with the same HERMES_REDIS_URL" if needs_the_server_url(settings) else ""
    click.echo(f"Try it in another terminal{also}:")
    for line in next_steps(settings, environment=process_environment()):
        click.echo(f"  {line}")
    click.echo("Ctrl-C stops everything in order. Runs as they end:")


def _beat_row(settings: Settings, supervisor: Supervisor) -> str:
    pids = [str(supervisor.pid(name)) for name in supervisor.names() if name.startswith(_BEAT)]
    shards = Shards(open_database(settings)).count()
    split = "" if shards == 1 else f", the due index in {shards} shards"
    return f"process {', '.join(pids)}{split}"


def _add_demo(cron: Client, settings: Settings) -> None:
    script = settings.scripts_dir / "hello.sh"
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        if not script.exists():
            _write_whole(script, _DEMO_SCRIPT)
    except OSError as error:
        raise unusable_home(settings, error, path=script) from None
    if not cron.jobs.ids_named("hello"):
        cron.add(JobRequest(schedule="every 10s", script="hello.sh", no_agent=True, name="hello"))


def _write_whole(path: Path, text: str) -> None:
    """Write a new file; leave none if that fails, since the next start would take it for whole."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {printable(text)}")


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold the lock of this home.

    Raises AlreadyRunning, naming the holder, and SettingsError when the lock cannot be written.
    """
    path = settings.state_dir / _LOCK
    # Without a buffer: closing the file would repeat a write that failed, and raise again.
    with path.open("a+b", buffering=0) as lock:
        try:
            _take(lock, settings)
        except OSError as error:
            raise unusable_home(settings, error, path=path) from None
        yield


def _take(lock: IO[bytes], settings: Settings) -> None:
    """Lock the file and write who holds it. Raises AlreadyRunning or OSError."""
    is_ours = _locked(lock)
    lock.seek(0)
    if not is_ours:
        holder = lock.read().decode(errors="replace").strip()
        raise AlreadyRunning(
            f"`hermes-celery up` runs already on {settings.home}: {holder}. "
            "Stop that one, or use another HERMES_HOME"
        )
    lock.truncate()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    lock.write(f"process {os.getpid()}, since {since}\n".encode())


def _locked(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; a second signal is answered, and changes nothing.

    Raises nothing from the handler: the stop must go on even if the terminal is gone.
    """
    stop = threading.Event()

    def handle(*_: object) -> None:
        if stop.is_set():
            # The handler may interrupt a print, so it does not use the buffer of stdout.
            with suppress(OSError, ValueError):
                os.write(sys.stdout.fileno(), _ALREADY.encode())
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
