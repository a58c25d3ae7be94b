"""Read the environment, in this module only, and report all faults at once.

Variables that Hermes already uses keep their name and meaning. Variables of our own begin with
`HERMES_CELERY_`. An invalid value is refused, except where Hermes replaces it by its default: then
so does this module, and lists the value in `ignored`.
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
#: The namespace of our own app, and of every project that version 0.1.0 served.
DEFAULT_NAMESPACE = "hermes"
_NAMESPACE = re.compile(r"[^\W_][\w.-]{0,39}")
_REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel")
_DEFAULT_SCRIPT_TIMEOUT = 3600
#: Each run needs a process or thread; a larger number is a typing error, or needs more workers.
_MOST_WORKERS = 1000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[\w.:-]+")
#: Words that a user means as "all", but which would be read as host names.
_NO_HOSTS = frozenset({"1", "true", "yes", "all", "any"})
#: Variables that the command line reads.
_ELSEWHERE = frozenset({"HERMES_CELERY_APP"})
_INTERPRETERS = "/usr/bin:/bin:/usr/local/bin:/opt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All values that the environment decides."""

    #: HERMES_HOME: the directory of scripts and of the embedded server. Default ~/.hermes.
    home: Path
    #: HERMES_REDIS_URL: the server that is both store and broker. Default: the embedded server
    #: (None).
    redis_url: str | None = field(repr=False)
    #: HERMES_CELERY_NAMESPACE: the name under which jobs are stored, so that several crons can
    #: share one Redis. Default `hermes`; for a project, the name of its app.
    namespace: str
    #: HERMES_CRON_MAX_WORKERS: the number of runs that one worker performs at the same time; 1
    #: means one after another. Default 4.
    max_workers: int
    #: HERMES_CELERY_GRACE: the seconds that a run may still take when its worker is stopped.
    #: Default 30.
    grace_seconds: float
    #: HERMES_CRON_SCRIPT_TIMEOUT: the seconds after which a script is stopped. Default 3600.
    script_timeout_seconds: int
    #: HERMES_TIMEZONE: the time zone of jobs that name none. Default: the machine's time zone.
    timezone: str
    #: HERMES_CRON_ENV_PASSTHROUGH: the names of variables that scripts may see although they look
    #: like credentials, separated by commas. Default: none.
    env_passthrough: frozenset[str]
    #: HERMES_CELERY_EVENTS: whether tasks send the events that Flower shows. Default on.
    events: bool
    #: HERMES_CELERY_LOG: the format of log lines, `text` or `json`. Default text.
    log_format: str
    #: HERMES_CELERY_KEEP_RUNS: the number of finished runs that are kept for each job, with their
    #: output. Default 100.
    keep_runs: int = 100
    #: HERMES_CELERY_KEEP_DAYS: the days for which finished runs are kept. Default 30.
    keep_days: int = 30
    #: HERMES_CELERY_KEEP_COMPLETED_DAYS: the days for which a completed job is kept. Default 7.
    keep_completed_days: int = 7
    #: HERMES_CELERY_WRAP: whether messages get Hermes' header and footer. Default on.
    wrap: bool = True
    #: HERMES_CELERY_ALERTS: where incidents go that do not belong to a single job, in the words of
    #: a job's `--deliver`. Default local: nowhere but `hermes-celery incidents`.
    alerts: str = field(default="local", repr=False)
    #: HERMES_CELERY_PING_URL: the URL of a dead-man switch that the leading beat calls once a
    #: minute. Default: none.
    ping_url: str = field(default="", repr=False)
    #: HERMES_CELERY_DELIVERY_WAIT: the seconds before a failed delivery is tried for the second
    #: time; later waits grow. Default 10.
    delivery_wait_seconds: float = 10.0
    #: HERMES_CELERY_DELIVERY_TIMEOUT: the seconds that a target may take to connect, and again to
    #: answer. Default 20.
    delivery_timeout_seconds: float = 20.0
    #: HERMES_CELERY_SESSION: `origin` to show runs who their job was made for, `none` to hide it.
    #: Default origin.
    session: str = "origin"
    #: HERMES_CRON_TIMEOUT: the seconds without activity after which an agent is stopped; 0 means
    #: never. Default 600.
    idle_timeout_seconds: float = 600.0
    #: HERMES_CELERY_AGENT_TIMEOUT: the seconds after which an agent is stopped even if it is busy;
    #: 0 means never. Default 0.
    agent_timeout_seconds: float = 0.0
    #: HERMES_CELERY_AGENT_COMMAND: the command line that starts an agent; it must contain
    #: `{prompt}`. Default: Hermes' own (`hermes -z`).
    agent_command: str = ""
    #: HERMES_CELERY_INTERPRETERS: the directories from which a job's `--interpreter` may come,
    #: separated by colons. Default /usr/bin:/bin:/usr/local/bin:/opt.
    interpreter_dirs: tuple[Path, ...] = ()
    #: HERMES_CELERY_HTTP_ALLOW_PRIVATE: the hosts of private networks that HTTP jobs may call,
    #: separated by commas, or `on` for all of them. Default: none.
    http_allow_private: frozenset[str] = frozenset()
    #: HERMES_REDACT_SECRETS: whether secrets are masked in the stored output of a run. Default on.
    redact: bool = True
    #: One sentence for each variable whose value is ignored.
    ignored: tuple[str, ...] = ()
    #: Whether the environment sets the namespace; then a project's app does not.
    is_namespace_given: bool = True
    #: The address of a project's broker, including what `redis_url` cannot express.
    address: ServerAddress | None = None
    #: The names of Celery's keys on that broker; without exchanges if the app is not known.
    broker_names: BrokerNames = field(default_factory=BrokerNames)

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
    """Return the unknown variables that look like ours, each with the likely correct name or ""."""
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


def _script_timeout(reader: _Reader) -> int:
    """Read the time limit of scripts as Hermes does.

    A fraction is cut off; anything but a positive number is replaced by the default.
    """
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
            f"{name}: {text!r} is not a number of seconds of at least 1; as in Hermes, the "
            f"default of {_DEFAULT_SCRIPT_TIMEOUT} s is used"
        )
    return _DEFAULT_SCRIPT_TIMEOUT


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
