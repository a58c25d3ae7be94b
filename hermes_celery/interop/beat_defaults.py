"""What `celery beat` does with a `beat_schedule` without being told, done here as well.

Its occurrences know nothing of each other, so runs of an entry may overlap; a job of ours skips an
occurrence while an earlier run is under way. An entry says otherwise among its options, where
`celery beat` passes over it:

    "options": {"hermes": {"overlap": "skip"}}

and it adds an entry that cleans the result backend, where that does not do so by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hermes_celery.core.policy import MAX_ACTIVE, Overlap, Policy
from hermes_celery.errors import JobError

#: What an entry says of ours, among its options.
OPTION = "hermes"
#: Celery sets no limit; so many runs of one job are a fault, and told as occurrences that are lost.
AS_CELERY = Policy(overlap=Overlap.ALLOW, max_active=MAX_ACTIVE)


def policy_of(options: dict[str, Any]) -> Policy:
    """What an entry's options say of its runs, taken out of them. Raises JobError."""
    given = options.pop(OPTION, None)
    if given is None:
        return AS_CELERY
    names = ", ".join(Policy.__struct_fields__)
    if not isinstance(given, Mapping):
        raise JobError(f"its option {OPTION!r} is {given!r}; give a dict of {names}")
    unknown = sorted(str(name) for name in given if name not in Policy.__struct_fields__)
    if unknown:
        raise JobError(f"its option {OPTION!r} has {', '.join(unknown)}; known are {names}")
    asked = dict(given)
    if asked.setdefault("overlap", Overlap.ALLOW) == Overlap.ALLOW:
        asked.setdefault("max_active", MAX_ACTIVE)
    try:
        return msgspec.convert(asked, Policy)
    except msgspec.ValidationError as error:
        raise JobError(f"its option {OPTION!r} is {dict(given)!r}: {error}") from None
