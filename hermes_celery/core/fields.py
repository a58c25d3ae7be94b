"""The table of a job's fields: each is written down here once.

To add a field, give it an attribute (in `job.JobFields`, or in `policy.Policy` for one `inside`
the policy) and an entry here. The options of `add` and `edit`, what clears it, its checks, `show`
and JSON, what an import from Hermes and a `beat_schedule` read, and whether a change of it plans
the job anew all follow. What needs more than one field stands in `job_checks`: which fields go
together, and that the schedule can run at all.

What is no wish of anybody's, such as a job's id and who declares it, is no field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from hermes_celery.core import field_checks as checks
from hermes_celery.core import field_texts as texts
from hermes_celery.core.origin import SessionSource, origin_text
from hermes_celery.core.policy import MAX_ACTIVE, CatchUp, OnLost, Overlap, Policy
from hermes_celery.core.task_call import call_text, checked_priority, checked_task, queue_name
from hermes_celery.core.work import HttpCall, WorkKind
from hermes_celery.instant import optional_from_ms
from hermes_celery.masking.output import without_credentials
from hermes_celery.masking.server_urls import without_password, without_passwords_in
from hermes_celery.masking.urls import masked, masked_path

_LARGEST: Final = 2.0**53
#: A day: no single run is meant to last longer.
_DAY: Final = 86_400
_MONTH: Final = 31 * _DAY


_AGENTS: Final = frozenset((WorkKind.AGENT,))
_ON_THIS_MACHINE: Final = frozenset((WorkKind.AGENT, WorkKind.SCRIPT))
#: A Celery task has the limits that its project gives it.
_LIMITED: Final = frozenset((WorkKind.AGENT, WorkKind.SCRIPT, WorkKind.HTTP))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPart:
    """One of several options that are typed apart and stored as one field."""

    name: str
    option: str
    help: str
    metavar: str = "TEXT"
    is_many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a job.

    A value has three forms: the text that somebody types, what Python gives (an attribute of
    `JobRequest`), and what is stored (an attribute of `JobSpec`, mostly of the same name).
    """

    #: What Python calls it, and whoever else has no word of its own for it.
    name: str
    #: The value that holds it: "policy", or "" for the job itself.
    inside: str = ""
    help: str = ""

    # --- typed
    #: The spellings of its option; none: it is not typed.
    option: tuple[str, ...] = ()
    metavar: str = "TEXT"
    read: Callable[[str], Any] = texts.as_typed
    #: It is yes or no: an option without a value.
    is_switch: bool = False
    #: It is a list: its option is given once for each.
    is_many: bool = False
    #: How many texts its option takes.
    words: int = 1
    #: More options, and what makes one value of them all; that one reads the texts then.
    parts: tuple[FieldPart, ...] = ()
    join: Callable[[Any, Mapping[str, Any]], Any] | None = None

    # --- given
    #: What it is when it is cleared, or not given.
    empty: Any = None
    #: It can be changed, but not cleared.
    is_required: bool = False
    #: The field without which it means nothing, and with which value (None: any). It goes when an
    #: edit takes that away.
    goes_with: str = ""
    goes_with_value: Any = None

    #: The kinds of work that read it; none: it is read for all of them.
    kinds: frozenset[WorkKind] = frozenset()

    # --- stored
    stored: str = ""
    #: What is stored of a value. None: `job_checks` says so together with the schedule.
    check: Callable[[Any], Any] | None = texts.as_typed
    #: Back from what is stored.
    given: Callable[[Any], Any] = texts.as_typed
    #: It says when the job runs: a change plans the job anew.
    is_timing: bool = False
    #: A change of it begins a new grid of an interval, too.
    is_grid: bool = False
    #: It says where the output goes: a change checks that.
    is_delivery: bool = False
    #: Why nothing acts on it; "": something does.
    inert: str = ""

    # --- shown
    #: The row of `show`; fields of one row follow each other in it. "": it stands elsewhere.
    row: str = ""
    #: As text, for people; an instant comes in the reader's zone.
    show: Callable[[Any], str] = str
    #: What of it may be seen; None: all. It is a secret, in part or whole, where this is set.
    hide: Callable[[Any], Any] | None = None
    #: What `--json` calls it; "": as Python does.
    json: str = ""

    # --- called elsewhere
    #: Its keys in a job of Hermes' jobs.json, the newest first; none: Hermes has no such field.
    hermes: tuple[str, ...] = ()
    #: Its key in an entry of Celery's `beat_schedule`, or among that entry's `options`.
    beat_schedule: str = ""
    beat_option: str = ""
    #: What it is there, as what it is here.
    from_celery: Callable[[Any], Any] = texts.as_typed

    @property
    def attribute(self) -> str:
        """Its attribute of `JobSpec`."""
        return self.stored or self.name

    @property
    def key(self) -> str:
        """What `--json` calls it."""
        return self.json or self.name

    def of(self, spec: Any) -> Any:
        """What is stored of it in a definition."""
        holder = getattr(spec, self.inside) if self.inside else spec
        return getattr(holder, self.attribute)

    def is_set(self, value: Any) -> bool:
        """Whether a value says anything."""
        return value not in (None, "", ()) and value != self.empty

    def text(self, value: Any) -> str:
        """A value for people, without what is secret of it."""
        return self.show(value if self.hide is None else self.hide(value))


