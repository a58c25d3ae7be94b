"""`doctor`: one line for each thing that must be in order, and what to do where it is not."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from hermes_celery.cli.scope import given_app, other_namespaces, project, read_settings, repeating
from hermes_celery.cli.screen import print_json
from hermes_celery.core.incidents import Kind
from hermes_celery.core.letters import QUIET_MS
from hermes_celery.delivering.overload import NEARLY_FULL, disk_text, is_nearly_full, memory_text
from hermes_celery.errors import (
    FormatTooNew,
    RecordBroken,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from hermes_celery.instant import from_ms, iso
from hermes_celery.masking.server_urls import without_password
from hermes_celery.masking.urls import masked
from hermes_celery.observe.figures import Status, read_status
from hermes_celery.observe.finding import Finding, Verdict, fail, ok, warn
from hermes_celery.observe.queues import queue_findings, twin_findings, worker_finding
from hermes_celery.process.disk import disk_of
from hermes_celery.settings import (
    Settings,
    check_home,
    process_environment,
    redis_url,
    unknown_variables,
)
from hermes_celery.store import (
    CANNOT_SAVE,
    FORMAT,
    Database,
    Declarations,
    Formats,
    How,
    Incidents,
    Jobs,
    Letters,
    Load,
    Repairs,
    SharedKeys,
    Signs,
    SweepNotes,
    beat_command,
    refuse_missing,
)
from hermes_celery.store.loss_note import Witness
from hermes_celery.store.reading import readable
from hermes_celery.wiring.client import check_broker
from hermes_celery.wiring.others import left_by_others
from hermes_celery.wiring.server import open_database, unreachable

#: How many runs are looked at, those that wait longest, and how long a retry may be overdue.
_LOOKED_AT, _RETRY_GRACE_MS = 500, 60_000
_REPAIR = "`hermes-celery fsck --repair` mends it"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Look at everything that must be in order; exit 1 when something is not."""
    findings = [msgspec.structs.replace(one, text=repeating(one.text)) for one in examine()]
    if as_json:
        print_json(findings)
    else:
        styles = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
        for finding in findings:
            word = click.style(f"{finding.verdict.value:<5}", fg=styles[finding.verdict])
            click.echo(f"{word} {finding.check:<10} {finding.text}")
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """Every check, in the order in which one depends on the other."""
    try:
        settings = read_settings()
    except SettingsError as error:
        for fault in error.faults:
            yield fail("settings", fault)
        return
    yield ok("settings", f"home {settings.home}, namespace {settings.namespace}")
    yield from _unheard(settings)
    yield from _home(settings)
    yield from _broker(settings)
    yield _of_files("alerts", lambda: _alerts(settings))
    yield from _server(settings)
    yield _disk(settings)
    yield _of_files("scripts", lambda: _scripts(settings))
    yield _of_files("agent", lambda: _agent(settings))


def _of_files(check: str, look: Callable[[], Finding]) -> Finding:
    """A look at files, each of which the system may refuse to show."""
    try:
        return look()
    except OSError as error:
        return fail(check, f"{error.filename or ''}: {error.strerror or error}")


def _home(settings: Settings) -> Iterator[Finding]:
    """Whether beats and workers of this environment can read their files."""
    try:
        check_home(settings)
    except SettingsError as error:
        for fault in error.faults:
            yield fail("home", fault)


def _unheard(settings: Settings) -> Iterator[Finding]:
    """What is set and has no effect."""
    for text in settings.ignored:
        yield warn("settings", text)
    for name, meant in unknown_variables().items():
        advice = f"; is {meant} meant?" if meant else ""
        yield warn("settings", f"{name} is no setting, so it has no effect{advice}")


def _alerts(settings: Settings) -> Finding:
    """Whether troubles of no single job reach anybody."""
    from hermes_celery.wiring.delivery import alerts_without_target, check_alerts

    try:
        check_alerts(settings)
        lost = alerts_without_target(settings)
    except SettingsError as error:
        return fail("alerts", "; ".join(error.faults))
    if lost:
        return fail("alerts", f"HERMES_CELERY_ALERTS: {', '.join(lost)} means no place on this "
                     "machine; name a chat, or set the platform's home channel")  # fmt: skip
    if settings.alerts == "local":
        return ok("alerts", "troubles of no single job are kept here only: `hermes-celery "
                   "incidents`; HERMES_CELERY_ALERTS sends them to people")  # fmt: skip
    return ok("alerts", f"sent to {masked(settings.alerts)}")


