"""`doctor`: one line for each thing that must be in order, and what to do where it is not."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import click
import msgspec

from hermes_celery.cli.screen import print_json
from hermes_celery.cli.status import Status, read_status
from hermes_celery.compose import check_broker, open_database, redis_url, unreachable
from hermes_celery.errors import SettingsError, StoreError, StoreUnavailable
from hermes_celery.instant import from_ms, iso
from hermes_celery.server_url import without_password
from hermes_celery.settings import Settings, process_environment, read_settings
from hermes_celery.store import Database, Jobs
from hermes_celery.witness import Witness


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    check: str
    verdict: Verdict
    text: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Look at everything that must be in order; exit 1 when something is not."""
    findings = list(examine())
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
            yield _fail("settings", fault)
        return
    yield _ok("settings", f"home {settings.home}, namespace {settings.namespace}")
    yield from _broker(settings)
    yield from _server(settings)
    yield _scripts(settings)
    yield _agent(settings)


def _broker(settings: Settings) -> Iterator[Finding]:
    """Whether Celery's variables let beats and workers of this environment start."""
    try:
        check_broker(settings)
    except SettingsError as error:
        for fault in error.faults:
            yield _fail("broker", fault)


def _server(settings: Settings) -> Iterator[Finding]:
    database = open_database(settings)
    try:
        database.check()
        yield _ok("server", f"{database.version} at {without_password(redis_url(settings))}")
        yield from _memory(database)
        yield _jobs(settings, database)
        yield from _processes(read_status(database))
    except StoreUnavailable as error:
        yield _fail("server", unreachable(settings, error))
    except StoreError as error:
        yield _fail("server", str(error))


def _memory(database: Database) -> Iterator[Finding]:
    persistence = database.call("INFO", "persistence")
    if str(persistence.get("aof_enabled")) == "1":
        yield _ok("persistence", "append-only file is on")
    else:
        yield _warn("persistence", "append-only file is off: a crash of the server loses jobs and "
                    "runs since its last snapshot; CONFIG SET appendonly yes")  # fmt: skip
    memory = database.call("INFO", "memory")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction" or str(memory.get("maxmemory", "0")) == "0":
        yield _ok("memory", f"{memory.get('used_memory_human')} used, nothing is evicted")
    else:
        yield _fail("memory", f"maxmemory-policy is {policy}: the server may throw jobs away; "
                    "CONFIG SET maxmemory-policy noeviction")  # fmt: skip


def _jobs(settings: Settings, database: Database) -> Finding:
    """Whether the jobs are there that a beat of this machine saw last."""
    seen = Witness(settings.state_dir, database).missing()
    if seen is None:
        return _ok("jobs", f"{Jobs(database).count()} stored")
    return _fail("jobs", f"{seen.jobs} jobs that were here at {iso(from_ms(seen.at_ms))} are gone: "
                 "the server lost its memory; turn its append-only file on, then restore a copy of "
                 "its data or add the jobs again")  # fmt: skip


def _processes(state: Status) -> Iterator[Finding]:
    if state.leader:
        shards = f" {state.shards} shards" if state.shards > 1 else ""
        yield _ok("beat", f"{state.leader} leads{shards}")
    elif len(state.unled) < state.shards:
        yield _fail("beat", f"none leads shard {', '.join(map(str, state.unled))}; see the beats' "
                    "logs, or start one more `celery beat`")  # fmt: skip
    else:
        yield _fail("beat", "none leads, so nothing is dispatched; start `celery beat` or `up`")
    if state.workers:
        yield _ok("workers", f"{len(state.workers)}: {', '.join(state.workers)}")
    else:
        yield _fail("workers", "none, so nothing runs; start `celery worker` or `up`")


def _scripts(settings: Settings) -> Finding:
    directory = settings.scripts_dir
    if not directory.is_dir():
        return _warn("scripts", f"{directory} does not exist; script jobs need their files there")
    count = sum(1 for path in directory.rglob("*") if path.is_file())
    return _ok("scripts", f"{directory}, {count} files")


def _agent(settings: Settings) -> Finding:
    """The agent's program as a worker on this machine would find it."""
    from hermes_celery.runners.agent import HERMES_COMMAND, INSTALL_HINT
    from hermes_celery.runners.dotenv_files import dotenv

    program = shlex.split((settings.agent_command or HERMES_COMMAND).replace("[", " "))[0]
    environment = {**process_environment(), **dotenv(settings.home, profile="")}
    found = shutil.which(str(Path(program).expanduser()), path=environment.get("PATH"))
    if found is None:
        return _warn("agent", f"{program!r} is not on PATH, so agent jobs fail; {INSTALL_HINT}")
    return _ok("agent", f"{found}{_version(found, environment)}")


def _version(program: str, environment: dict[str, str]) -> str:
    from hermes_celery.pulse import RunningRun
    from hermes_celery.runners.child import Limits, run_child
    from hermes_celery.runners.reaper import Reaper

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


def _finding(verdict: Verdict) -> Callable[[str, str], Finding]:
    return lambda check, text: Finding(check=check, verdict=verdict, text=text)


_ok, _warn, _fail = (_finding(verdict) for verdict in Verdict)
