"""All variables: the name, default and meaning of each, and the attribute of `Settings` it sets.

To add a setting, add an attribute to `Settings` with its `Variable`: how its text becomes a value,
its default, and what the reference page says about it. `environment` reads them.

Variables that Hermes already uses keep their name and meaning. Variables of our own begin with
`HERMES_CELERY_`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from hermes_celery.core.server_address import BrokerNames, ServerAddress
from hermes_celery.settings import values

#: The namespace of our own app, and of every project that version 0.1.0 served.
DEFAULT_NAMESPACE = "hermes"
_DEFAULT_HOME = "~/.hermes"
_INTERPRETERS = "/usr/bin:/bin:/usr/local/bin:/opt"


class Process(StrEnum):
    """A process that a setting takes effect in."""

    COMMAND = "command line"
    BEAT = "beat"
    WORKER = "worker"


_COMMAND, _BEAT, _WORKER = (Process.COMMAND,), (Process.BEAT,), (Process.WORKER,)
_EVERYWHERE = (*_COMMAND, *_BEAT, *_WORKER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One environment variable."""

    name: str
    #: Its meaning, in sentences. Markdown, for one line of a table.
    meaning: str
    #: Converts the text. Raises ValueError.
    read: Callable[[str], Any] = str
    #: The text that is read if the variable is unset or empty.
    default: str = ""
    #: The default in words, if its text does not explain it.
    default_words: str = ""
    #: The unit of a number.
    unit: str = ""
    #: The processes that use it.
    used_by: tuple[Process, ...] = _WORKER


_METADATA = "variable"


