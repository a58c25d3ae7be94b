"""The page of the public names in Python: signatures and docstrings, by inspection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from typing import Any

import msgspec

import hermes_celery
from docs.generate.comments import comments_of
from docs.generate.markdown import block, code, table
from hermes_celery import Cron, JobRequest, Policy, beat, errors, session
from hermes_celery.errors import HermesCeleryError

_HEAD = """\
# Python

```python
from hermes_celery import Client, Cron, JobRequest, open_cron
```

The names on this page are public. If one is renamed, its old name works for one more release, with
a `DeprecationWarning`. All other names are internal.
"""

_SESSION = """\
## Names of `hermes_celery.session`

What a run knows about itself and about the chat that its job was made in.
[Session context](../explanation/session.md) explains it.
"""

_VARIABLES = """\
These are the session variables. Inside a run each of them is set, if only to "":

"""

_BEAT = """\
## Names of `hermes_celery.beat`
"""

_ERRORS = """\
## Names of `hermes_celery.errors`

Every exception that is raised on purpose is a `HermesCeleryError`. An indented one is a kind of the
one above it; a standard exception in brackets is a second base class.

"""

_OTHER_NAMES = {
    "app": "The Celery app of hermes-celery itself: `celery -A hermes_celery worker`.",
    "__version__": "The version of the installed package.",
}
_WIDE = 88


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD, "## Names of `hermes_celery`\n"]
    for name in sorted({*hermes_celery.__all__} - {*_OTHER_NAMES}, key=str.casefold):
        parts += _named(name, getattr(hermes_celery, name))
    for name, meaning in _OTHER_NAMES.items():
        parts += [f"### {code(name)}\n", meaning + "\n"]
    parts.append(_SESSION)
    for name in session.__all__:
        parts += _named(name, getattr(session, name))
    variables = "\n".join(session.Session().variables())
    parts += [_VARIABLES + block(variables), _BEAT]
    parts += _named("CronScheduler", beat.CronScheduler)
    return "\n".join([*parts, _ERRORS + "\n".join(_error_lines(HermesCeleryError, depth=0)) + "\n"])


def _named(name: str, value: Any) -> Iterator[str]:
    if inspect.isfunction(value):
        yield from _function(name, value)
        return
    yield f"### {code(name)}\n"
    yield from _class(name, value)


def _class(name: str, owner: type) -> Iterator[str]:
    if owner is Cron:
        yield block(_signature(name, owner), "py")
    yield _doc(owner)
    if owner is Cron:
        yield _doc(owner.__init__)
    if owner in (JobRequest, Policy):
        yield "[Job fields](job-fields.md) lists its fields.\n"
    elif issubclass(owner, Enum):
        meanings = comments_of(owner)
        yield table(["Member", "Meaning"], [(code(m.name), meanings[m.name]) for m in owner])
    elif issubclass(owner, msgspec.Struct):
        yield _fields(owner)
    for member, value in vars(owner).items():
        if not member.startswith("_"):
            yield from _member(f"{name}.{member}", value)


def _fields(owner: type[msgspec.Struct]) -> str:
    meanings = comments_of(owner)
    rows = [
        (code(field.name), code(str(owner.__annotations__[field.name])), meanings[field.name])
        for field in msgspec.structs.fields(owner)
    ]
    return table(["Field", "Type", "Meaning"], rows)


def _member(name: str, value: Any) -> Iterator[str]:
    if inspect.isfunction(value):
        yield from _function(name, value, depth=4)
    elif isinstance(value, (property, cached_property)):
        doc = _doc(value)
        if "deprecated" not in doc:
            yield f"#### {code(name)}\n"
            yield doc


def _function(name: str, value: Callable[..., object], *, depth: int = 3) -> Iterator[str]:
    yield f"{'#' * depth} {code(name + '()')}\n"
    yield block(_signature(name.rpartition(".")[2], value), "py")
    yield _doc(value)


def _doc(value: object) -> str:
    return (inspect.getdoc(value) or "") + "\n"


class _Annotation(str):
    """An annotation that is shown as it is written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(name: str, value: Callable[..., object]) -> str:
    """Return a signature as it is written, on several lines if it is long."""
    found = inspect.signature(value)
    parameters = [
        one.replace(annotation=_written(one.annotation))
        for one in found.parameters.values()
        if one.name != "self"
    ]
    is_class = inspect.isclass(value)
    ends = inspect.Signature.empty if is_class else _written(found.return_annotation)
    shown = str(found.replace(parameters=parameters, return_annotation=ends))
    if len(name) + len(shown) <= _WIDE:
        return name + shown
    arrow = "" if is_class else f" -> {ends}"
    lines = [f"    {line}," for line in _each(parameters)]
    return "\n".join([f"{name}(", *lines, f"){arrow}"])


def _each(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """Yield the parameters with the star before the first that is given by name only."""
    is_starred = False
    for one in parameters:
        if one.kind is inspect.Parameter.VAR_POSITIONAL:
            is_starred = True
        elif one.kind is inspect.Parameter.KEYWORD_ONLY and not is_starred:
            is_starred = True
            yield "*"
        yield str(one)


def _written(annotation: Any) -> Any:
    return _Annotation(annotation) if isinstance(annotation, str) else annotation


def _error_lines(error: type, *, depth: int) -> Iterator[str]:
    also = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
    standard = f" ({', '.join(map(code, also))})" if also and also != ["Exception"] else ""
    summary = _doc(error).partition("\n\n")[0].replace("\n", " ").strip()
    yield f"{'    ' * depth}- {code(error.__name__)}{standard}: {summary}"
    kinds: list[type] = error.__subclasses__()
    for kind in kinds:
        if kind.__module__ == errors.__name__:
            yield from _error_lines(kind, depth=depth + 1)
