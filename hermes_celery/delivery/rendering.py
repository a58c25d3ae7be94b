"""From a run's output to the text of a message: the job's template, or Hermes' header and footer.

A template is Jinja2 in its sandbox, with `job`, `run` and `output`; one that cannot be rendered
falls back to the plain text and says so. Jinja2 is imported by templates only.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hermes_celery.errors import JobError
from hermes_celery.job import Job
from hermes_celery.run import Run

#: What a template may produce; a loop can multiply.
_MAX_CHARACTERS = 1_000_000
_INSTALL = "templates need Jinja2; install it: pip install 'hermes-celery[notify]'"


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A message's text, and what went wrong on the way to it."""

    text: str
    warning: str | None = None


def render(job: Job, run: Run, output: str, *, wrap: bool) -> Rendered:
    """The text of a run's message."""
    template = job.spec.template
    if template is None:
        return Rendered(text=wrapped(job, output) if wrap else output)
    try:
        return Rendered(text=_filled(template, job=job, run=run, output=output))
    except Exception as error:  # noqa: BLE001 - a template may raise whatever it likes
        warning = f"the template failed ({type(error).__name__}: {error}); plain text was sent"
        return Rendered(text=output, warning=warning)


def wrapped(job: Job, output: str) -> str:
    """Hermes' header and footer around an output."""
    return (
        f"Cronjob Response: {job.name}\n(job_id: {job.id})\n-------------\n\n{output}\n\n"
        "To stop or manage this job, send me a new message "
        f'(e.g. "stop reminder {job.name}").'
    )


def check_template(template: str) -> None:
    """Raise JobError for a template that cannot be read, or if Jinja2 is not here."""
    jinja2 = _jinja2()
    try:
        jinja2.sandbox.ImmutableSandboxedEnvironment().parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise JobError(f"the template cannot be read: line {error.lineno}: {error}") from None


def _filled(template: str, *, job: Job, run: Run, output: str) -> str:
    jinja2 = _jinja2()
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    size, parts = 0, []
    values = {"job": job.as_json(), "run": run.as_json(), "output": output}
    for part in environment.from_string(template).generate(values):
        size += len(part)
        if size > _MAX_CHARACTERS:
            raise ValueError(f"it produces more than {_MAX_CHARACTERS:,} characters")
        parts.append(part)
    return "".join(parts)


def _jinja2() -> Any:
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError:
        raise JobError(_INSTALL) from None
    return jinja2
