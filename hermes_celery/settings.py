"""Read the environment, in this module only, and report all faults at once.

To add a setting, add an attribute to `Settings` with its `Variable`: how its text becomes a value,
its default, and what the reference page says about it.

Variables that Hermes already uses keep their name and meaning. Variables of our own begin with
`HERMES_CELERY_`. An invalid value is refused, except where Hermes replaces it by its default: then
so does this module, and lists the value in `ignored`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hermes_celery import embedded_server
from hermes_celery.core.server_address import BrokerNames, ServerAddress, parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.masking.server_urls import without_password

#: The namespace of our own app, and of every project that version 0.1.0 served.
DEFAULT_NAMESPACE = "hermes"
_DEFAULT_HOME = "~/.hermes"
_NAMESPACE = re.compile(r"[^\W_][\w.-]{0,39}")
_REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel")
_DEFAULT_SCRIPT_TIMEOUT = 3600
#: Each run needs a process or thread; a larger number is a typing error, or needs more workers.
_MOST_WORKERS = 1000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[\w.:-]+")
#: Words that a user means as "all", but which would be read as host names.
_NO_HOSTS = frozenset({"1", "true", "yes", "all", "any"})
_INTERPRETERS = "/usr/bin:/bin:/usr/local/bin:/opt"


def _home(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{text!r} names no such user; give an absolute path") from None


def _redis_url(text: str) -> str | None:
    if not text:
        return None
    scheme = text.partition(":")[0].lower()
    if scheme not in _REDIS_SCHEMES:
        raise ValueError(
            f"{without_password(text)!r} is not the URL of a Redis server, and only Redis can be "
            "both store and broker; use redis://host:6379/0, rediss://, unix:///path.sock or "
            "sentinel://host:26379,host:26379/0?master_name=NAME"
        )
    try:
        parse_address(text)
    except ValueError as error:
        raise ValueError(f"{without_password(text)!r}: {error}") from None
    return text


def checked_namespace(text: str) -> str:
    """Return the name of a namespace unchanged. Raises ValueError if it cannot be one."""
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(
            f"{text!r} must be 1 to 40 letters, digits, '-', '_' or '.', and begin with a letter "
            "or digit"
        )
    return text


def _max_workers(text: str) -> int:
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1:
        raise ValueError(f"{text!r} must be a whole number of at least 1 (1 means serial)")
    if workers > _MOST_WORKERS:
        raise ValueError(
            f"{text!r} must be at most {_MOST_WORKERS:,}; start more workers to run more at once"
        )
    return workers


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} must be a whole number from 1 to 1,000,000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise ValueError(f"{text!r} must be a number of seconds, 0 or more and below 1,000,000")
    return seconds


def _some_seconds(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise ValueError(f"{text!r} must be a number of seconds above 0")
    return seconds


class _IgnoredValue(ValueError):
    """A value that is reported and replaced by the default, as in Hermes."""


def _script_timeout(text: str) -> int:
    """Read the time limit of scripts as Hermes does.

    A fraction is cut off; anything but a positive number is replaced by the default.
    """
    try:
        seconds = int(float(text))
    except (ValueError, OverflowError):
        seconds = 0
    if seconds < 1:
        raise _IgnoredValue(
            f"{text!r} is not a number of seconds of at least 1; as in Hermes, the "
            f"default of {_DEFAULT_SCRIPT_TIMEOUT} s is used"
        )
    return seconds


def _timezone(text: str) -> str:
    if not text:
        return _host_timezone()
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{text!r} is not a time zone; use a name like Europe/Berlin") from None
    return text


def _host_timezone() -> str:
    """Return the IANA name of the machine's time zone; UTC if it has none."""
    import tzlocal  # takes 10 ms, and most commands do not need it

    try:
        name = tzlocal.get_localzone_name()
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return "UTC"
    return str(name)


def _switch(text: str) -> bool:
    try:
        return {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError(f"{text!r} must be on or off") from None


def _http_url(text: str) -> str:
    if not text:
        return text
    from hermes_celery.core.work import checked_url  # only if set, so that others start faster

    try:
        checked_url(text)
    except ValueError as error:
        raise ValueError(
            f"it must be an http(s) URL, such as https://hc-ping.com/UUID; {error}"
        ) from None
    return text


def _command(text: str) -> str:
    if text:
        try:
            words = shlex.split(text.replace("[", " ").replace("]", " "))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a valid command line: {error}") from None
        if not words or "{prompt}" not in text:
            raise ValueError(f"{text!r} must name a program and contain {{prompt}}")
    return text


def _variables(text: str) -> frozenset[str]:
    names = frozenset(text.replace(",", " ").split())
    for name in sorted(names):
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not a variable's name; list names, without values")
    return names


def _session(text: str) -> str:
    if text not in ("origin", "none"):
        raise ValueError(f"{text!r} must be origin or none")
    return text


def _directories(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part) for part in text.split(os.pathsep) if part)
    for path in paths:
        if not path.is_absolute():
            raise ValueError(f"{str(path)!r} must be an absolute path of a directory")
    return paths