def _read_from(variable: Variable, *, is_shown: bool = True) -> Any:
    """Declare a setting; `is_shown` is false for one that may hold a secret."""
    return field(
        default_factory=lambda: variable.read(variable.default),
        repr=is_shown,
        metadata={_METADATA: variable},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All values that the environment decides."""

    redis_url: str | None = _read_from(
        Variable(
            name="HERMES_REDIS_URL",
            read=values.server_url,
            default_words="none: the embedded server of this home",
            meaning="The Redis or Valkey server that is store and broker in one: `redis://`, "
            "`rediss://`, `unix://` or `sentinel://`. A project that uses `Cron(app)` leaves it "
            "unset, since its store is its broker.",
            used_by=_EVERYWHERE,
        ),
        is_shown=False,
    )
    home: Path = _read_from(  # noqa: RUF009
        Variable(
            name="HERMES_HOME",
            read=values.home_directory,
            default=_DEFAULT_HOME,
            meaning="The home directory. Scripts are in its `scripts/`, the embedded server and "
            "the logs of `up` in its `cron/hermes-celery/`.",
            used_by=_EVERYWHERE,
        )
    )
    namespace: str = _read_from(
        Variable(
            name="HERMES_CELERY_NAMESPACE",
            read=values.checked_namespace,
            default=DEFAULT_NAMESPACE,
            default_words=f"`{DEFAULT_NAMESPACE}`; in a project, the name of its app",
            meaning="Keeps several crons on one server apart. If it is set, it wins over a "
            "project's own namespace.",
            used_by=_EVERYWHERE,
        )
    )
    timezone: str = _read_from(
        Variable(
            name="HERMES_TIMEZONE",
            read=values.timezone,
            default_words="the host's zone",
            meaning="The time zone of jobs that name none, and of the times that commands print. "
            "For the jobs of a project, its `app.conf.timezone` wins.",
            used_by=(*_COMMAND, *_BEAT),
        )
    )
    max_workers: int = _read_from(
        Variable(
            name="HERMES_CRON_MAX_WORKERS",
            read=values.concurrency,
            default="4",
            unit="runs",
            meaning="The concurrency of a worker: how many runs it performs at once, from 1 "
            "(serial) to 1,000. In a project, Celery's `worker_concurrency` decides.",
        )
    )
    grace_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_GRACE",
            read=values.number_of_seconds,
            default="30",
            unit="seconds",
            meaning="How long running jobs may go on when a worker is stopped; 12 s later the "
            "worker is killed. A project's worker waits for its tasks, as in Celery's warm "
            "shutdown; the limit then applies to a cold shutdown.",
        )
    )
    log_format: str = _read_from(
        Variable(
            name="HERMES_CELERY_LOG",
            read=values.log_format,
            default="text",
            meaning="The format of the log: `text` or `json`.",
            used_by=(*_BEAT, *_WORKER),
        )
    )
    events: bool = _read_from(
        Variable(
            name="HERMES_CELERY_EVENTS",
            read=values.switch,
            default="on",
            meaning="Whether workers send the task events that Flower shows: `on` or `off`. In a "
            "project, Celery's `worker_send_task_events` decides.",
        )
    )
    keep_runs: int = _read_from(
        Variable(
            name="HERMES_CELERY_KEEP_RUNS",
            read=values.count,
            default="100",
            unit="runs",
            meaning="How many ended runs of each job are kept, with their output.",
            used_by=_BEAT,
        )
    )
    keep_days: int = _read_from(
        Variable(
            name="HERMES_CELERY_KEEP_DAYS",
            read=values.count,
            default="30",
            unit="days",
            meaning="How long ended runs are kept.",
            used_by=_BEAT,
        )
    )
    keep_completed_days: int = _read_from(
        Variable(
            name="HERMES_CELERY_KEEP_COMPLETED_DAYS",
            read=values.count,
            default="7",
            unit="days",
            meaning="How long completed jobs are kept.",
            used_by=_BEAT,
        )
    )
    script_timeout_seconds: int = _read_from(
        Variable(
            name="HERMES_CRON_SCRIPT_TIMEOUT",
            read=values.script_timeout,
            default=str(values.DEFAULT_SCRIPT_TIMEOUT),
            unit="seconds",
            meaning="How long a script may run. A value that is not a number is ignored, as in "
            "Hermes, and the worker logs that.",
        )
    )
    interpreter_dirs: tuple[Path, ...] = _read_from(
        Variable(
            name="HERMES_CELERY_INTERPRETERS",
            read=values.directories,
            default=_INTERPRETERS,
            meaning="Directories that interpreters of scripts may be in, separated by colons.",
            used_by=(*_COMMAND, *_WORKER),
        )
    )
    env_passthrough: frozenset[str] = _read_from(
        Variable(
            name="HERMES_CRON_ENV_PASSTHROUGH",
            read=values.variable_names,
            default_words="none",
            meaning="Names of variables that scripts may see although they look like credentials, "
            "separated by commas.",
        )
    )
    redact: bool = _read_from(
        Variable(
            name="HERMES_REDACT_SECRETS",
            read=values.switch,
            default="on",
            meaning="Whether secrets are masked in the stored output of a run: `on` or `off`.",
        )
    )
    idle_timeout_seconds: float = _read_from(
        Variable(
            name="HERMES_CRON_TIMEOUT",
            read=values.number_of_seconds,
            default="600",
            unit="seconds",
            meaning="How long an agent may show no activity before it is ended; `0` means no "
            "limit.",
        )
    )
    agent_timeout_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_AGENT_TIMEOUT",
            read=values.number_of_seconds,
            default="0",
            unit="seconds",
            meaning="How long an agent may run, however busy it is; `0` means no limit.",
        )
    )
    agent_command: str = _read_from(
        Variable(
            name="HERMES_CELERY_AGENT_COMMAND",
            read=values.command_line,
            default_words="`hermes -z {prompt}` with its options",
            meaning="The command line of agents, a template that contains `{prompt}`. A part in "
            "brackets is left out if its value is empty: `[-m {model}]`.",
            used_by=(*_COMMAND, *_WORKER),
        )
    )
    session: str = _read_from(
        Variable(
            name="HERMES_CELERY_SESSION",
            read=values.session,
            default="origin",
            meaning="What runs know of the chat that their job was made in: `origin` (all of it) "
            "or `none`. A job's own `session` wins.",
            used_by=_EVERYWHERE,
        )
    )
    http_allow_private: frozenset[str] = _read_from(
        Variable(
            name="HERMES_CELERY_HTTP_ALLOW_PRIVATE",
            read=values.hosts,
            default_words="none",
            meaning="Hosts of private networks that HTTP jobs may call, separated by commas, or "
            "`on` for all of them.",
        )
    )
    wrap: bool = _read_from(
        Variable(
            name="HERMES_CELERY_WRAP",
            read=values.switch,
            default="on",
            meaning="Whether delivered messages have Hermes' header and footer: `on` or `off`.",
        )
    )
    delivery_wait_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_DELIVERY_WAIT",
            read=values.number_of_seconds,
            default="10",
            unit="seconds",
            meaning="The wait before a failed delivery is tried again; later waits are longer.",
        )
    )
    delivery_timeout_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_DELIVERY_TIMEOUT",
            read=values.seconds_above_zero,
            default="20",
            unit="seconds",
            meaning="How long a target may take to connect, and again to answer.",
            used_by=(*_BEAT, *_WORKER),
        )
    )
    alerts: str = _read_from(
        Variable(
            name="HERMES_CELERY_ALERTS",
            default="local",
            meaning="Where incidents are sent that do not belong to a single job, written as a "
            "job's `deliver`. `local` sends them nowhere: `hermes-celery incidents` lists them. A "
            "worker that could not deliver to this place does not start.",
            used_by=(*_BEAT, *_WORKER),
        ),
        is_shown=False,
    )
    ping_url: str = _read_from(
        Variable(
            name="HERMES_CELERY_PING_URL",
            read=values.http_url,
            default_words="none",
            meaning="The URL of a dead-man switch, such as healthchecks.io, that the leading beat "
            "requests once a minute.",
            used_by=_BEAT,
        ),
        is_shown=False,
    )
    #: One sentence for each variable whose value is ignored.
    ignored: tuple[str, ...] = ()
    #: Whether the environment sets the namespace; then a project's app does not.
    is_namespace_given: bool = True
    #: The address of a project's broker, including what `redis_url` cannot express.
    address: ServerAddress | None = None
    #: The names of Celery's keys on that broker; without exchanges if the app is not known.
    broker_names: BrokerNames = field(default_factory=BrokerNames)

    @property
    def is_default_home(self) -> bool:
        """Whether `home` is the directory that is used without HERMES_HOME."""
        return self.home == Path(_DEFAULT_HOME).expanduser()

    @property
    def scripts_dir(self) -> Path:
        """The only directory from which scripts are run."""
        return self.home / "scripts"

    @property
    def targets_path(self) -> Path:
        """The file of named delivery targets, with their tokens."""
        return self.state_dir / "targets.toml"

    @property
    def output_dir(self) -> Path:
        """The directory of `file://` targets."""
        return self.home / "cron" / "output"

    @property
    def state_dir(self) -> Path:
        """The directory in which the embedded server and `up` keep their files."""
        return self.home / "cron" / "hermes-celery"


#: The attributes of `Settings` that a variable sets.
VARIABLES: dict[str, Variable] = {
    attribute.name: attribute.metadata[_METADATA]
    for attribute in fields(Settings)
    if _METADATA in attribute.metadata
}
#: Variables of this program that are not in `Settings`: each is read where it is used.
ELSEWHERE = (
    Variable(
        name="HERMES_CELERY_APP",
        default_words="none",
        meaning="The Celery app of a project, as `hermes-celery -A` takes it.",
        used_by=_COMMAND,
    ),
    Variable(
        name="HERMES_MEDIA_ALLOW_DIRS",
        default_words="none",
        meaning="More directories that attachments may come from, separated by colons or commas.",
    ),
    Variable(
        name="NO_COLOR",
        default_words="none",
        meaning="Any value: print no colours.",
        used_by=_COMMAND,
    ),
)
