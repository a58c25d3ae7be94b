"""Script runs: run a file of the scripts directory, without an agent.

The rules are Hermes' (cron/scheduler.py, `_run_job_script`). bash runs `.sh` and `.bash`; Python
runs everything else. The exit code decides. Empty output, or a last line `{"wakeAgent": false}`, is
a silent success. One rule differs: the time limit ends the whole process group.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import as_text
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import JobError, ScriptError
from hermes_celery.masking.output import Redact, is_credential, known_secrets, redactor, unredacted
from hermes_celery.running.child_process import (
    ChildEnding,
    ChildLimits,
    ChildResult,
    Command,
    run_child,
)
from hermes_celery.running.dotenv_files import dotenv
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.worker_machine import WorkerMachine
from hermes_celery.session import Session, child_environment

_SHELL_SUFFIXES = (".sh", ".bash")
#: The most characters of a stream in an error, which lists and messages show. The run's record
#: keeps the streams separately, in full.
_MAX_ERROR = 4_000


def locate(scripts_dir: Path, script: str) -> Path:
    """Return the script's file with links resolved.

    Raises ScriptError if it is missing, unreadable, or outside `scripts_dir`.
    """
    try:
        return _located(scripts_dir, script)
    except (OSError, RuntimeError) as error:
        # A directory without access, a name that is too long, or a loop of links.
        why = error.strerror if isinstance(error, OSError) else error
        raise ScriptError(f"Script cannot be read: {scripts_dir / script}: {why}") from None


def _located(scripts_dir: Path, script: str) -> Path:
    root = scripts_dir.resolve()
    path = (root / Path(script)).resolve()
    if script.startswith("~") or not path.is_relative_to(root):
        raise ScriptError(
            f"Blocked: script path resolves outside the scripts directory ({scripts_dir}): "
            f"{script!r}"
        )
    if not path.exists():
        raise ScriptError(f"Script not found: {scripts_dir / script}")
    if not path.is_file():
        raise ScriptError(f"Script path is not a file: {scripts_dir / script}")
    return path


def check_local_files(
    spec: JobSpec, *, scripts_dir: Path, interpreter_dirs: Sequence[Path] = ()
) -> None:
    """Refuse a job whose script, interpreter or working directory is not on this machine.

    Raises ScriptError or JobError.
    """
    if spec.script:
        locate(scripts_dir, spec.script)
    if spec.interpreter is not None:
        _found(spec.interpreter, interpreter_dirs)
    if spec.workdir:
        path = Path(spec.workdir)
        if not path.exists():
            raise JobError(f"Cron workdir does not exist: {path}")
        if not path.is_dir():
            raise JobError(f"Cron workdir is not a directory: {path}")


def command(
    path: Path, *, interpreter: str | None = None, allowed: Sequence[Path] = ()
) -> list[str]:
    """Return the command that runs the script: bash by its suffix, else this Python.

    A `#!` line is ignored. A job's own `interpreter` must be in one of the `allowed` directories.
    Raises ScriptError.
    """
    if interpreter is not None:
        return [_found(interpreter, allowed), str(path)]
    return ["bash" if path.suffix.lower() in _SHELL_SUFFIXES else sys.executable, str(path)]


def _found(interpreter: str, allowed: Sequence[Path]) -> str:
    # Links are not resolved: a virtual environment's Python is a link, and needs its own path.
    places = os.pathsep.join(map(str, allowed))
    # `..` would lead out of them. `add` refuses it, but a record may be written by other means.
    leads_out = ".." in Path(interpreter).parts
    found = None if leads_out else shutil.which(interpreter, path=places)
    if found is None or not any(Path(found).is_relative_to(place) for place in allowed):
        raise ScriptError(
            f"the interpreter {interpreter!r} is not in a directory that this machine allows "
            f"({places}); install it there, or set HERMES_CELERY_INTERPRETERS"
        )
    return found


def without_credentials(
    environment: Mapping[str, str], *, passthrough: frozenset[str]
) -> dict[str, str]:
    """Return the environment without the variables that look like credentials.

    A variable does so by its name (`..._API_KEY`, `..._TOKEN`, `..._PASSWORD` and similar), or
    because its value is a URL with a password. `passthrough` names the variables to keep.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in passthrough or not is_credential(name, value)
    }


def wakes_agent(stdout: str) -> bool:
    """Return False if the last non-blank line is `{"wakeAgent": false}` (Hermes' wake gate)."""
    lines = stdout.strip().splitlines()
    if not lines:
        return True
    try:
        gate = json.loads(lines[-1])
    except (ValueError, RecursionError):
        return True
    return not (isinstance(gate, dict) and gate.get("wakeAgent", True) is False)