# --- how values are shown


def _comma_list(values: tuple[str, ...]) -> str:
    return ", ".join(values)


def _yes(value: bool) -> str:
    return "yes"


def _as(template: str) -> Callable[[Any], str]:
    return template.format


def _instant(word: str) -> Callable[[Any], str]:
    return lambda value: f"{word} {value:%Y-%m-%d %H:%M:%S}"


def _without_credentials(call: HttpCall) -> HttpCall:
    return msgspec.structs.replace(
        call, url=without_password(call.url), headers=without_credentials(call.headers)
    )


# --- entries that are alike


def _words(words: type[StrEnum]) -> dict[str, Any]:
    return {"metavar": f"[{'|'.join(words)}]", "read": texts.word_of(words)}


def _policy(name: str, option: str, *, most: float = 0, least: float = 0, **more: Any) -> Field:
    """A field of the policy; with `most` it is a whole number."""
    number = {
        "metavar": "SECONDS" if name.endswith("_seconds") else "N",
        "read": texts.whole,
        "check": checks.number_within(name, least, most),
    }
    return Field(
        name=name,
        option=(option,),
        inside="policy",
        empty=getattr(Policy(), name),
        row="policy",
        show=_as(f"{name} {{}}"),
        **{**(number if most else {}), **more},
    )


def _number(name: str, option: str, *, least: float, most: float, **more: Any) -> Field:
    return Field(name=name, option=(option,), check=checks.number_within(name, least, most), **more)


_TIMING: Final = (
    Field(
        name="schedule",
        option=("--schedule",),
        help="A new schedule; it begins now.",
        is_required=True,
        check=None,
        is_timing=True,
        is_grid=True,
        hermes=("schedule",),
        beat_schedule="schedule",
    ),
    Field(
        name="timezone",
        option=("--timezone", "--tz"),
        metavar="ZONE",
        help="Such as Europe/Berlin.",
        check=None,
        is_timing=True,
    ),
    Field(
        name="repeat",
        option=("--repeat",),
        metavar="N",
        help="How often: a number, once or forever.",
        read=texts.repeat,
        stored="repeat_times",
        check=None,
        hermes=("repeat",),
    ),
    Field(
        name="start",
        option=("--start",),
        metavar="TIME",
        help="Not before this time.",
        read=texts.time,
        stored="start_ms",
        check=checks.instant,
        given=optional_from_ms,
        is_timing=True,
        is_grid=True,
        row="bounds",
        show=_instant("from"),
        json="start_at",
    ),
    Field(
        name="end",
        option=("--end",),
        metavar="TIME",
        help="Not after this time.",
        read=texts.time,
        stored="end_ms",
        check=checks.instant,
        given=optional_from_ms,
        is_timing=True,
        row="bounds",
        show=_instant("until"),
        json="end_at",
    ),
    Field(
        name="exclude",
        option=("--except",),
        metavar="EXPR",
        help='Not on these: a date, or a cron expression such as "* * 24-26 12 *".',
        is_many=True,
        empty=(),
        check=checks.clean,
        is_timing=True,
        row="bounds",
        show=lambda values: f"except {' | '.join(values)}",
    ),
    Field(
        name="jitter_seconds",
        option=("--jitter",),
        metavar="SECONDS",
        help="Spread its runs by up to so much, the same way each time.",
        read=texts.whole,
        empty=0,
        is_timing=True,
        row="bounds",
        show=_as("jitter {} s"),
    ),
)

