"""Script runs: a file of the scripts directory, without an agent.

Rules as in Hermes (cron/scheduler.py, `_run_job_script`): `.sh` and `.bash` by bash, everything
else by Python; the exit code decides; an empty output, or a last line `{"wakeAgent": false}`, is a
silent success. Unlike there the time limit ends the whole process group.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from hermes_celery.errors import ScriptError
from hermes_celery.job import JobSpec
from hermes_celery.output import as_text
from hermes_celery.run import Outcome, RunState
from hermes_celery.runners.child import Ended, Ending, Reaping, Stop, run_child
from hermes_celery.session import Session, child_environment

_SHELL_SUFFIXES = (".sh", ".bash")
#: An error is shown in lists and messages; the streams themselves are kept apart, whole.
_MAX_ERROR = 4_000
_CREDENTIAL = re.compile(
    r"(^|_)(API_?KEYS?|ACCESS_?KEY(_ID)?|SECRET(_?KEY)?S?|SECRET_ACCESS_KEY|PRIVATE_?KEY|TOKENS?|"
    r"PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH)$",
    re.IGNORECASE,
)
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def locate(scripts_dir: Path, script: str) -> Path:
    """The script's file, links resolved. Raises ScriptError unless it lies in `scripts_dir`."""
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


def command(path: Path) -> list[str]:
    """What runs the script: bash by its suffix, else this Python; a `#!` line is ignored."""
    interpreter = "bash" if path.suffix.lower() in _SHELL_SUFFIXES else sys.executable
    return [interpreter, str(path)]


def without_credentials(
    environment: Mapping[str, str], *, passthrough: frozenset[str]
) -> dict[str, str]:
    """The environment as a script may see it: variables that look like credentials are removed.

    By name (`..._API_KEY`, `..._TOKEN`, `..._PASSWORD` and their like) or because the value is a
    URL with a password in it; `passthrough` names the ones to keep.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in passthrough or not (_CREDENTIAL.search(name) or _URL_WITH_PASSWORD.search(value))
    }


def wakes_agent(stdout: str) -> bool:
    """Hermes' wake gate: False when the last line that is not blank is `{"wakeAgent": false}`."""
    lines = stdout.strip().splitlines()
    if not lines:
        return True
    try:
        gate = json.loads(lines[-1])
    except ValueError:
        return True
    return not (isinstance(gate, dict) and gate.get("wakeAgent", True) is False)


class ScriptRunner:
    """Runs scripts of one Hermes home on this machine."""

    def __init__(
        self,
        *,
        home: Path,
        environment: Mapping[str, str],
        passthrough: frozenset[str],
        timeout_seconds: float,
        reaper: Reaping,
    ) -> None:
        self._home = home
        self._scripts_dir = home / "scripts"
        self._environment = environment
        self._passthrough = passthrough
        self._timeout_seconds = timeout_seconds
        self._reaper = reaper

    def perform(self, spec: JobSpec, session: Session, stop: Stop) -> Outcome:
        """Run the job's script and say how it went. Raises ScriptError or OSError."""
        if not spec.script:
            raise ScriptError("no_agent=True but no script is set for this job")
        path = locate(self._scripts_dir, spec.script)
        cwd = Path(spec.workdir) if spec.workdir else path.parent
        if not cwd.is_dir():
            raise ScriptError(f"Cron workdir does not exist on this worker: {cwd}")
        ended = run_child(
            command(path),
            cwd=cwd,
            environment=self._child_environment(session),
            timeout_seconds=self._timeout_seconds,
            stop=stop,
            reaper=self._reaper,
        )
        return _outcome(ended, path=path, timeout_seconds=self._timeout_seconds)

    def _child_environment(self, session: Session) -> dict[str, str]:
        kept = without_credentials(self._environment, passthrough=self._passthrough)
        return {**kept, "HERMES_HOME": str(self._home), **child_environment(session)}


def _outcome(ended: Ended, *, path: Path, timeout_seconds: float) -> Outcome:
    stdout = as_text(ended.stdout).strip()
    state, error = RunState.SUCCEEDED, None
    if ended.ending is Ending.STOPPED:
        state = RunState.CANCELLED
    elif ended.ending is Ending.TIMEOUT:
        state = RunState.TIMED_OUT
        error = f"Script timed out after {timeout_seconds:g}s: {path}"
    elif ended.exit_code != 0:
        state, error = RunState.FAILED, _failure(ended)
    return Outcome(
        state=state,
        output=ended.stdout,
        stderr=ended.stderr,
        error=error,
        exit_code=ended.exit_code,
        silent=state is RunState.SUCCEEDED and (not stdout or not wakes_agent(stdout)),
    )


def _failure(ended: Ended) -> str:
    """Hermes' wording: code, then stderr, then stdout, where there is any."""
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
