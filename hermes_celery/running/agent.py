"""Agent runs: `hermes -z` in a child process, one per run.

hermes-agent lives in a virtual environment of its own, because it pins versions that we cannot
share. HERMES_CELERY_AGENT_COMMAND can name any other agent's command line. The exit code says
little (0 after an HTTP 401 of the provider), so if the command writes a usage file, that file
decides the outcome. The agent's standard output is its answer.

The child gets the worker's environment, overridden by the `.env` of the home and of the job's
profile, overridden by the session. Credentials stay, because the agent needs them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hermes_celery.core.answers import is_silent
from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import as_text
from hermes_celery.core.run import Outcome, RunState, Usage
from hermes_celery.errors import JobError, ScriptError
from hermes_celery.masking.output import known_secrets, redactor, unredacted
from hermes_celery.running.child_process import (
    ChildEnding,
    ChildLimits,
    ChildResult,
    Command,
    run_child,
)
from hermes_celery.running.dotenv_files import dotenv, profile_home
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.prompt import (
    EMPTY_ANSWER,
    CollectedData,
    ContextOutput,
    Skill,
    assembled,
)
from hermes_celery.running.script import ScriptRunner, failure, masked, wakes_agent
from hermes_celery.running.worker_machine import WorkerMachine
from hermes_celery.session import Session, child_environment

#: Verified with hermes-agent 0.19.0. A part in brackets is left out if one of its values is empty.
#: `-z` takes no skills (they become part of the prompt), no reasoning and no base URL.
HERMES_COMMAND = (
    "hermes -z {prompt} [--usage-file {usage_file}] [-m {model}] [--provider {provider}] "
    "[-t {toolsets}]"
)
INSTALL_HINT = (
    "install it in an environment of its own (python3 -m venv ~/hermes-venv && "
    "~/hermes-venv/bin/pip install hermes-agent) and put its `hermes` on the worker's PATH, or "
    "name another agent in HERMES_CELERY_AGENT_COMMAND"
)
#: The longest single argument that Linux accepts (MAX_ARG_STRLEN of execve(2)).
_MAX_ARGUMENT = 131_071
_GROUP = re.compile(r"\[[^\[\]]*\]|[^\[\]]+")
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS = frozenset(
    ("prompt", "model", "provider", "base_url", "toolsets", "skills", "reasoning", "usage_file")
)
_MAX_SKILL = 200_000
#: hermes-agent 0.19.0 prints this, as a success, after several empty answers of the model.
_NO_REPLY = "⚠️ No reply:"

#: Returns the latest output of a job by its reference; None if there is none.
Outputs = Callable[[str, str], str | None]


def command_line(template: str, values: Mapping[str, str]) -> list[str]:
    """Return the template's words with the values filled in.

    A part in brackets is left out if one of its values is empty. Raises JobError for an invalid
    template, and for one without a field for a value that the job sets.
    """
    named = set(_FIELD.findall(template))
    if "prompt" not in named or named - _FIELDS:
        raise JobError(
            f"the agent command {template!r} must contain {{prompt}} and may contain "
            f"{', '.join(sorted(_FIELDS))}; change HERMES_CELERY_AGENT_COMMAND"
        )
    unheard = [name for name in ("base_url", "reasoning") if values[name] and name not in named]
    if unheard:
        raise JobError(
            f"the job sets {', '.join(unheard)}, but the agent command has no field for it; set it "
            "in the agent's own configuration, or add the field to HERMES_CELERY_AGENT_COMMAND"
        )
    words: list[str] = []
    for part in _GROUP.findall(template):
        optional = part.startswith("[")
        if optional and not all(values[name] for name in _FIELD.findall(part)):
            continue
        words += shlex.split(part.strip("[]"))
    return [_FIELD.sub(lambda match: values[match[1]], word) for word in words]


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The usage file that an agent writes (hermes-agent 0.19.0)."""

    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    estimated_cost_usd: float | None = None
    completed: bool | None = None
    failed: bool = False
    failure: str | None = None

    def usage(self) -> Usage:
        """Return tokens and cost; unknown values count as 0."""
        tokens = self.total_tokens or (self.input_tokens or 0) + (self.output_tokens or 0)
        return Usage(tokens=tokens, cost_usd=self.estimated_cost_usd or 0.0)


