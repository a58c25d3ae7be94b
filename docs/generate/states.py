"""The page of states, from the enums of `hermes_celery.core`."""

from __future__ import annotations

from enum import StrEnum

from docs.generate.comments import comments_of
from docs.generate.markdown import code, table
from hermes_celery.core.incidents import FAILED, TroubleKind
from hermes_celery.core.job import JobState, word_of
from hermes_celery.core.run import DeliveryState, EndReason, RunState, Trigger

_HEAD = """\
# States and ends

The words that `list`, `runs`, `show`, `logs`, `incidents` and `--json` print for states and ends.

## Runs

A run is made when its occurrence is dispatched or skipped. It ends once; a final state never
changes.

```
occurrence -+-> queued --> running --> succeeded, failed, timed_out,
            |     ^           |        cancelled or lost
            |     +-----------+        (tried again, or waits again)
            |
            +-> skipped                (never started)
            +-> sent                   (published, and not followed)
```

"""

_REASONS = """
### Reasons

The column SAID of `runs`, and `reason` in JSON. These words begin the reasons of runs that did not
end by their work:

"""

_TRIGGERS = """
### Triggers

What made a run:

"""

_JOBS = """
## Jobs

"""

_DELIVERIES = """
## Deliveries

The state of a run's output on its way to people. A delivery that fails never runs the job again.

"""

_INCIDENTS = """
## Incidents

An incident is a trouble that a person should know of. Its notice is sent at the 1st, 3rd, 10th,
30th, 100th ... time, until somebody acknowledges it with `hermes-celery incidents ack ID`. When the
trouble is over, a notice says so.

"""


def page() -> str:
    """Return the whole page."""
    return "".join(
        [
            _HEAD,
            _runs(),
            _REASONS,
            _members(EndReason, "Reason"),
            _TRIGGERS,
            _members(Trigger, "Trigger"),
            _JOBS,
            _members(JobState, "State"),
            _DELIVERIES,
            _members(DeliveryState, "State"),
            _INCIDENTS,
            _members(TroubleKind, "Kind"),
        ]
    )


def _runs() -> str:
    meanings = comments_of(RunState)
    rows = [
        (
            code(state.value),
            meanings[state.name],
            "yes" if state.is_final else "no",
            "yes" if state in FAILED else "no",
        )
        for state in RunState
    ]
    return table(["State", "Meaning", "Final", "Makes an incident"], rows)


def _members(words: type[StrEnum], head: str) -> str:
    meanings = comments_of(words)
    if silent := [member.name for member in words if not meanings[member.name]]:
        raise ValueError(f"{words.__name__}: say in a comment what {silent} mean")
    rows = [(code(_shown(member)), meanings[member.name]) for member in words]
    return table([head, "Meaning"], rows)


def _shown(member: StrEnum) -> str:
    return word_of(member.value) if isinstance(member, JobState) else member.value