_WORK: Final = (
    Field(
        name="prompt",
        option=("--prompt",),
        help="A new prompt.",
        check=checks.checked_prompt,
        kinds=_AGENTS,
        row="prompt",
        hermes=("prompt",),
    ),
    Field(
        name="script",
        option=("--script",),
        help="A file of the scripts directory.",
        check=checks.checked_script,
        row="script",
        hermes=("script",),
    ),
    Field(
        name="no_agent",
        option=("--no-agent/--agent",),
        help="Run the script alone, or hand its output to the agent.",
        is_switch=True,
        empty=False,
        goes_with="script",
        row="no_agent",
        show=_yes,
        hermes=("no_agent",),
    ),
    Field(
        name="interpreter",
        option=("--interpreter",),
        metavar="PROGRAM",
        help="Runs the script; in an allowed place.",
        check=checks.checked_interpreter,
        goes_with="script",
        row="interpreter",
    ),
    Field(
        name="workdir",
        kinds=_ON_THIS_MACHINE,
        option=("--workdir",),
        metavar="DIR",
        help="Where it runs; absolute.",
        check=checks.checked_workdir,
        row="workdir",
        hermes=("workdir",),
    ),
    Field(
        name="skills",
        option=("--skill",),
        help="May be given several times.",
        is_many=True,
        empty=(),
        check=checks.clean,
        kinds=_AGENTS,
        row="skills",
        show=_comma_list,
        hermes=("skills", "skill"),
    ),
    Field(
        name="context_from",
        option=("--context-from",),
        metavar="JOB",
        help="A job whose output it gets.",
        is_many=True,
        given=lambda ids: ids or None,
        check=checks.clean,
        kinds=_AGENTS,
        row="context from",
        show=_comma_list,
        hermes=("context_from",),
    ),
    Field(
        name="model",
        option=("--model",),
        help="The agent's model.",
        check=checks.stripped,
        kinds=_AGENTS,
        row="model",
        hermes=("model",),
    ),
    Field(
        name="provider",
        option=("--provider",),
        help="The model's provider.",
        check=checks.stripped,
        kinds=_AGENTS,
        row="provider",
        hermes=("provider",),
    ),
    Field(
        name="base_url",
        option=("--base-url",),
        metavar="URL",
        help="Where the provider answers.",
        check=checks.checked_base_url,
        kinds=_AGENTS,
        row="base url",
        hide=without_passwords_in,
        hermes=("base_url",),
    ),
    Field(
        name="reasoning",
        option=("--reasoning",),
        help="The agent's reasoning effort.",
        check=checks.checked_reasoning,
        kinds=_AGENTS,
        row="reasoning",
    ),
    Field(
        name="enabled_toolsets",
        option=("--toolset",),
        help="The only ones it may use.",
        is_many=True,
        check=checks.clean_or_none,
        kinds=_AGENTS,
        row="toolsets",
        show=_comma_list,
        hermes=("enabled_toolsets",),
    ),
    Field(
        name="attach_to_session",
        is_switch=True,
        empty=False,
        inert="Hermes' own; nothing here acts on it",
        row="attach",
        show=_yes,
        hermes=("attach_to_session",),
    ),
    Field(
        name="http",
        option=("--http",),
        metavar="METHOD URL",
        help="Send this request.",
        words=2,
        parts=(
            FieldPart(name="headers", option="--header", metavar="NAME:VALUE", is_many=True,
                      help="With --http."),
            FieldPart(name="body", option="--body", help="With --http."),
            FieldPart(name="expect", option="--expect", metavar="STATUS,...",
                      help="With --http; default: any 2xx."),
        ),
        join=texts.http,
        check=checks.checked_http,
        row="request",
        hide=_without_credentials,
        show=texts.request_text,
    ),
    Field(
        name="task",
        option=("--task",),
        metavar="NAME",
        help="Call this Celery task of your project.",
        parts=(
            FieldPart(name="task_args", option="--args", metavar="JSON",
                      help="With --task: a list."),
            FieldPart(name="task_kwargs", option="--kwargs", metavar="JSON",
                      help="With --task: an object."),
        ),
        join=texts.task,
        check=checked_task,
        row="task",
        show=call_text,
        beat_schedule="task",
    ),
)  # fmt: skip