class AgentRunner:
    """Runs agents of one Hermes home on this machine."""

    def __init__(
        self,
        machine: WorkerMachine,
        *,
        template: str,
        scripts: ScriptRunner,
        outputs: Outputs,
        timeout_seconds: float,
        idle_seconds: float,
    ) -> None:
        self._machine = machine
        self._template = template or HERMES_COMMAND
        self._scripts = scripts
        self._outputs = outputs
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Run the pre-run script, run the agent, and return the outcome.

        Raises JobError or OSError.
        """
        collected = None
        if spec.script:
            ended = self._scripts.collect(spec, session, stop)
            early = _nothing_to_ask(ended)
            if early is not None:
                return early
            collected = _collected(ended)
        home = profile_home(self._machine.home, session.origin.profile or _profile(spec))
        prompt = assembled(
            spec.prompt,
            collected=collected,
            contexts=self._contexts(spec, session),
            skills=[Skill(name=name, content=skill(home, name)) for name in spec.skills],
        )
        return self._ask(prompt, home, spec, session, stop)

    def _ask(
        self, prompt: str, home: Path, spec: JobSpec, session: Session, stop: RunningRun
    ) -> Outcome:
        files = dotenv(self._machine.home, profile=_profile(spec))
        environment = {
            **self._machine.environment,
            **files,
            "HERMES_HOME": str(home),
            **child_environment(session),
        }
        redact = redactor(known_secrets(environment)) if self._machine.redact else unredacted
        stop.live.mask_with(redact)
        limits = self._limits(spec, home)
        with tempfile.TemporaryDirectory(prefix="hermes-celery-") as directory:
            usage_file = Path(directory) / "usage.json"
            ended = run_child(
                Command(
                    argv=self._argv(prompt, usage_file, spec, environment),
                    cwd=_working_directory(spec, home),
                    environment=environment,
                ),
                limits=limits,
                stop=stop,
                reaper=self._machine.reaper,
                listener=stop.live,
            )
            return _outcome(masked(ended, redact), report=_report(usage_file), limits=limits)

    def _argv(
        self, prompt: str, usage_file: Path, spec: JobSpec, environment: Mapping[str, str]
    ) -> list[str]:
        size = len(prompt.encode())
        if size > _MAX_ARGUMENT:
            raise JobError(
                f"the prompt takes {size:,} bytes with its script output, context and skills; one "
                f"argument of a command may have {_MAX_ARGUMENT:,}; print less in the job's script"
            )
        values = {
            "prompt": prompt,
            "model": spec.model or "",
            "provider": spec.provider or "",
            "base_url": spec.base_url or "",
            "toolsets": ",".join(spec.enabled_toolsets or ()),
            "skills": ",".join(spec.skills),
            "reasoning": spec.reasoning or "",
            "usage_file": str(usage_file),
        }
        program, *arguments = command_line(self._template, values)
        found = shutil.which(os.path.expanduser(program), path=environment.get("PATH"))
        if found is None:
            raise JobError(f"the agent's program {program!r} is not on this worker; {INSTALL_HINT}")
        return [found, *arguments]

    def _limits(self, spec: JobSpec, home: Path) -> ChildLimits:
        idle = spec.idle_timeout_seconds
        idle = self._idle_seconds if idle is None else idle
        return ChildLimits(
            timeout_seconds=spec.timeout_seconds or self._timeout_seconds or float("inf"),
            idle_seconds=idle or float("inf"),
            # `hermes -z` prints its answer at the end; until then it writes its session here.
            watched=tuple(home / name for name in ("state.db", "state.db-wal")),
        )

    def _contexts(self, spec: JobSpec, session: Session) -> list[ContextOutput]:
        found = [(name, self._outputs(name, session.run_id)) for name in spec.context_from]
        return [ContextOutput(reference=name, text=text) for name, text in found if text]


def skill(home: Path, name: str) -> str | None:
    """Return the text of an installed skill by its name or path in the home; None if missing."""
    root = (home / "skills").resolve()
    wanted = Path(name.lstrip("/"))
    if ".." in wanted.parts or not wanted.parts:
        return None
    for file in (root / wanted / "SKILL.md", *sorted(root.rglob(f"{wanted.name}/SKILL.md"))):
        inside = file.resolve().is_relative_to(root)
        if inside and file.is_file() and file.parent.parts[-len(wanted.parts) :] == wanted.parts:
            return file.read_text(encoding="utf-8", errors="replace")[:_MAX_SKILL]
    return None


def _profile(spec: JobSpec) -> str:
    return spec.origin.profile if spec.origin else ""


def _working_directory(spec: JobSpec, home: Path) -> Path:
    directory = Path(spec.workdir) if spec.workdir else home
    if not directory.is_dir():
        raise JobError(f"the working directory {directory} does not exist on this worker")
    return directory


def _nothing_to_ask(ended: ChildResult | ScriptError) -> Outcome | None:
    """Return the run's outcome if the pre-run script ends the run, or None to start the agent."""
    if isinstance(ended, ScriptError):
        return None
    if ended.ending is ChildEnding.STOPPED:
        return Outcome(state=RunState.CANCELLED, output=ended.stdout, stderr=ended.stderr)
    stdout = as_text(ended.stdout)
    if ended.exit_code == 0 and (not stdout.strip() or not wakes_agent(stdout)):
        return Outcome(state=RunState.SUCCEEDED, output=ended.stdout, exit_code=0, silent=True)
    return None