class ScriptRunner:
    """Runs scripts of one Hermes home on this machine."""

    def __init__(
        self,
        machine: WorkerMachine,
        *,
        passthrough: frozenset[str],
        timeout_seconds: float,
        interpreter_dirs: Sequence[Path] = (),
    ) -> None:
        self._machine = machine
        self._scripts_dir = machine.home / "scripts"
        self._passthrough = passthrough
        self._timeout_seconds = timeout_seconds
        self._interpreter_dirs = interpreter_dirs

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Run the job's script and return the outcome. Raises ScriptError or OSError."""
        path, ended, limits = self._run(spec, session, stop)
        return _outcome(ended, path=path, limits=limits)

    def collect(
        self, spec: JobSpec, session: Session, stop: RunningRun
    ) -> ChildResult | ScriptError:
        """Run the script that collects data for an agent; return its result or error."""
        try:
            return self._run(spec, session, stop)[1]
        except ScriptError as error:
            return error

    def _run(
        self, spec: JobSpec, session: Session, stop: RunningRun
    ) -> tuple[Path, ChildResult, ChildLimits]:
        if not spec.script:
            raise ScriptError("no_agent=True but no script is set for this job")
        path = locate(self._scripts_dir, spec.script)
        cwd = Path(spec.workdir) if spec.workdir else path.parent
        if not cwd.is_dir():
            raise ScriptError(f"Cron workdir does not exist on this worker: {cwd}")
        files = dotenv(self._machine.home, profile=_profile(spec))
        redact = self._redactor(files)
        stop.live.mask_with(redact)
        limits = self._limits(spec)
        ended = run_child(
            Command(
                argv=command(path, interpreter=spec.interpreter, allowed=self._interpreter_dirs),
                cwd=cwd,
                environment=self._child_environment(files, session),
            ),
            limits=limits,
            stop=stop,
            reaper=self._machine.reaper,
            listener=stop.live,
        )
        return path, masked(ended, redact), limits

    def _limits(self, spec: JobSpec) -> ChildLimits:
        own = spec.timeout_seconds if spec.no_agent else None
        idle = spec.idle_timeout_seconds if spec.no_agent else None
        return ChildLimits(
            timeout_seconds=own or self._timeout_seconds, idle_seconds=idle or float("inf")
        )

    def _redactor(self, files: Mapping[str, str]) -> Redact:
        if not self._machine.redact:
            return unredacted
        return redactor(known_secrets({**files, **self._machine.environment}))

    def _child_environment(self, files: Mapping[str, str], session: Session) -> dict[str, str]:
        merged = {**self._machine.environment, **files}
        kept = without_credentials(merged, passthrough=self._passthrough)
        return {**kept, "HERMES_HOME": str(self._machine.home), **child_environment(session)}


def masked(ended: ChildResult, redact: Redact) -> ChildResult:
    """Return the result with the secrets in its output masked."""
    return msgspec.structs.replace(ended, stdout=redact(ended.stdout), stderr=redact(ended.stderr))


def _profile(spec: JobSpec) -> str:
    return spec.origin.profile if spec.origin else ""


def _outcome(ended: ChildResult, *, path: Path, limits: ChildLimits) -> Outcome:
    stdout = as_text(ended.stdout).strip()
    state, error = RunState.SUCCEEDED, None
    if ended.ending is ChildEnding.STOPPED:
        state = RunState.CANCELLED
    elif ended.ending is ChildEnding.TIMEOUT:
        state = RunState.TIMED_OUT
        error = f"Script timed out after {limits.timeout_seconds:g}s: {path}"
    elif ended.ending is ChildEnding.IDLE:
        state = RunState.TIMED_OUT
        error = f"Script printed nothing for {limits.idle_seconds:g}s: {path}"
    elif ended.exit_code != 0:
        state, error = RunState.FAILED, failure(ended)
    return Outcome(
        state=state,
        output=ended.stdout,
        stderr=ended.stderr,
        error=error,
        exit_code=ended.exit_code,
        silent=state is RunState.SUCCEEDED and (not stdout or not wakes_agent(stdout)),
    )


def failure(ended: ChildResult) -> str:
    """Return the error text of a failed script in Hermes' wording: code, stderr, stdout."""
    parts = [f"Script exited with code {ended.exit_code}"]
    for name, content in (("stderr", ended.stderr), ("stdout", ended.stdout)):
        text = as_text(content).strip()
        if text:
            parts.append(f"{name}:\n{_shortened(text)}")
    return "\n".join(parts)


def _shortened(text: str) -> str:
    if len(text) <= _MAX_ERROR:
        return text
    half = _MAX_ERROR // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"
