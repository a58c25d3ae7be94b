"""The exceptions that hermes-celery raises on purpose.

    HermesCeleryError
    +-- ScheduleError (ValueError)      a schedule, time or time zone is invalid
    +-- JobError (ValueError)           a job is invalid and was not stored
    |   +-- ScriptError                 its script is outside the scripts directory, or missing
    |       +-- ScriptNotRelative       the script's path is absolute
    +-- JobNotFound (LookupError)       no job has this id or name
    +-- AmbiguousJobReference (LookupError)   several jobs have this name
    +-- RunNotFound (LookupError)       no run has this id
    +-- Conflict                        somebody else changed the job in the meantime
    +-- ImportFault (ValueError)        a Hermes home or jobs.json is unreadable
    +-- SettingsError (ValueError)      environment variables are invalid
    +-- StoreError                      Redis is unreachable, refuses, or lacks what is needed
    |   +-- StoreUnavailable            no connection: trying again can help
    |   +-- StoreUnsuitable             wrong server, version or configuration: it cannot help
    |   |   +-- FormatTooNew            the stored data needs a newer hermes-celery
    |   +-- StoreForbidden              the server's access list refuses this user
    |   +-- RecordBroken                one stored record or key is invalid, the others are fine
    +-- LeaseLost                       this beat no longer leads: stop writing, stand by
    +-- SessionError (ValueError)       a session header is unreadable
    +-- DeliveryFault                   a message did not reach its target: try again
    |   +-- DeliveryRefused             it cannot reach the target: trying again does not help
    +-- PutBack                         a run has to wait in its queue again
    +-- AlreadyRunning                  a second `up` runs on the same home

Every message says what was given, what is wrong and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: How many characters of a given value a message repeats.
_SHOWN = 100


def shown(value: object) -> str:
    """Return a given value as a message repeats it: in quotes, printable, and cut if it is long."""
    if isinstance(value, str):
        # Cut first: nobody waits for the quotes around a huge text.
        return repr(cut(value))
    try:
        return escaped(cut(repr(value)))
    except Exception:  # noqa: BLE001 - nested too deeply, too many digits, or the user's own class
        return with_article(type(value).__qualname__)


def listed(names: Iterable[object]) -> str:
    """Return given names as a message lists them: without quotes, printable, and cut."""
    return escaped(cut(", ".join(map(str, names))))


def escaped(text: str) -> str:
    """Return a text whose characters that cannot be printed are escapes, as in `\\ud800`."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def cut(text: str) -> str:
    """Return a text; of a long one, its beginning and `…`."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def with_article(noun: str) -> str:
    """Return `a dict` or `an object`. A u counts as a consonant, as in `a UUID`."""
    return f"{'an' if noun[:1] in 'aeioAEIO' else 'a'} {noun}"


class HermesCeleryError(Exception):
    """Base of all exceptions that hermes-celery raises on purpose."""


class ScheduleError(HermesCeleryError, ValueError):
    """A schedule, a time or a time zone is invalid."""


class JobError(HermesCeleryError, ValueError):
    """A job is invalid and was not stored."""


class ScriptError(JobError):
    """A script is outside the scripts directory, missing, or not a file."""


class ScriptNotRelative(ScriptError):
    """The script's path is absolute, or begins with a home directory."""

    def __init__(self, script: str) -> None:
        self.script = script
        super().__init__(self.text("~/.hermes/scripts"))

    def text(self, scripts_dir: str) -> str:
        """Return Hermes' message with this directory."""
        return (
            f"Script path must be relative to {scripts_dir}/. Got absolute or home-relative "
            f"path: {self.script!r}. Place scripts in {scripts_dir}/ and use just the filename."
        )