def _broker(settings: Settings) -> Iterator[Finding]:
    """Whether Celery's variables let beats and workers of this environment start."""
    try:
        check_broker(settings)
    except SettingsError as error:
        for fault in error.faults:
            yield fail("broker", fault)


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        database = open_database(settings)
        keys = database.keys
        names = settings.broker_names
        queues = names.queues or {keys.default_queue, keys.delivery_queue}
        refuse_missing(database, queues=queues, names=names)
        database.check()
        yield ok("server", f"{database.version} at {without_password(redis_url(settings))}")
        yield _format(database)
        yield from _memory(database)
        yield _jobs(settings, database)
        yield _records(database)
        yield from _neighbours(settings)
        yield from _processes(read_status(database, app=given_app()))
        yield from _declared(database)
        yield from _overload(database)
        yield from _awaited(database)
        yield _letters(database)
        yield from _left_behind(settings)
    except StoreUnavailable as error:
        yield fail("server", unreachable(settings, error))
    except StoreError as error:
        yield fail("server", str(error))


def _left_behind(settings: Settings) -> Iterator[Finding]:
    """Entries of other schedulers that nothing runs any more."""
    try:
        for text in left_by_others(settings, app=project()):
            yield warn("schedules", text)
    except SettingsError as error:
        yield warn("schedules", "; ".join(error.faults))


def _format(database: Database) -> Finding:
    """Whether this program can read what is stored, and which older programs live beside it."""
    formats = Formats(database)
    try:
        stored = formats.require()
    except FormatTooNew as error:
        return fail("format", str(error))
    except RecordBroken as error:
        return fail("format", f"{error.key} {error.what}; a beat that leads moves it out of the "
                     "way and writes it anew, start one")  # fmt: skip
    text = f"{stored.format} is stored, this program writes {FORMAT}"
    if stored.to is not None:
        text += f"; on its way to {stored.to}"
    older = formats.older_than(FORMAT, now_ms=database.now_ms())
    return ok(
        "format", f"{text}; older programs: {', '.join(map(readable, older))}" if older else text
    )


def _memory(database: Database) -> Iterator[Finding]:
    persistence = database.call("INFO", "persistence")
    if str(persistence.get("aof_enabled")) == "1":
        yield ok("persistence", "append-only file is on")
    else:
        yield warn("persistence", "append-only file is off: a crash of the server loses jobs and "
                    "runs since its last snapshot; CONFIG SET appendonly yes")  # fmt: skip
    if Load(database).cannot_save():
        yield fail("disk", CANNOT_SAVE)
    used, most = Load(database).memory()
    if most and used / most > NEARLY_FULL:
        yield fail("memory", memory_text(used, most))
    memory = database.call("INFO", "memory")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction" or str(memory.get("maxmemory", "0")) == "0":
        yield ok("memory", f"{memory.get('used_memory_human')} used, nothing is evicted")
    else:
        yield fail("memory", f"maxmemory-policy is {policy}: the server may throw jobs away; "
                    "CONFIG SET maxmemory-policy noeviction")  # fmt: skip


def _jobs(settings: Settings, database: Database) -> Finding:
    """Whether the jobs are there that a beat of this machine saw last."""
    try:
        seen = Witness(settings.state_dir, database).missing()
        if seen is None:
            return ok("jobs", f"{Jobs(database).count()} stored")
    except RecordBroken as error:
        return fail("jobs", f"{error.key} {error.what}; {_REPAIR}")
    return fail("jobs", seen.text)


def _records(database: Database) -> Finding:
    """Whether the keys that all share can be used, and what the leader's last look found."""
    shared = SharedKeys(database).check(
        How(now_ms=database.now_ms(), mends=False), shards=Repairs(database).count_shards()
    )
    if shared:
        return fail("records", f"{shared[0].text.split(';')[0]}"
                     f"{f', and {len(shared) - 1} more' if shared[1:] else ''}; "
                     "`hermes-celery fsck --repair` mends that")  # fmt: skip
    note = SweepNotes(database).read()
    if note.left:
        return warn("records", f"{note.left} disagree and could not be mended; "
                     "`hermes-celery fsck` lists them")  # fmt: skip
    if not note.ended_ms:
        return ok("records", "not compared yet; a beat does so, and `hermes-celery fsck`")
    mended = f", {note.mended} mended" if note.mended else ""
    return ok("records", f"{note.jobs} jobs compared by {iso(from_ms(note.ended_ms))}{mended}")