def _hosts(text: str) -> frozenset[str]:
    names = frozenset(text.lower().replace(",", " ").split())
    for name in sorted(names):
        if not _HOST.fullmatch(name) or name in _NO_HOSTS:
            raise ValueError(
                f"{name!r} is not a host; list names or addresses, or write on for all"
            )
    return names


def _log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f"{text!r} must be text or json")
    return text


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
            read=_redis_url,
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
            read=_home,
            default=_DEFAULT_HOME,
            meaning="The home directory. Scripts are in its `scripts/`, the embedded server and "
            "the logs of `up` in its `cron/hermes-celery/`.",
            used_by=_EVERYWHERE,
        )
    )
    namespace: str = _read_from(
        Variable(
            name="HERMES_CELERY_NAMESPACE",
            read=checked_namespace,
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
            read=_timezone,
            default_words="the host's zone",
            meaning="The time zone of jobs that name none, and of the times that commands print. "
            "For the jobs of a project, its `app.conf.timezone` wins.",
            used_by=(*_COMMAND, *_BEAT),
        )
    )
    max_workers: int = _read_from(
        Variable(
            name="HERMES_CRON_MAX_WORKERS",
            read=_max_workers,
            default="4",
            unit="runs",
            meaning="The concurrency of a worker: how many runs it performs at once, from 1 "
            "(serial) to 1,000. In a project, Celery's `worker_concurrency` decides.",
        )
    )
    grace_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_GRACE",
            read=_seconds,
            default="30",
            unit="seconds",
            meaning="How long running jobs may go on when a worker is stopped; 8 s later the "
            "worker is killed. A project's worker waits for its tasks, as in Celery's warm "
            "shutdown; the limit then applies to a cold shutdown.",
        )
    )
    log_format: str = _read_from(
        Variable(
            name="HERMES_CELERY_LOG",
            read=_log_format,
            default="text",
            meaning="The format of the log: `text` or `json`.",
            used_by=(*_BEAT, *_WORKER),
        )
    )
    events: bool = _read_from(
        Variable(
            name="HERMES_CELERY_EVENTS",
            read=_switch,
            default="on",
            meaning="Whether workers send the task events that Flower shows: `on` or `off`. In a "
            "project, Celery's `worker_send_task_events` decides.",
        )
    )
    keep_runs: int = _read_from(
        Variable(
            name="HERMES_CELERY_KEEP_RUNS",
            read=_count,
            default="100",
            unit="runs",
            meaning="How many ended runs of each job are kept, with their output.",
            used_by=_BEAT,
        )
    )
    keep_days: int = _read_from(
        Variable(
            name="HERMES_CELERY_KEEP_DAYS",
            read=_count,
            default="30",
            unit="days",
            meaning="How long ended runs are kept.",
            used_by=_BEAT,
        )
    )
    keep_completed_days: int = _read_from(
        Variable(
            name="HERMES_CELERY_KEEP_COMPLETED_DAYS",
            read=_count,
            default="7",
            unit="days",
            meaning="How long completed jobs are kept.",
            used_by=_BEAT,
        )
    )
    script_timeout_seconds: int = _read_from(
        Variable(
            name="HERMES_CRON_SCRIPT_TIMEOUT",
            read=_script_timeout,
            default=str(_DEFAULT_SCRIPT_TIMEOUT),
            unit="seconds",
            meaning="How long a script may run. A value that is not a number is ignored, as in "
            "Hermes, and the worker logs that.",
        )
    )
    interpreter_dirs: tuple[Path, ...] = _read_from(
        Variable(
            name="HERMES_CELERY_INTERPRETERS",
            read=_directories,
            default=_INTERPRETERS,
            meaning="Directories that interpreters of scripts may be in, separated by colons.",
            used_by=(*_COMMAND, *_WORKER),
        )
    )
    env_passthrough: frozenset[str] = _read_from(
        Variable(
            name="HERMES_CRON_ENV_PASSTHROUGH",
            read=_variables,
            default_words="none",
            meaning="Names of variables that scripts may see although they look like credentials, "
            "separated by commas.",
        )
    )
    redact: bool = _read_from(
        Variable(
            name="HERMES_REDACT_SECRETS",
            read=_switch,
            default="on",
            meaning="Whether secrets are masked in the stored output of a run: `on` or `off`.",
        )
    )
    idle_timeout_seconds: float = _read_from(
        Variable(
            name="HERMES_CRON_TIMEOUT",
            read=_seconds,
            default="600",
            unit="seconds",
            meaning="How long an agent may show no activity before it is ended; `0` means no "
            "limit.",
        )
    )
    agent_timeout_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_AGENT_TIMEOUT",
            read=_seconds,
            default="0",
            unit="seconds",
            meaning="How long an agent may run, however busy it is; `0` means no limit.",
        )
    )
    agent_command: str = _read_from(
        Variable(
            name="HERMES_CELERY_AGENT_COMMAND",
            read=_command,
            default_words="`hermes -z {prompt}` with its options",
            meaning="The command line of agents, a template that contains `{prompt}`. A part in "
            "brackets is left out if its value is empty: `[-m {model}]`.",
            used_by=(*_COMMAND, *_WORKER),
        )
    )
    session: str = _read_from(
        Variable(
            name="HERMES_CELERY_SESSION",
            read=_session,
            default="origin",
            meaning="What runs know of the chat that their job was made in: `origin` (all of it) "
            "or `none`. A job's own `session` wins.",
            used_by=_EVERYWHERE,
        )
    )
    http_allow_private: frozenset[str] = _read_from(
        Variable(
            name="HERMES_CELERY_HTTP_ALLOW_PRIVATE",
            read=_hosts,
            default_words="none",
            meaning="Hosts of private networks that HTTP jobs may call, separated by commas, or "
            "`on` for all of them.",
        )
    )
    wrap: bool = _read_from(
        Variable(
            name="HERMES_CELERY_WRAP",
            read=_switch,
            default="on",
            meaning="Whether delivered messages have Hermes' header and footer: `on` or `off`.",
        )
    )
    delivery_wait_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_DELIVERY_WAIT",
            read=_seconds,
            default="10",
            unit="seconds",
            meaning="The wait before a failed delivery is tried again; later waits are longer.",
        )
    )
    delivery_timeout_seconds: float = _read_from(
        Variable(
            name="HERMES_CELERY_DELIVERY_TIMEOUT",
            read=_some_seconds,
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
            read=_http_url,
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


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings from `environ` (default: the environment of this process).

    Raises SettingsError that lists every faulty variable.
    """
    reader = _Reader(os.environ if environ is None else environ)
    settings = _read_all(reader)
    if reader.faults:
        raise SettingsError(reader.faults)
    return settings


def _read_all(reader: _Reader) -> Settings:
    values = {name: reader.read(variable) for name, variable in VARIABLES.items()}
    return Settings(
        **values,
        is_namespace_given=bool(reader.environ.get("HERMES_CELERY_NAMESPACE", "").strip()),
        ignored=tuple(reader.ignored),
    )


def unknown_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the unknown variables that look like ours, each with the likely correct name or ""."""
    known = {variable.name for variable in (*VARIABLES.values(), *ELSEWHERE)}
    found: dict[str, str] = {}
    for name in sorted(set(os.environ if environ is None else environ) - known):
        # Hermes has variables of its own that begin with HERMES_CRON_.
        is_ours = name.startswith("HERMES_CELERY_")
        meant = next(iter(get_close_matches(name, known, n=1, cutoff=0.8 if is_ours else 0.9)), "")
        if is_ours or (meant and name.startswith("HERMES_CRON_")):
            found[name] = meant
    return found


def check_home(settings: Settings) -> None:
    """Refuse a Hermes home whose files cannot be read; one that does not exist yet is fine.

    Raises SettingsError.
    """
    home = settings.home
    for read in (lambda: os.listdir(home), lambda: (home / ".env").read_bytes()):
        try:
            read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unusable_home(settings, error) from None


def unusable_home(settings: Settings, error: OSError) -> SettingsError:
    """Return the error for an unusable home: which file, why, and what to do."""
    where = error.filename or settings.home
    return SettingsError([
        f"HERMES_HOME is {settings.home}, and {where} cannot be used: {error.strerror or error}; "
        "set HERMES_HOME to a directory that you own, or become the owner of this one"
    ])  # fmt: skip


def default_timezone() -> str:
    """Return the time zone of jobs that name none: HERMES_TIMEZONE, else the machine's.

    Raises SettingsError if HERMES_TIMEZONE is not a time zone.
    """
    try:
        return _timezone(os.environ.get("HERMES_TIMEZONE", ""))
    except ValueError as error:
        raise SettingsError([f"HERMES_TIMEZONE: {error}"]) from None


def checked_timezone(name: str) -> str:
    """Return the name of a time zone unchanged. Raises SettingsError if it is not one."""
    try:
        return _timezone(name)
    except ValueError as error:
        raise SettingsError([str(error)]) from None


def process_environment() -> dict[str, str]:
    """Return a copy of the environment, for the child processes of runs."""
    return dict(os.environ)


def broker_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables with which Celery's broker is set, as far as they are set."""
    given = os.environ if environ is None else environ
    names = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
    return {name: given[name] for name in names if given.get(name)}


class _Reader:
    """Reads variables one by one and collects their faults."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.faults: list[str] = []
        self.ignored: list[str] = []

    def read(self, variable: Variable) -> Any:
        text = self.environ.get(variable.name, "").strip() or variable.default
        try:
            return variable.read(text)
        except _IgnoredValue as error:
            self.ignored.append(f"{variable.name}: {error}")
        except ValueError as error:
            self.faults.append(f"{variable.name}: {error}")
        return variable.read(variable.default)


def redis_url(settings: Settings) -> str:
    """Return the URL of the server that these settings mean."""
    return settings.redis_url or embedded_server.url(settings.state_dir)


def address_of(settings: Settings) -> ServerAddress:
    """Return the address of the server that these settings mean. Raises SettingsError."""
    if settings.address is not None:
        return settings.address
    try:
        return parse_address(redis_url(settings))
    except ValueError as error:
        raise SettingsError([f"HERMES_REDIS_URL: {error}"]) from None
