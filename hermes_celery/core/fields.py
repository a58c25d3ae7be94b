"""Define every field of a job, once, in one table.

To add a field, give it an attribute (in `job.JobFields`, or in `policy.Policy` for one `inside`
the policy) and an entry here. The table drives the options of `add` and `edit`, how a field is
cleared and checked, `show` and JSON, imports from Hermes and `beat_schedule`, and whether a change
re-plans the job. Rules about several fields are in `job_checks`: which fields go together, and
whether the schedule can run at all.

Facts that no user chooses, such as a job's id or who declares it, are not fields.
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
from hermes_celery.core.task_call import (
    MAX_TASK_NAME,
    call_text,
    checked_priority,
    checked_task,
    queue_name,
)
from hermes_celery.core.work import HttpCall, WorkKind
from hermes_celery.instant import optional_from_ms
from hermes_celery.masking.output import without_credentials
from hermes_celery.masking.server_urls import without_password, without_passwords_in
from hermes_celery.masking.urls import masked, masked_path
from hermes_celery.schedule.parsing import MAX_LENGTH

#: Seconds of a day, the longest time limit of a run.
_DAY: Final = 86_400
_MONTH: Final = 31 * _DAY


_AGENTS: Final = frozenset((WorkKind.AGENT,))
_ON_THIS_MACHINE: Final = frozenset((WorkKind.AGENT, WorkKind.SCRIPT))
#: The kinds of work with time limits of a job; a Celery task has those of its project.
_LIMITED: Final = frozenset((WorkKind.AGENT, WorkKind.SCRIPT, WorkKind.HTTP))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPart:
    """One of several options that together make the value of one field."""

    name: str
    option: str
    help: str
    metavar: str = "TEXT"
    is_many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a job.

    A value has three forms: the text that a user types, the Python value (an attribute of
    `JobRequest`), and the stored value (an attribute of `JobSpec`, mostly of the same name).
    """

    #: The name in Python, and everywhere else unless another name is set below.
    name: str
    #: The value that holds the field: "policy", or "" for the job itself.
    inside: str = ""
    #: One sentence for the command line's help and the reference page.
    help: str = ""

    # --- typed
    #: The spellings of the option; empty if the field has no option.
    option: tuple[str, ...] = ()
    metavar: str = "TEXT"
    read: Callable[[str], Any] = texts.as_typed
    #: The option is a yes/no switch without a value.
    is_switch: bool = False
    #: The value is a list; the option is repeated for each item.
    is_many: bool = False
    #: Number of arguments that the option takes.
    words: int = 1
    #: Further options, and the function that reads all texts and makes one value of them.
    parts: tuple[FieldPart, ...] = ()
    join: Callable[[Any, Mapping[str, Any]], Any] | None = None

    # --- given
    #: The value of a field that is cleared or not given.
    empty: Any = None
    #: The field can be changed, but not cleared.
    is_required: bool = False
    #: The field that this one depends on, and the value it needs there (None: any). An edit that
    #: removes that value clears this field too.
    goes_with: str = ""
    goes_with_value: Any = None

    #: The kinds of work that use the field; empty means all of them.
    kinds: frozenset[WorkKind] = frozenset()

    # --- stored
    stored: str = ""
    #: Checks a value and returns what to store. None: `job_checks` does it with the schedule.
    check: Callable[[Any], Any] | None = texts.as_typed
    #: The smallest and largest value that is accepted, for the reference page.
    limits: str = ""
    #: Converts the stored value back to the Python value.
    given: Callable[[Any], Any] = texts.as_typed
    #: The field decides when the job runs; a change re-plans the job.
    is_timing: bool = False
    #: A change also starts a new grid for an interval.
    is_grid: bool = False
    #: The field decides where the output goes; a change checks the targets again.
    is_delivery: bool = False
    #: Why nothing uses the field; "" if something does.
    inert: str = ""

    # --- shown
    #: The row of `show`, which several fields may share; "" if `show` prints it elsewhere.
    row: str = ""
    #: Formats a value for people; an instant is passed in the reader's time zone.
    show: Callable[[Any], str] = str
    #: Masks the secret part of a value; None if the field holds no secret.
    hide: Callable[[Any], Any] | None = None
    #: The key in `--json`; "" for the name in Python.
    json: str = ""

    # --- called elsewhere
    #: Its keys in a job of Hermes' jobs.json, the newest first; empty if Hermes has no such field.
    hermes: tuple[str, ...] = ()
    #: Its key in an entry of Celery's `beat_schedule`, or among that entry's `options`.
    beat_schedule: str = ""
    beat_option: str = ""
    #: Converts Celery's value to ours.
    from_celery: Callable[[Any], Any] = texts.as_typed

    @property
    def attribute(self) -> str:
        """The attribute of `JobSpec` that stores the field."""
        return self.stored or self.name

    @property
    def key(self) -> str:
        """The field's key in `--json`."""
        return self.json or self.name

    def of(self, spec: Any) -> Any:
        """Return the field's stored value in a definition."""
        holder = getattr(spec, self.inside) if self.inside else spec
        return getattr(holder, self.attribute)

    def is_set(self, value: Any) -> bool:
        """Return whether a value differs from an unset field."""
        return value not in (None, "", ()) and value != self.empty

    def text(self, value: Any) -> str:
        """Format a value for people, with its secrets masked."""
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


