"""Notes of jobs that a step of the store took away, and that nobody has been told of yet.

Such a step writes the note before anything else, so that it is either refused as a whole or leaves
what is to be told. The leader's sweep tells it and deletes the note; a leader that dies between the
two leaves the note to the next one. The notes are fields of the sweep's hash.
"""

from __future__ import annotations

import msgspec

from hermes_celery.core.job import is_job_id

_FIELD = "untold:"
_UNREADABLE = "the note of what happened to it cannot be read"


class UntoldJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and what happened to it."""

    job_id: str
    #: One line.
    text: str
    #: Its name, where that was known; "" where it was not.
    name: str = ""
    #: Whether its record vanished; otherwise it was taken off the schedule.
    is_gone: bool = True

    @property
    def field(self) -> str:
        """The field that the note stands in."""
        return untold_field(self.job_id)

    def as_text(self) -> str:
        """The note as it is stored: the id stands in the field, and may be no UTF-8."""
        return msgspec.json.encode(msgspec.structs.replace(self, job_id="")).decode()


def untold_field(job_id: str) -> str:
    """The field that the note about a job stands in."""
    return f"{_FIELD}{job_id}"


def untold_job(field: str, value: str) -> UntoldJob | None:
    """The note in a field of the sweep's hash; None for a field that is no such note."""
    job_id = field.removeprefix(_FIELD)
    if not field.startswith(_FIELD) or not is_job_id(job_id):
        return None
    try:
        note = msgspec.json.decode(value, type=UntoldJob)
    except (msgspec.DecodeError, UnicodeError):
        return UntoldJob(job_id=job_id, text=f"job {job_id}: {_UNREADABLE}")
    return msgspec.structs.replace(note, job_id=job_id)
