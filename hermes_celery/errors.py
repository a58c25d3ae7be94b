"""The exceptions that hermes-celery raises on purpose.

    HermesCeleryError
    +-- ScheduleError (ValueError)      a schedule, time or time zone that cannot be read
    +-- JobError (ValueError)           a job that cannot be stored as it was given
    |   +-- ScriptError                 its script is outside the scripts directory, or missing
    +-- JobNotFound (LookupError)       no job has that id or name
    +-- AmbiguousJobReference (LookupError)   a name that several jobs share
    +-- RunNotFound (LookupError)       no run has that id
    +-- Conflict                        somebody changed the job in the meantime
    +-- ImportFault (ValueError)        a Hermes home or jobs.json that cannot be read
    +-- SettingsError (ValueError)      environment variables that make no sense
    +-- StoreError                      Redis is unreachable, refuses, or cannot do what is needed
    |   +-- StoreUnavailable            no connection: it may come back
    |   +-- StoreUnsuitable             wrong server, version or configuration: it will not
    |   |   +-- FormatTooNew            what is stored needs a newer hermes-celery
    |   +-- StoreForbidden              this user may not do it: an access list refuses
    |   +-- RecordBroken                one record or key is not as it should be: the others are
    +-- LeaseLost                       this beat leads no longer: stop writing, step down
    +-- SessionError (ValueError)       a session header that cannot be read
    +-- DeliveryFault                   a message that did not reach its target: try again
    |   +-- DeliveryRefused             one that cannot: trying again does not help
    +-- PutBack                         a run that shall wait in line again
    +-- AlreadyRunning                  a second `up` on the same home

Every message says what was given, what is wrong and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class HermesCeleryError(Exception):
    """Base of everything that hermes-celery raises on purpose."""


class ScheduleError(HermesCeleryError, ValueError):
    """A schedule, a time or a time zone that cannot be read."""


class JobError(HermesCeleryError, ValueError):
    """A job that cannot be stored as it was given."""


class ScriptError(JobError):
    """A script outside the scripts directory, missing, or not a file."""


class JobNotFound(HermesCeleryError, LookupError):
    """No job has that id or name."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"no job has the id or name {reference!r}; `hermes-celery list --all` shows them"
        )


class AmbiguousJobReference(HermesCeleryError, LookupError):
    """A name that several jobs share."""

    def __init__(self, reference: str, ids: Sequence[str]) -> None:
        self.reference = reference
        self.ids = tuple(ids)
        super().__init__(
            f"Job name {reference!r} is ambiguous — matches {len(self.ids)} jobs: "
            f"{', '.join(self.ids)}. Use the job ID instead."
        )


class RunNotFound(HermesCeleryError, LookupError):
    """No run has that id."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"no run has the id {run_id!r}; `hermes-celery runs` shows the latest")


class Conflict(HermesCeleryError):
    """Somebody else changed the job between reading and writing it."""

    def __init__(self, job_id: str, *, expected_revision: int) -> None:
        self.job_id = job_id
        self.expected_revision = expected_revision
        super().__init__(
            f"job {job_id} is no longer at revision {expected_revision}: somebody changed or "
            "removed it meanwhile. Nothing was written; look at it again and repeat the change"
        )


class ImportFault(HermesCeleryError, ValueError):
    """A Hermes home or jobs.json that cannot be read."""


class SettingsError(HermesCeleryError, ValueError):
    """Environment variables that make no sense, all of them at once."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class StoreError(HermesCeleryError):
    """Redis is unreachable, refuses a command, or cannot do what is needed."""


class StoreUnavailable(StoreError):
    """No connection to Redis at the moment; trying again can help."""


class StoreUnsuitable(StoreError):
    """A server of the wrong version, kind or configuration; trying again cannot help."""


class StoreForbidden(StoreError):
    """The server's access list keeps this user from a command or a key."""


class FormatTooNew(StoreUnsuitable):
    """What is stored can be read by newer programs only; this one writes nothing."""

    def __init__(self, namespace: str, *, needs: int, reads: int, program: str) -> None:
        self.needs = needs
        self.reads = reads
        by = f", as hermes-celery {program} wrote it" if program else ""
        super().__init__(
            f"what is stored in namespace {namespace!r} needs a program that reads format {needs}"
            f"{by}; this one reads up to format {reads}: upgrade hermes-celery on this machine"
        )


class RecordBroken(StoreError):
    """One stored record or key is not as it should be; nothing was written for it."""

    def __init__(self, key: str, what: str) -> None:
        self.key = key
        self.what = what
        super().__init__(f"{key} {what}; `hermes-celery fsck` looks at all records")


class LeaseLost(HermesCeleryError):
    """This beat leads no longer: it stops writing and stands by."""


class SessionError(HermesCeleryError, ValueError):
    """A session header that cannot be read: malformed, too large, or from a newer version."""


class DeliveryFault(HermesCeleryError):
    """A message that did not reach its target; trying again can help.

    With `slow_down` the far end asked for fewer messages. The text holds no secret.
    """

    def __init__(self, message: str, *, slow_down: bool = False) -> None:
        self.slow_down = slow_down
        super().__init__(message)


class DeliveryRefused(DeliveryFault):
    """A target that cannot be reached as things are; trying again does not help."""


class PutBack(HermesCeleryError):
    """A run that shall wait in line again; raised by its work, nothing has failed.

    With `handed_on` it goes on with the Celery message of that id, which was sent on `hop` times
    at least, and with no other; it went to the Redis list `queue`, "" where that is not known. That
    is a retry which begins in `retry_seconds`, where they are
    given; with `starts_again` the run starts from the beginning where that did not come after
    `wait_seconds`, else it is over then.
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
    """A second `hermes-celery up` on the same home."""


def error_text(error: BaseException) -> str:
    """An exception's kind, and what it says if it says anything."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
