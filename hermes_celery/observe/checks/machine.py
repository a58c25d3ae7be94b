"""Check this machine: its disk, its scripts, and the agent program as a worker would find it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from hermes_celery.core.counted import counted
from hermes_celery.delivering.overload import disk_text, is_nearly_full
from hermes_celery.observe.finding import Finding, fail, ok, warn
from hermes_celery.process.disk import disk_of
from hermes_celery.running.agent import HERMES_COMMAND, INSTALL_HINT
from hermes_celery.running.child_process import ChildLimits, Command, run_child
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.orphan_reaper import OrphanReaper
from hermes_celery.settings import Settings

#: The time limit for an agent program's `--version`.
_VERSION_SECONDS = 20


def check_of_files(check: str, look: Callable[[], Finding]) -> Finding:
    """Run a check of files; an OSError becomes a failed finding."""
    try:
        return look()
    except OSError as error:
        return fail(check, f"{error.filename or ''}: {error.strerror or error}")


def check_disk(home: Path) -> Finding:
    """Report the free space on the disk of the home."""
    free, total = disk_of(home)
    if is_nearly_full(free, total):
        return fail("disk", disk_text("this machine", free, total))
    return ok("disk", f"{free / 2**30:.1f} GB free")


def check_scripts(directory: Path) -> Finding:
    """Count the scripts. Raises OSError if the directory is not readable."""
    if not directory.is_dir():
        return warn("scripts", f"{directory} does not exist; script jobs need their files there")
    count = sum(1 for path in directory.rglob("*") if path.is_file())
    return ok("scripts", f"{directory}, {counted(count, 'file')}")


def check_agent(settings: Settings, environment: Mapping[str, str]) -> Finding:
    """Find the agent program with a worker's environment. Raises OSError."""
    program = shlex.split((settings.agent_command or HERMES_COMMAND).replace("[", " "))[0]
    found = shutil.which(str(Path(program).expanduser()), path=environment.get("PATH"))
    if found is None:
        return warn("agent", f"{program!r} is not on PATH, so agent jobs fail; {INSTALL_HINT}")
    return ok("agent", f"{found}{_version(found, environment)}")


def _version(program: str, environment: Mapping[str, str]) -> str:
    if Path(program).name != "hermes":
        return ""
    reaper = OrphanReaper()
    try:
        ended = run_child(
            Command(argv=[program, "--version"], cwd=Path.home(), environment=dict(environment)),
            limits=ChildLimits(timeout_seconds=_VERSION_SECONDS),
            stop=RunningRun(),
            reaper=reaper,
        )
    except OSError as error:
        return f", which does not start: {error}"
    finally:
        reaper.close()
    lines = ended.stdout.decode(errors="replace").strip().splitlines()
    return f", {lines[0]}" if lines else ""