def _characters(most: int) -> str:
    return f"at most {most:,} characters"


def _words(words: type[StrEnum]) -> dict[str, Any]:
    return {"metavar": f"[{'|'.join(words)}]", "read": texts.word_of(words)}


def _policy(name: str, option: str, *, most: float = 0, least: float = 0, **more: Any) -> Field:
    """Return a field of the policy; with `most`, it takes a whole number up to that."""
    check = checks.NumberWithin(name, least, most)
    number = {
        "metavar": "SECONDS" if name.endswith("_seconds") else "N",
        "read": texts.whole,
        "check": check,
        "limits": check.limits,
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
    check = checks.NumberWithin(name, least, most)
    return Field(name=name, option=(option,), check=check, limits=check.limits, **more)


_TIMING: Final = (
    Field(
        name="schedule",
        option=("--schedule",),
        help="When the job runs: cron, an interval, a time or a phrase; it takes effect now.",
        is_required=True,
        check=None,
        limits=_characters(MAX_LENGTH),
        is_timing=True,
        is_grid=True,
        hermes=("schedule",),
        beat_schedule="schedule",
    ),
    Field(
        name="timezone",
        option=("--timezone", "--tz"),
        metavar="ZONE",
        help="Time zone of the schedule, such as Europe/Berlin (default: HERMES_TIMEZONE, else "
        "that of this machine).",
        check=None,
        is_timing=True,
    ),
    Field(
        name="repeat",
        option=("--repeat",),
        metavar="N",
        help="Number of runs after which the job is completed, or `once` or `forever` (default: "
        "once for a single time, else forever).",
        read=texts.repeat,
        stored="repeat_times",
        check=None,
        limits=f"at most {checks.MAX_REPEAT:,}",
        hermes=("repeat",),
    ),
    Field(
        name="start",
        option=("--start",),
        metavar="TIME",
        help="Earliest time of a run, in ISO format such as 2027-03-28T14:00.",
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
        help="Latest time of a run, in ISO format such as 2027-03-28T14:00.",
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
        help="Times at which the job does not run: a date, a span of dates or a cron expression "
        'such as "* * 24-26 12 *"; may be given several times.',
        is_many=True,
        empty=(),
        check=checks.stripped_list,
        is_timing=True,
        row="bounds",
        show=lambda values: f"except {' | '.join(values)}",
    ),
    Field(
        name="jitter_seconds",
        option=("--jitter",),
        metavar="SECONDS",
        help="Delay each run by up to SECONDS; one occurrence always gets the same delay "
        "(default: 0).",
        read=texts.whole,
        empty=0,
        limits="0 or more",
        is_timing=True,
        row="bounds",
        show=_as("jitter {} s"),
    ),
)

_WORK: Final = (
    Field(
        name="prompt",
        option=("--prompt",),
        help="Text that the agent works on.",
        check=checks.checked_prompt,
        limits=_characters(checks.MAX_PROMPT),
        kinds=_AGENTS,
        row="prompt",
        hermes=("prompt",),
    ),
    Field(
        name="script",
        option=("--script",),
        help="Script to run, as a path inside the scripts directory ($HERMES_HOME/scripts).",
        check=checks.checked_script,
        row="script",
        hermes=("script",),
    ),
    Field(
        name="no_agent",
        option=("--no-agent/--agent",),
        help="Run the script alone, or pass its output to the agent (default: --agent).",
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
        help="Program that runs the script instead of bash or Python, from a directory that "
        "HERMES_CELERY_INTERPRETERS allows.",
        check=checks.checked_interpreter,
        goes_with="script",
        row="interpreter",
    ),
    Field(
        name="workdir",
        kinds=_ON_THIS_MACHINE,
        option=("--workdir",),
        metavar="DIR",
        help="Absolute path of the directory in which the agent or script runs.",
        check=checks.checked_workdir,
        row="workdir",
        hermes=("workdir",),
    ),
    Field(
        name="skills",
        option=("--skill",),
        help="Skill that is added to the agent's prompt; may be given several times.",
        is_many=True,
        empty=(),
        check=checks.stripped_list,
        kinds=_AGENTS,
        row="skills",
        show=_comma_list,
        hermes=("skills", "skill"),
    ),
    Field(
        name="context_from",
        option=("--context-from",),
        metavar="JOB",
        help="Job whose latest output is added to the agent's prompt; may be given several times.",
        is_many=True,
        given=lambda ids: ids or None,
        check=checks.stripped_list,
        kinds=_AGENTS,
        row="context from",
        show=_comma_list,
        hermes=("context_from",),
    ),
    Field(
        name="model",
        option=("--model",),
        help="Model that the agent uses.",
        check=checks.stripped,
        kinds=_AGENTS,
        row="model",
        hermes=("model",),
    ),
    Field(
        name="provider",
        option=("--provider",),
        help="Provider of the agent's model.",
        check=checks.stripped,
        kinds=_AGENTS,
        row="provider",
        hermes=("provider",),
    ),
    Field(
        name="base_url",
        option=("--base-url",),
        metavar="URL",
        help="URL of the provider's API.",
        check=checks.checked_base_url,
        kinds=_AGENTS,
        row="base url",
        hide=without_passwords_in,
        hermes=("base_url",),
    ),
    Field(
        name="reasoning",
        option=("--reasoning",),
        help="Reasoning effort of the agent, in a word that the agent knows.",
        check=checks.checked_reasoning,
        limits=checks.SHARED_NAME,
        kinds=_AGENTS,
        row="reasoning",
    ),
    Field(
        name="enabled_toolsets",
        option=("--toolset",),
        help="Toolset that the agent may use, to be given once for each; it may use no other.",
        is_many=True,
        check=checks.stripped_list_or_none,
        kinds=_AGENTS,
        row="toolsets",
        show=_comma_list,
        hermes=("enabled_toolsets",),
    ),
    Field(
        name="attach_to_session",
        is_switch=True,
        empty=False,
        inert="kept for Hermes; hermes-celery does not use it",
        row="attach",
        show=_yes,
        hermes=("attach_to_session",),
    ),
    Field(
        name="http",
        option=("--http",),
        metavar="METHOD URL",
        help="HTTP request to send, such as `POST https://example.com/hook`.",
        words=2,
        parts=(
            FieldPart(name="headers", option="--header", metavar="NAME:VALUE", is_many=True,
                      help="Header of the --http request; may be given several times."),
            FieldPart(name="body", option="--body", help="Body of the --http request."),
            FieldPart(name="expect", option="--expect", metavar="STATUS,...",
                      help="Status codes that mean success of the --http request (default: any "
                           "2xx)."),
        ),
        join=texts.http,
        check=checks.checked_http,
        limits=f"{', '.join(checks.METHODS)}; statuses {checks.MIN_STATUS} to {checks.MAX_STATUS}",
        row="request",
        hide=_without_credentials,
        show=texts.request_text,
    ),
    Field(
        name="task",
        option=("--task",),
        metavar="NAME",
        help="Name of the Celery task of your project to call.",
        parts=(
            FieldPart(name="task_args", option="--args", metavar="JSON",
                      help="Positional arguments of the --task call, as a JSON list."),
            FieldPart(name="task_kwargs", option="--kwargs", metavar="JSON",
                      help="Keyword arguments of the --task call, as a JSON object."),
        ),
        join=texts.task,
        check=checked_task,
        limits=f"a name of {_characters(MAX_TASK_NAME)}",
        row="task",
        show=call_text,
        beat_schedule="task",
    ),
)  # fmt: skip

_RUNS: Final = (
    Field(
        name="session",
        option=("--session",),
        help="Whether runs see who the job was made for: `origin` shows it, `none` hides it "
        "(default: HERMES_CELERY_SESSION, else origin).",
        **_words(SessionSource),
        check=checks.checked_session,
        row="session",
    ),
    Field(
        name="queue",
        option=("--queue",),
        help="Celery queue of the job's runs; start a worker for it with `celery worker -Q NAME`.",
        check=checks.checked_queue,
        limits=checks.QUEUE_NAME,
        row="queue",
        beat_option="queue",
        from_celery=queue_name,
    ),
    _number(
        "priority",
        "--priority",
        metavar="N",
        help=f"Priority of the job's runs on their queue: 0 is taken first, 9 to "
        f"{checks.MAX_PRIORITY} last.",
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
        help="Stop a run after SECONDS; a Celery task has the limits of its project instead.",
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
        help="Stop a run after SECONDS without output or other activity; 0 turns this off "
        "(default: HERMES_CRON_TIMEOUT for an agent, else 0).",
        read=texts.number,
        least=0,
        most=_DAY,
        row="limits",
        show=_as("idle {:g} s"),
    ),
    Field(
        name="group",
        option=("--group",),
        help="Group of jobs that share one limit of simultaneous runs; needs --group-limit.",
        check=checks.checked_group,
        limits=checks.SHARED_NAME,
        row="limits",
        show=_as("group {}"),
    ),
    _number(
        "group_limit",
        "--group-limit",
        metavar="N",
        help="Largest number of runs of the --group at the same time; further runs wait.",
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
        help="Tokens that the agent may use per day (UTC) before the job pauses.",
        read=texts.whole,
        least=1,
        most=checks.LARGEST,
        kinds=_AGENTS,
        row="limits",
        show=_as("{:,} tokens a day"),
    ),
    _number(
        "cost_budget",
        "--cost-budget",
        metavar="USD",
        help="US dollars that the agent may cost per day (UTC) before the job pauses.",
        read=texts.number,
        least=1e-6,
        most=checks.LARGEST,
        kinds=_AGENTS,
        row="limits",
        show=_as("{:g} USD a day"),
    ),
)

_DELIVERY: Final = (
    Field(
        name="deliver",
        option=("--deliver",),
        help="Where the output goes: local, origin, all, a platform such as telegram, a chat, a "
        "target's name or a URL, several separated by commas (default: the origin if there is "
        "one, else local).",
        check=checks.stripped,
        is_delivery=True,
        row="deliver",
        hide=masked,
        hermes=("deliver",),
    ),
    Field(
        name="failure_deliver",
        option=("--failure-deliver",),
        help="Where reports of failures go, in the words of --deliver (default: as --deliver).",
        check=checks.stripped,
        is_delivery=True,
        row="on failure",
        hide=masked,
    ),
    Field(
        name="template",
        option=("--template",),
        help="Jinja2 template of the message, with the values `job`, `run` and `output` (default: "
        "Hermes' header, the output and Hermes' footer).",
        check=lambda text: text or None,
        limits=_characters(checks.MAX_TEMPLATE),
        is_delivery=True,
        row="template",
    ),
    Field(
        name="ping",
        option=("--ping",),
        metavar="URL",
        help="URL of a dead-man switch, such as one of healthchecks.io, to call at the start and "
        "end of each run.",
        check=checks.stripped,
        is_delivery=True,
        row="ping",
        hide=masked_path,
    ),
    Field(
        name="origin",
        option=("--origin",),
        metavar="JSON",
        help="User and chat that the job was made for, in JSON such as "
        '{"platform": "telegram", "chat_id": "5"}.',
        read=texts.origin,
        row="origin",
        show=origin_text,
        hermes=("origin",),
    ),
)

_POLICY: Final = (
    _policy(
        "catch_up",
        "--catch-up",
        help="What to do with missed occurrences: run the `latest` only, run `all` of them, or "
        "`skip` those that are later than --grace (default: latest). A job for a single time runs "
        "however late.",
        **_words(CatchUp),
    ),
    _policy(
        "catch_up_limit",
        "--catch-up-limit",
        least=1,
        most=1000,
        help="Largest number of missed occurrences that --catch-up all runs; it runs the latest "
        "ones (default: 100).",
        goes_with="catch_up",
        goes_with_value=CatchUp.ALL,
    ),
    _policy(
        "grace_seconds",
        "--grace",
        most=_MONTH,
        help="Seconds by which an occurrence may be late and still count as on time (default: "
        "half the time to the next one, within 120 and 7200).",
    ),
    _policy(
        "expires_seconds",
        "--expires",
        least=1,
        most=_MONTH,
        help="Skip a run that no worker has started SECONDS after its due time (default: never).",
    ),
    _policy(
        "overlap",
        "--overlap",
        help="What to do with an occurrence while an earlier run is not over: skip it, allow both, "
        "queue one until the earlier run ends, or cancel and replace that run (default: skip).",
        **_words(Overlap),
    ),
    _policy(
        "max_active",
        "--max-active",
        least=1,
        most=MAX_ACTIVE,
        help="Largest number of runs of the job at the same time with --overlap allow (default: "
        "10).",
        goes_with="overlap",
        goes_with_value=Overlap.ALLOW,
    ),
    _policy(
        "retries",
        "--retries",
        most=100,
        help="Number of further attempts after a failed one (default: 0).",
    ),
    _policy(
        "retry_wait_seconds",
        "--retry-wait",
        least=1,
        most=_DAY,
        help="Seconds to wait before the first further attempt, doubled before each later one "
        "(default: 30).",
    ),
    _policy(
        "retry_max_seconds",
        "--retry-max",
        least=1,
        most=_DAY,
        help="Longest wait between two attempts, in seconds (default: 3600).",
    ),
    _policy(
        "on_lost",
        "--on-lost",
        help="What to do with a run whose worker died: `fail` ends it, so that it starts at most "
        "once, and `retry` starts it again (default: the acks_late setting of a Celery task, else "
        "fail).",
        **_words(OnLost),
    ),
    _policy(
        "pause_after",
        "--pause-after",
        least=1,
        most=1000,
        help="Pause the job after N failed runs in a row (default: never).",
    ),
)

#: The fields by the headings of the reference page, in the order of `show` and of the options.
GROUPS: Final[Mapping[str, tuple[Field, ...]]] = {
    "When it runs": (
        Field(name="name", option=("--name",),
              help="Name of the job, which need not be unique (default: made from what it does).",
              check=checks.stripped, limits=_characters(checks.MAX_NAME), hermes=("name",)),
        *_TIMING,
    ),
    "What it does": _WORK,
    "How its runs are treated": _RUNS,
    "Where the output goes": _DELIVERY,
    "Policies": _POLICY,
}  # fmt: skip
#: All fields, in the same order.
FIELDS: Final = tuple(field for fields in GROUPS.values() for field in fields)
BY_NAME: Final[Mapping[str, Field]] = {field.name: field for field in FIELDS}
#: The values that hold fields.
HOLDERS: Final = tuple(dict.fromkeys(field.inside for field in FIELDS if field.inside))
#: The fields that decide when the job runs, by name and by attribute of `JobSpec`.
TIMING_NAMES: Final = frozenset(field.name for field in FIELDS if field.is_timing)
TIMING: Final = tuple(field.attribute for field in FIELDS if field.is_timing)
#: The attributes whose change starts a new grid for an interval.
GRID: Final = tuple(field.attribute for field in FIELDS if field.is_grid)
#: The fields that decide where the output goes.
DELIVERY: Final = frozenset(field.name for field in FIELDS if field.is_delivery)


def taken_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the fields that Celery keeps among a message's options and return them.

    Raises JobError.
    """
    return {
        field.name: field.from_celery(options.pop(field.beat_option, None))
        for field in FIELDS
        if field.beat_option
    }