def _collected(ended: ChildResult | ScriptError) -> CollectedData:
    if isinstance(ended, ScriptError):
        return CollectedData(text=str(ended), failed=True)
    if ended.ending is ChildEnding.TIMEOUT:
        return CollectedData(text="Script timed out", failed=True)
    if ended.exit_code != 0:
        return CollectedData(text=failure(ended), failed=True)
    return CollectedData(text=as_text(ended.stdout).strip())


def _report(usage_file: Path) -> UsageReport | None:
    """Return the agent's usage report; None if it is missing or unreadable."""
    try:
        content: Any = msgspec.json.decode(usage_file.read_bytes())
        return msgspec.convert(content, UsageReport, strict=False)
    except (OSError, msgspec.MsgspecError):
        return None


def _outcome(ended: ChildResult, *, report: UsageReport | None, limits: ChildLimits) -> Outcome:
    answer = as_text(ended.stdout).strip()
    state, error = _judged(ended, answer, report, limits)
    return Outcome(
        state=state,
        output=ended.stdout,
        stderr=ended.stderr,
        error=error,
        exit_code=ended.exit_code,
        silent=state is RunState.SUCCEEDED and is_silent(answer),
        usage=report.usage() if report else None,
    )


def _judged(
    ended: ChildResult, answer: str, report: UsageReport | None, limits: ChildLimits
) -> tuple[RunState, str | None]:
    if ended.ending is ChildEnding.STOPPED:
        return RunState.CANCELLED, None
    if ended.ending is ChildEnding.TIMEOUT:
        return RunState.TIMED_OUT, f"Agent timed out after {limits.timeout_seconds:g}s"
    if ended.ending is ChildEnding.IDLE:
        return RunState.TIMED_OUT, (
            f"Agent showed no activity for {limits.idle_seconds:g}s (HERMES_CRON_TIMEOUT)"
        )
    if report is not None and (report.failed or report.failure):
        return RunState.FAILED, report.failure or answer or _said(ended)
    if ended.exit_code != 0:
        return RunState.FAILED, _said(ended)
    if not answer or answer.startswith(_NO_REPLY):
        return RunState.FAILED, EMPTY_ANSWER
    return RunState.SUCCEEDED, None


def _said(ended: ChildResult) -> str:
    complaint = as_text(ended.stderr).strip() or as_text(ended.stdout).strip()
    return complaint[-4_000:] or f"Agent exited with code {ended.exit_code} and said nothing"