_RUNS: Final = (
    Field(
        name="session",
        option=("--session",),
        help="Whether its runs see who it was made for.",
        **_words(SessionSource),
        check=checks.checked_session,
        row="session",
    ),
    Field(
        name="queue",
        option=("--queue",),
        help="The Celery queue of its runs: `celery worker -Q NAME`.",
        check=checks.checked_queue,
        row="queue",
        beat_option="queue",
        from_celery=queue_name,
    ),
    _number(
        "priority",
        "--priority",
        metavar="N",
        help=f"0 is taken first, 9 and more last; up to {checks.MAX_PRIORITY}.",
        read=texts.whole,
        least=0,
        most=checks.MAX_PRIORITY,
        row="priority",
        beat_option="priority",
        from_celery=checked_priority,
    ),
    _number(
        "timeout_seconds",
        "--timeout",
        kinds=_LIMITED,
        metavar="SECONDS",
        help="Then it is ended.",
        read=texts.number,
        least=0.1,
        most=_DAY,
        row="limits",
        show=_as("timeout {:g} s"),
    ),
    _number(
        "idle_timeout_seconds",
        "--idle-timeout",
        kinds=_LIMITED,
        metavar="SECONDS",
        help="Ended after so long without activity.",
        read=texts.number,
        least=0,
        most=_DAY,
        row="limits",
        show=_as("idle {:g} s"),
    ),
    Field(
        name="group",
        option=("--group",),
        help="Counted together with the other jobs of this group.",
        check=checks.checked_group,
        row="limits",
        show=_as("group {}"),
    ),
    _number(
        "group_limit",
        "--group-limit",
        metavar="N",
        help="Runs of the group at once.",
        read=texts.whole,
        least=1,
        most=10_000,
        goes_with="group",
        row="limits",
        show=_as("{} at once in it"),
    ),
    _number(
        "token_budget",
        "--token-budget",
        metavar="N",
        help="Per day; then the job pauses.",
        read=texts.whole,
        least=1,
        most=_LARGEST,
        kinds=_AGENTS,
        row="limits",
        show=_as("{:,} tokens a day"),
    ),
    _number(
        "cost_budget",
        "--cost-budget",
        metavar="USD",
        help="Per day; then the job pauses.",
        read=texts.number,
        least=1e-6,
        most=_LARGEST,
        kinds=_AGENTS,
        row="limits",
        show=_as("{:g} USD a day"),
    ),
)