def _processes(state: Status) -> Iterator[Finding]:
    for text in state.broken:
        yield fail("records", f"{text}; {_REPAIR}")
    if state.leader:
        shards = f" {state.shards} shards" if state.shards > 1 else ""
        yield ok("beat", f"{state.leader} leads{shards}")
    elif len(state.unled) < state.shards:
        yield fail("beat", f"none leads shard {', '.join(map(str, state.unled))}; see the beats' "
                    "logs, or start one more `celery beat`")  # fmt: skip
    else:
        start = beat_command(state.app)
        yield fail("beat", f"none leads, so nothing is dispatched; start {start}")
    yield worker_finding(state)
    yield from twin_findings(state)
    yield from queue_findings(state)


def _neighbours(settings: Settings) -> Iterator[Finding]:
    """Whose jobs this is not about."""
    others = other_namespaces()
    if others:
        yield ok("namespace", f"this is {settings.namespace!r}; others on this server are "
                 f"{', '.join(others)}: hermes-celery -N {others[-1]} doctor")  # fmt: skip


def _declared(database: Database) -> Iterator[Finding]:
    """Declared jobs that are none, or may not work, and projects that are in each other's way."""
    for one in Declarations(database).refusals():
        yield (fail if one.is_refused else warn)("declared", one.text)
    for incident in Incidents(database).of_job(""):
        if incident.kind is Kind.NAMESPACE:
            yield warn("namespace", incident.text)


def _overload(database: Database) -> Iterator[Finding]:
    """What the leader's scan found and has not seen end, unless it was looked at here."""
    for incident in Incidents(database).of_job(""):
        if incident.kind in (Kind.BACKLOG, Kind.OVERLAP, Kind.QUEUE):
            yield warn(incident.kind.value, incident.text)


def _awaited(database: Database) -> Iterator[Finding]:
    """Runs that wait for the retry of their own task, which is overdue."""
    now_ms = database.now_ms()
    for run in Signs(database).waiting(limit=_LOOKED_AT):
        if run.retry_ms is not None and now_ms - run.retry_ms > _RETRY_GRACE_MS:
            yield warn("retry", f"run {run.id} of {run.job_name!r} waits for the retry that a "
                       "worker took with it, or that none takes; it comes again after the broker's "
                       "visibility timeout, or the run is lost")  # fmt: skip


def _disk(settings: Settings) -> Finding:
    free, total = disk_of(settings.home)
    if is_nearly_full(free, total):
        return fail("disk", disk_text("this machine", free, total))
    return ok("disk", f"{free / 2**30:.1f} GB free")


def _letters(database: Database) -> Finding:
    """Whether workers lately got messages that they could not read."""
    letters = Letters(database)
    newest = next(iter(letters.latest(limit=1)), None)
    if newest is None or database.now_ms() - newest.at_ms > QUIET_MS:
        return ok("letters", f"no message was unreadable lately, {letters.total()} ever")
    return warn("letters", f"workers could not read messages, the last one from queue "
                 f"{newest.queue!r} at {iso(newest.at)}, {newest.worker}: {newest.why}; "
                 f"{newest.advice}; all: hermes-celery letters")  # fmt: skip


def _scripts(settings: Settings) -> Finding:
    directory = settings.scripts_dir
    if not directory.is_dir():
        return warn("scripts", f"{directory} does not exist; script jobs need their files there")
    count = sum(1 for path in directory.rglob("*") if path.is_file())
    return ok("scripts", f"{directory}, {count} files")


def _agent(settings: Settings) -> Finding:
    """The agent's program as a worker on this machine would find it."""
    from hermes_celery.running.agent import HERMES_COMMAND, INSTALL_HINT
    from hermes_celery.running.dotenv_files import dotenv

    program = shlex.split((settings.agent_command or HERMES_COMMAND).replace("[", " "))[0]
    environment = {**process_environment(), **dotenv(settings.home, profile="")}
    found = shutil.which(str(Path(program).expanduser()), path=environment.get("PATH"))
    if found is None:
        return warn("agent", f"{program!r} is not on PATH, so agent jobs fail; {INSTALL_HINT}")
    return ok("agent", f"{found}{_version(found, environment)}")


def _version(program: str, environment: dict[str, str]) -> str:
    from hermes_celery.running.child_process import Limits, run_child
    from hermes_celery.running.heartbeat import RunningRun
    from hermes_celery.running.orphan_reaper import Reaper

    if Path(program).name != "hermes":
        return ""
    reaper = Reaper()
    try:
        ended = run_child(
            [program, "--version"],
            cwd=Path.home(),
            environment=environment,
            limits=Limits(timeout_seconds=20),
            stop=RunningRun(),
            reaper=reaper,
        )
    except OSError as error:
        return f", which does not start: {error}"
    finally:
        reaper.close()
    lines = ended.stdout.decode(errors="replace").strip().splitlines()
    return f", {lines[0]}" if lines else ""
