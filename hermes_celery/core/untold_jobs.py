"""Notes about jobs that a store step removed, and that nobody has been told about yet.

The step writes the note before anything else. So it is either refused as a whole, or leaves the
note behind. The leader's sweep records the incident and then deletes the note; if the leader dies
in between, the next leader finds the note. The notes are fields of the sweep's hash.
"""

from __future__ import annotations

import msgspec

from hermes_celery.core.job import is_job_id

_FIELD = "untold:"
_UNREADABLE = "the note about what happened to it is unreadable"


class UntoldJob(msgspec.Struct, frozen=True, kw_only=True):
    """A note about a job that was removed or taken off the schedule."""

    job_id: str
    #: What happened, in one line.
    text: str
    #: The job's name; "" if it is not known.
    name: str = ""
    #: True if the job's record vanished, False if the job was taken off the schedule.
    is_gone: bool = True

    @property
    def field(self) -> str:
        """The hash field that holds the note."""
        return untold_field(self.job_id)

    def as_text(self) -> str:
        """Return the note in its stored form."""
        return msgspec.json.encode(msgspec.structs.replace(self, job_id="")).decode()


def untold_field(job_id: str) -> str:
    """Return the hash field that holds the note about a job."""
    return f"{_FIELD}{job_id}"


def untold_job(field: str, value: str) -> UntoldJob | None:
    """Return the note in a field of the sweep's hash; None if the field is not such a note."""
    job_id = field.removeprefix(_FIELD)
    if not field.startswith(_FIELD) or not is_job_id(job_id):
        return None
    try:
        note = msgspec.json.decode(value, type=UntoldJob)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return UntoldJob(job_id=job_id, text=f"job {job_id}: {_UNREADABLE}")
    return msgspec.structs.replace(note, job_id=job_id)
