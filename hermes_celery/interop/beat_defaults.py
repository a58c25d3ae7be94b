"""The defaults of `celery beat` for a `beat_schedule`, applied here as well.

In Celery, occurrences know nothing of each other, so runs of an entry may overlap. A job of ours
skips an occurrence while an earlier run is not over. An entry can choose that among its options,
which `celery beat` ignores:

    "options": {"hermes": {"overlap": "skip"}}

`celery beat` also adds an entry that cleans the result backend, unless the backend does that
itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hermes_celery.core.policy import MAX_ACTIVE, Overlap, Policy
from hermes_celery.errors import JobError, listed, shown

#: The name of our settings among an entry's options.
OPTION = "hermes"
#: Celery sets no limit of overlapping runs. Ours is so high that reaching it is a fault; further
#: occurrences are then recorded as skipped.
AS_CELERY = Policy(overlap=Overlap.ALLOW, max_active=MAX_ACTIVE)


def policy_of(options: dict[str, Any]) -> Policy:
    """Take our settings out of an entry's options and return them as a policy. Raises JobError."""
    given = options.pop(OPTION, None)
    if given is None:
        return AS_CELERY
    names = ", ".join(Policy.__struct_fields__)
    if not isinstance(given, Mapping):
        raise JobError(f"its option {OPTION!r} is {shown(given)}; give a dict of {names}")
    unknown = sorted(str(name) for name in given if name not in Policy.__struct_fields__)
    if unknown:
        raise JobError(f"its option {OPTION!r} has {listed(unknown)}; known are {names}")
    asked = dict(given)
    if asked.setdefault("overlap", Overlap.ALLOW) == Overlap.ALLOW:
        asked.setdefault("max_active", MAX_ACTIVE)
    try:
        return msgspec.convert(asked, Policy)
    except msgspec.ValidationError as error:
        raise JobError(f"its option {OPTION!r} is {dict(given)!r}: {error}") from None