_DELIVERY: Final = (
    Field(
        name="deliver",
        option=("--deliver",),
        help="Where the output goes: local, origin, telegram, ...",
        check=checks.stripped,
        is_delivery=True,
        row="deliver",
        hide=masked,
        hermes=("deliver",),
    ),
    Field(
        name="failure_deliver",
        option=("--failure-deliver",),
        help="Where failures go; else as --deliver.",
        check=checks.stripped,
        is_delivery=True,
        row="on failure",
        hide=masked,
    ),
    Field(
        name="template",
        option=("--template",),
        help="The message, in Jinja2: job, run, output.",
        check=lambda text: text or None,
        is_delivery=True,
        row="template",
    ),
    Field(
        name="ping",
        option=("--ping",),
        metavar="URL",
        help="A dead-man switch (healthchecks.io).",
        check=checks.stripped,
        is_delivery=True,
        row="ping",
        hide=masked_path,
    ),
    Field(
        name="origin",
        option=("--origin",),
        metavar="JSON",
        help='Who it is for: {"platform": "telegram", "chat_id": "5"}.',
        read=texts.origin,
        row="origin",
        show=origin_text,
        hermes=("origin",),
    ),
)

_POLICY: Final = (
    _policy("catch_up", "--catch-up", help="Which missed occurrences run.", **_words(CatchUp)),
    _policy(
        "catch_up_limit",
        "--catch-up-limit",
        least=1,
        most=1000,
        help="With --catch-up all.",
        goes_with="catch_up",
        goes_with_value=CatchUp.ALL,
    ),
    _policy("grace_seconds", "--grace", most=_MONTH, help="How late is still on time."),
    _policy(
        "expires_seconds",
        "--expires",
        least=1,
        most=_MONTH,
        help="Drop a run that no worker took so long after its time.",
    ),
    _policy(
        "overlap",
        "--overlap",
        help="What to do while an earlier run is not over.",
        **_words(Overlap),
    ),
    _policy(
        "max_active",
        "--max-active",
        least=1,
        most=MAX_ACTIVE,
        help="With --overlap allow.",
        goes_with="overlap",
        goes_with_value=Overlap.ALLOW,
    ),
    _policy("retries", "--retries", most=100, help="Further attempts after a failed one."),
    _policy(
        "retry_wait_seconds",
        "--retry-wait",
        least=1,
        most=_DAY,
        help="Before the first of them; doubles each time.",
    ),
    _policy(
        "retry_max_seconds",
        "--retry-max",
        least=1,
        most=_DAY,
        help="The longest wait before one of them.",
    ),
    _policy(
        "on_lost",
        "--on-lost",
        help="What to do with a run whose worker died: at most once, or at least once.",
        **_words(OnLost),
    ),
    _policy(
        "pause_after",
        "--pause-after",
        least=1,
        most=1000,
        help="Pause it after so many failures in a row.",
    ),
)

#: Every field under the heading that it belongs to, in the order in which they are offered.
GROUPS: Final[Mapping[str, tuple[Field, ...]]] = {
    "When it runs": (
        Field(name="name", option=("--name",), help="A name; need not be unique.",
              check=checks.stripped, hermes=("name",)),
        *_TIMING,
    ),
    "What it does": _WORK,
    "How its runs are treated": _RUNS,
    "Where the output goes": _DELIVERY,
    "Policies": _POLICY,
}  # fmt: skip
#: Every field, in the order in which they are shown and offered.
FIELDS: Final = tuple(field for fields in GROUPS.values() for field in fields)
BY_NAME: Final[Mapping[str, Field]] = {field.name: field for field in FIELDS}
#: The values that hold fields.
HOLDERS: Final = tuple(dict.fromkeys(field.inside for field in FIELDS if field.inside))
#: The fields that say when the job runs, and their attributes of a definition.
TIMING_NAMES: Final = frozenset(field.name for field in FIELDS if field.is_timing)
TIMING: Final = tuple(field.attribute for field in FIELDS if field.is_timing)
#: Those of them that begin a new grid.
GRID: Final = tuple(field.attribute for field in FIELDS if field.is_grid)
#: The fields that say where the output goes.
DELIVERY: Final = frozenset(field.name for field in FIELDS if field.is_delivery)


def taken_options(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that Celery has among a message's options, taken out of those. Raises JobError."""
    return {
        field.name: field.from_celery(options.pop(field.beat_option, None))
        for field in FIELDS
        if field.beat_option
    }
