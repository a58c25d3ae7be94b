"""The only reader of the environment; reports every fault at once.

Names that Hermes already uses keep their name and meaning; ours begin with `HERMES_CELERY_`. A
value that makes no sense is refused; where Hermes reads such a value as its default, so is it read
here, and `ignored` says so.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

from hermes_celery import embedded_server
from hermes_celery.core.server_address import BrokerNames, ServerAddress, parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.masking.server_urls import without_password

_T = TypeVar("_T")
#: That of our own app, and of every project that version 0.1.0 served.
DEFAULT_NAMESPACE = "hermes"
_NAMESPACE = re.compile(r"[^\W_][\w.-]{0,39}")
_REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel")
_DEFAULT_SCRIPT_TIMEOUT = 3600
#: One process or thread for each; beyond that it is a slip, and more workers serve better.
_MOST_WORKERS = 1000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[\w.:-]+")
#: Words for "all" that would be read as the name of a host.
_NO_HOSTS = frozenset({"1", "true", "yes", "all", "any"})
#: Read by the command line.
_ELSEWHERE = frozenset({"HERMES_CELERY_APP"})
_INTERPRETERS = "/usr/bin:/bin:/usr/local/bin:/opt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the environment decides."""

    #: HERMES_HOME: where scripts and the embedded server live. Default ~/.hermes.
    home: Path
    #: HERMES_REDIS_URL: store and broker in one; None means the embedded server.
    redis_url: str | None = field(repr=False)
    #: HERMES_CELERY_NAMESPACE: keeps several crons on one Redis apart. Default `hermes`; a
    #: project's is the name of its app.
    namespace: str
    #: HERMES_CRON_MAX_WORKERS: how many runs one worker performs at once; 1 means serial.
    max_workers: int
    #: HERMES_CELERY_GRACE: seconds a running job gets when its worker is told to stop.
    grace_seconds: float
    #: HERMES_CRON_SCRIPT_TIMEOUT: seconds until a script is ended.
    script_timeout_seconds: int
    #: HERMES_TIMEZONE, else the host's: the zone of jobs that name none.
    timezone: str
    #: HERMES_CRON_ENV_PASSTHROUGH: credential variables that scripts may see all the same.
    env_passthrough: frozenset[str]
    #: HERMES_CELERY_EVENTS: whether tasks send the events that Flower shows.
    events: bool
    #: HERMES_CELERY_LOG: "text" or "json".
    log_format: str
    #: HERMES_CELERY_KEEP_RUNS: how many ended runs of a job are kept, with their output.
    keep_runs: int = 100
    #: HERMES_CELERY_KEEP_DAYS: for how many days they are kept.
    keep_days: int = 30
    #: HERMES_CELERY_KEEP_COMPLETED_DAYS: for how many days a completed job is kept.
    keep_completed_days: int = 7
    #: HERMES_CELERY_WRAP: whether messages carry Hermes' header and footer.
    wrap: bool = True
    #: HERMES_CELERY_ALERTS: where troubles of no single job are told, as a job's `deliver`.
    alerts: str = field(default="local", repr=False)
    #: HERMES_CELERY_PING_URL: a dead-man switch that the leading beat pings once a minute.
    ping_url: str = field(default="", repr=False)
    #: HERMES_CELERY_DELIVERY_WAIT: seconds until a failed delivery is tried again first.
    delivery_wait_seconds: float = 10.0
    #: HERMES_CELERY_DELIVERY_TIMEOUT: seconds that a target may take to connect, and to answer.
    delivery_timeout_seconds: float = 20.0
    #: HERMES_CELERY_SESSION: "origin", or "none" to keep jobs' origins out of their runs' sessions.
    session: str = "origin"
    #: HERMES_CRON_TIMEOUT: seconds without a sign of activity until an agent is ended; 0: never.
    idle_timeout_seconds: float = 600.0
    #: HERMES_CELERY_AGENT_TIMEOUT: seconds until an agent is ended however busy it is; 0: never.
    agent_timeout_seconds: float = 0.0
    #: HERMES_CELERY_AGENT_COMMAND: the command line of agents; "" means Hermes' own.
    agent_command: str = ""
    #: HERMES_CELERY_INTERPRETERS: the directories that scripts' interpreters may lie in.
    interpreter_dirs: tuple[Path, ...] = ()
    #: HERMES_CELERY_HTTP_ALLOW_PRIVATE: hosts of private networks that may be called; "on": all.
    http_allow_private: frozenset[str] = frozenset()
    #: HERMES_REDACT_SECRETS: whether secrets are masked in what is stored of a run.
    redact: bool = True
    #: Values that have no effect, one sentence each.
    ignored: tuple[str, ...] = ()
    #: Whether the namespace was chosen, so that a project's app does not choose its own.
    is_namespace_given: bool = True
    #: Where a project's broker is and how it is reached; `redis_url` says the same as far as a URL
    #: can.
    address: ServerAddress | None = None
    #: What Celery calls its keys there.
    #: Without exchanges where nobody knows the app.
    broker_names: BrokerNames = field(default_factory=BrokerNames)

    @property
    def scripts_dir(self) -> Path:
        """The only place that scripts are run from."""
        return self.home / "scripts"

    @property
    def targets_path(self) -> Path:
        """Named delivery targets, with their tokens."""
        return self.state_dir / "targets.toml"

    @property
    def output_dir(self) -> Path:
        """Where `file://` targets lie."""
        return self.home / "cron" / "output"

    @property
    def state_dir(self) -> Path:
        """Where the embedded server and `up` keep their files."""
        return self.home / "cron" / "hermes-celery"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings from `environ` (default: the process's).

    Raises SettingsError that lists every variable at fault.
    """
    reader = _Reader(os.environ if environ is None else environ)
    settings = _read_all(reader)
    if reader.faults:
        raise SettingsError(reader.faults)
    return settings


def _read_all(reader: _Reader) -> Settings:
    return Settings(
        home=reader.read("HERMES_HOME", _home, "~/.hermes"),
        redis_url=reader.read("HERMES_REDIS_URL", _redis_url, ""),
        namespace=reader.read("HERMES_CELERY_NAMESPACE", checked_namespace, DEFAULT_NAMESPACE),
        is_namespace_given=bool(reader.environ.get("HERMES_CELERY_NAMESPACE", "").strip()),
        max_workers=reader.read("HERMES_CRON_MAX_WORKERS", _max_workers, "4"),
        grace_seconds=reader.read("HERMES_CELERY_GRACE", _seconds, "30"),
        script_timeout_seconds=_script_timeout(reader),
        timezone=reader.read("HERMES_TIMEZONE", _timezone, ""),
        env_passthrough=reader.read("HERMES_CRON_ENV_PASSTHROUGH", _variables, ""),
        events=reader.read("HERMES_CELERY_EVENTS", _switch, "on"),
        log_format=reader.read("HERMES_CELERY_LOG", _log_format, "text"),
        session=reader.read("HERMES_CELERY_SESSION", _session, "origin"),
        idle_timeout_seconds=reader.read("HERMES_CRON_TIMEOUT", _seconds, "600"),
        agent_timeout_seconds=reader.read("HERMES_CELERY_AGENT_TIMEOUT", _seconds, "0"),
        agent_command=reader.read("HERMES_CELERY_AGENT_COMMAND", _command, ""),
        interpreter_dirs=reader.read("HERMES_CELERY_INTERPRETERS", _directories, _INTERPRETERS),
        http_allow_private=reader.read("HERMES_CELERY_HTTP_ALLOW_PRIVATE", _hosts, ""),
        redact=reader.read("HERMES_REDACT_SECRETS", _switch, "on"),
        keep_runs=reader.read("HERMES_CELERY_KEEP_RUNS", _count, "100"),
        keep_days=reader.read("HERMES_CELERY_KEEP_DAYS", _count, "30"),
        keep_completed_days=reader.read("HERMES_CELERY_KEEP_COMPLETED_DAYS", _count, "7"),
        wrap=reader.read("HERMES_CELERY_WRAP", _switch, "on"),
        alerts=reader.read("HERMES_CELERY_ALERTS", str, "local"),
        ping_url=reader.read("HERMES_CELERY_PING_URL", _http_url, ""),
        delivery_wait_seconds=reader.read("HERMES_CELERY_DELIVERY_WAIT", _seconds, "10"),
        delivery_timeout_seconds=reader.read("HERMES_CELERY_DELIVERY_TIMEOUT", _some_seconds, "20"),
        ignored=tuple(reader.ignored),
    )


def unknown_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that look like ours and mean nothing, each with the one that is meant, or ""."""
    reader = _Reader({})
    _read_all(reader)
    known = reader.names | _ELSEWHERE
    found: dict[str, str] = {}
    for name in sorted(set(os.environ if environ is None else environ) - known):
        # Hermes has variables of its own that begin with HERMES_CRON_.
        is_ours = name.startswith("HERMES_CELERY_")
        meant = next(iter(get_close_matches(name, known, n=1, cutoff=0.8 if is_ours else 0.9)), "")
        if is_ours or (meant and name.startswith("HERMES_CRON_")):
            found[name] = meant
    return found


def check_home(settings: Settings) -> None:
    """Refuse a home whose files cannot be read; one that is not there yet is fine.

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
    """What to tell a person whose home refuses: which file, why, and what to do."""
    where = error.filename or settings.home
    return SettingsError([
        f"HERMES_HOME is {settings.home}, and {where} cannot be used: {error.strerror or error}; "
        "name a directory that is yours, or make this one yours"
    ])  # fmt: skip


def default_timezone() -> str:
    """The zone of jobs that name none: HERMES_TIMEZONE, else the host's.

    Raises SettingsError when HERMES_TIMEZONE is no zone.
    """
    try:
        return _timezone(os.environ.get("HERMES_TIMEZONE", ""))
    except ValueError as error:
        raise SettingsError([f"HERMES_TIMEZONE: {error}"]) from None


def checked_timezone(name: str) -> str:
    """The name of a zone, if it is one. Raises SettingsError."""
    try:
        return _timezone(name)
    except ValueError as error:
        raise SettingsError([str(error)]) from None


def process_environment() -> dict[str, str]:
    """A copy of the environment, for the child processes of runs."""
    return dict(os.environ)


def broker_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Celery's variables that set a broker, those that are set."""
    given = os.environ if environ is None else environ
    names = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
    return {name: given[name] for name in names if given.get(name)}


class _Reader:
    """Reads one variable after the other and keeps the faults."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.faults: list[str] = []
        self.ignored: list[str] = []
        self.names: set[str] = set()

    def read(self, name: str, convert: Callable[[str], _T], default: str) -> _T:
        self.names.add(name)
        text = self.environ.get(name, "").strip() or default
        try:
            return convert(text)
        except ValueError as error:
            self.faults.append(f"{name}: {error}")
            return convert(default)


def _home(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{text!r}: there is no such user; give an absolute path") from None


def _redis_url(text: str) -> str | None:
    if not text:
        return None
    scheme = text.partition(":")[0].lower()
    if scheme not in _REDIS_SCHEMES:
        raise ValueError(
            f"{without_password(text)!r} does not name a Redis server, and nothing else can be "
            "store and broker in one; use redis://host:6379/0, rediss://, unix:///path.sock or "
            "sentinel://host:26379,host:26379/0?master_name=NAME"
        )
    try:
        parse_address(text)
    except ValueError as error:
        raise ValueError(f"{without_password(text)!r}: {error}") from None
    return text


def checked_namespace(text: str) -> str:
    """The name of a namespace, if it can be one. Raises ValueError."""
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(
            f"{text!r} must be 1 to 40 letters, digits, '-', '_' or '.', a letter or digit first"
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
            f"{text!r} must be at most {_MOST_WORKERS:,}; start more workers for more slots"
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


def _script_timeout(reader: _Reader) -> int:
    """As Hermes reads it: fractions are cut, what is no positive number means the default."""
    name = "HERMES_CRON_SCRIPT_TIMEOUT"
    text = reader.read(name, str, "")
    try:
        seconds = int(float(text))
    except (ValueError, OverflowError):
        seconds = 0
    if seconds > 0:
        return seconds
    if text:
        reader.ignored.append(
            f"{name}: {text!r} is no number of seconds of at least 1; as in Hermes, the default of "
            f"{_DEFAULT_SCRIPT_TIMEOUT} s holds"
        )
    return _DEFAULT_SCRIPT_TIMEOUT


def _timezone(text: str) -> str:
    if not text:
        return _host_timezone()
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone; use a name like Europe/Berlin") from None
    return text


def _host_timezone() -> str:
    """The host's zone by its IANA name; UTC where it has none."""
    import tzlocal  # costs 10 ms that most commands need not pay

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
    from hermes_celery.core.work import checked_url  # most have no such URL, and start faster

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
            raise ValueError(f"{text!r} is no command line: {error}") from None
        if not words or "{prompt}" not in text:
            raise ValueError(f"{text!r} must name a program and contain {{prompt}}")
    return text


def _variables(text: str) -> frozenset[str]:
    names = frozenset(text.replace(",", " ").split())
    for name in sorted(names):
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable; list names, without values")
    return names


def _session(text: str) -> str:
    if text not in ("origin", "none"):
        raise ValueError(f"{text!r} must be origin or none")
    return text


def _directories(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part) for part in text.split(os.pathsep) if part)
    for path in paths:
        if not path.is_absolute():
            raise ValueError(f"{str(path)!r} must be an absolute directory")
    return paths


def _hosts(text: str) -> frozenset[str]:
    names = frozenset(text.lower().replace(",", " ").split())
    for name in sorted(names):
        if not _HOST.fullmatch(name) or name in _NO_HOSTS:
            raise ValueError(f"{name!r} is no host; list names or addresses, or write on for all")
    return names


def _log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f"{text!r} must be text or json")
    return text


def redis_url(settings: Settings) -> str:
    """The URL of the server that these settings mean."""
    return settings.redis_url or embedded_server.url(settings.state_dir)


def address_of(settings: Settings) -> ServerAddress:
    """Where the server of these settings is, and how it is reached. Raises SettingsError."""
    if settings.address is not None:
        return settings.address
    try:
        return parse_address(redis_url(settings))
    except ValueError as error:
        raise SettingsError([f"HERMES_REDIS_URL: {error}"]) from None