class JobNotFound(HermesCeleryError, LookupError):
    """No job has this id or name."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"no job has the id or name {shown(reference)}; `hermes-celery list --all` shows them"
        )


class AmbiguousJobReference(HermesCeleryError, LookupError):
    """Several jobs have this name."""

    def __init__(self, reference: str, ids: Sequence[str]) -> None:
        self.reference = reference
        self.ids = tuple(ids)
        super().__init__(
            f"Job name {shown(reference)} is ambiguous — matches {len(self.ids)} jobs: "
            f"{', '.join(self.ids)}. Use the job ID instead."
        )


class RunNotFound(HermesCeleryError, LookupError):
    """No run has this id."""

    def __init__(self, run_id: str, *, why: str = "") -> None:
        """`why` says that there is such a run, but not where it was looked for."""
        self.run_id = run_id
        super().__init__(
            why or f"no run has the id {shown(run_id)}; `hermes-celery runs` shows the latest"
        )


class Conflict(HermesCeleryError):
    """Somebody else changed the job between reading and writing it."""

    def __init__(self, job_id: str, *, expected_revision: int) -> None:
        self.job_id = job_id
        self.expected_revision = expected_revision
        super().__init__(
            f"job {job_id} is no longer at revision {expected_revision}: somebody changed or "
            "removed it meanwhile. Nothing was written; read the job again and repeat the change"
        )


class ImportFault(HermesCeleryError, ValueError):
    """A Hermes home or jobs.json is unreadable."""


class SettingsError(HermesCeleryError, ValueError):
    """Environment variables are invalid; the message lists all of them."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class StoreError(HermesCeleryError):
    """Redis is unreachable, refuses a command, or lacks what is needed."""


class StoreUnavailable(StoreError):
    """There is no connection to Redis at the moment; trying again can help."""


class StoreUnsuitable(StoreError):
    """The server has the wrong version, kind or configuration; trying again cannot help."""


class StoreForbidden(StoreError):
    """The server's access list denies this user a command or a key."""


class FormatTooNew(StoreUnsuitable):
    """The stored data needs a newer hermes-celery; this version writes nothing."""

    def __init__(self, namespace: str, *, needs: int, reads: int, program: str) -> None:
        self.needs = needs
        self.reads = reads
        by = f", as hermes-celery {program} wrote it" if program else ""
        super().__init__(
            f"what is stored in namespace {namespace!r} needs a program that reads format {needs}"
            f"{by}; this one reads up to format {reads}: upgrade hermes-celery on this machine"
        )


class RecordBroken(StoreError):
    """One stored record or key is invalid; nothing was written for it."""

    def __init__(self, key: str, what: str) -> None:
        self.key = key
        self.what = what
        super().__init__(f"{key} {what}; `hermes-celery fsck` checks all records")


class LeaseLost(HermesCeleryError):
    """This beat no longer leads: it stops writing and stands by."""


class SessionError(HermesCeleryError, ValueError):
    """A session header is unreadable: malformed, too large, or from a newer version."""


class DeliveryFault(HermesCeleryError):
    """A message did not reach its target; trying again can help.

    `slow_down` is set if the target asked for fewer messages. The text contains no secret.
    """

    def __init__(self, message: str, *, slow_down: bool = False) -> None:
        self.slow_down = slow_down
        super().__init__(message)


class DeliveryRefused(DeliveryFault):
    """A message cannot reach its target; trying again does not help."""


class PutBack(HermesCeleryError):
    """A run has to wait in its queue again; its work raises this, and nothing has failed.

    `handed_on` is the id of the Celery message that continues the run; no other message does. The
    run was handed on at least `hop` times, and the message was pushed to the Redis list `queue`
    ("" if unknown). With `retry_seconds` it is a retry that begins after this time. If the message
    has not come after `wait_seconds`, the run ends; with `starts_again` it starts from the
    beginning instead.
    """

    def __init__(
        self,
        *,
        wait_seconds: float,
        handed_on: str = "",
        hop: int = 0,
        queue: str = "",
        retry_seconds: float | None = None,
        starts_again: bool = False,
    ) -> None:
        self.wait_seconds = wait_seconds
        self.handed_on = handed_on
        self.hop = hop
        self.queue = queue
        self.retry_seconds = retry_seconds
        self.starts_again = starts_again
        super().__init__(f"the run waits {wait_seconds:g} s for its next try")


class AlreadyRunning(HermesCeleryError):
    """A second `hermes-celery up` was started on the same home."""


def error_text(error: BaseException) -> str:
    """Return the class of an exception and its message, if it has one."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
