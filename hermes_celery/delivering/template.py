"""Convert a run's output to a message text: with the job's template, or Hermes' header and footer.

A template is Jinja2 in its sandbox, with `job`, `run` and `output`. If it cannot be rendered, the
plain text is sent with a warning. It is rendered in a child process with limits on time and memory
(`template_child`), because nothing inside a process can stop `{{ 'x' * 10**9 }}` or a nested loop.
A job without a template starts no process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from hermes_celery.core.field_checks import MAX_TEMPLATE
from hermes_celery.core.job import Job
from hermes_celery.core.run import Run
from hermes_celery.errors import JobError

#: The most characters that a template may produce.
_MAX_CHARACTERS = 1_000_000
#: CPU time; a large table takes a tenth of a second.
_CPU_SECONDS = 5
#: Wall-clock time, with room for a busy machine.
RENDER_SECONDS = 20.0
#: Python and Jinja2 take 40 MB of address space.
_MEMORY_BYTES = 256 * 1024 * 1024
_CHILD = Path(__file__).with_name("template_child.py")
_INSTALL = "templates need Jinja2; install it: pip install 'jinja2>=3.1'"


class RenderedText(msgspec.Struct, frozen=True, kw_only=True):
    """A message's text, and a warning if the template failed."""

    text: str
    warning: str | None = None


def render(job: Job, run: Run, output: str, *, wrap: bool) -> RenderedText:
    """Return the text of a run's message."""
    template = job.spec.template
    if template is None:
        return RenderedText(text=wrapped(job, output) if wrap else output)
    try:
        values = {"job": job.as_json(), "run": run.as_json(), "output": output}
        return RenderedText(text=_answer_of_child(template, values, seconds=RENDER_SECONDS))
    except TemplateFault as error:
        return RenderedText(
            text=output, warning=f"the template failed ({error}); plain text was sent"
        )


def wrapped(job: Job, output: str) -> str:
    """Put Hermes' header and footer around an output."""
    return (
        f"Cronjob Response: {job.name}\n(job_id: {job.id})\n-------------\n\n{output}\n\n"
        "To stop or manage this job, send me a new message "
        f'(e.g. "stop reminder {job.name}").'
    )


def check_template(template: str) -> None:
    """Raise JobError for an invalid template, or if Jinja2 is not installed."""
    try:
        _answer_of_child(template, None, seconds=RENDER_SECONDS)
    except TemplateFault as error:
        raise JobError(f"the template is not valid: {error}") from None


class TemplateFault(Exception):
    """The reason why a template produced no text."""


def _answer_of_child(template: str, values: dict[str, Any] | None, *, seconds: float) -> str:
    """Return the text that the child renders; without values the child only parses the template.

    Raises TemplateFault, or JobError if Jinja2 is not installed.
    """
    if len(template) > MAX_TEMPLATE:
        raise TemplateFault(
            f"it has {len(template):,} characters; at most {MAX_TEMPLATE:,} are allowed"
        )
    request = {
        "template": template,
        "values": values,
        "path": sys.path,
        "most": _MAX_CHARACTERS,
        "cpu_seconds": _CPU_SECONDS,
        "memory_bytes": _MEMORY_BYTES,
    }
    code, said = _run_child(msgspec.json.encode(request), seconds=seconds)
    try:
        answer = msgspec.json.decode(said, type=_Answer)
    except msgspec.MsgspecError:
        raise TemplateFault(_why_ended(code)) from None
    if answer.is_missing:
        raise JobError(_INSTALL) if values is None else TemplateFault(_INSTALL)
    if answer.error:
        raise TemplateFault(answer.error)
    return answer.text


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The child's answer."""

    text: str = ""
    error: str = ""
    is_missing: bool = False


def _run_child(request: bytes, *, seconds: float) -> tuple[int, bytes]:
    """Return the child's exit code and answer. Raises TemplateFault when it takes too long."""
    try:
        # An empty environment: a template that breaks out of its sandbox finds no secrets.
        child = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD)],
            env={},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise TemplateFault(f"its process cannot be started: {error.strerror}") from None
    try:
        said, _ = child.communicate(request, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TemplateFault(f"it took longer than {seconds:g} s") from None
    finally:
        _end(child)
    return child.returncode, said


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child if it still runs, and close its pipes."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _why_ended(code: int) -> str:
    if code == -signal.SIGXCPU:
        return f"it took more than {_CPU_SECONDS} s of CPU time"
    return f"its process ended with code {code}; it may use {_MEMORY_BYTES // 1024**2} MB"
