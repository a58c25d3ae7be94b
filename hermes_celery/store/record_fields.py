"""Read the fields of one record one by one, so that a bad field does not spoil the record.

An unreadable field gets a stand-in and is noted as a fault: the rest can still be shown, together
with what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from hermes_celery.core.readable import readable
from hermes_celery.core.unknown_words import UNREADABLE, stored_word
from hermes_celery.errors import RecordBroken
from hermes_celery.instant import from_ms
from hermes_celery.store.format import too_new

_Kind = TypeVar("_Kind", bound=StrEnum)

#: The years 2 to 9998: every zone's local time of such an instant exists.
_FIRST_MS, _LAST_MS = -62_104_060_800_000, 253_339_228_800_000
_MAX_SHOWN = 40
_WHOLE = re.compile(r"-?[0-9]{1,300}")
#: The same rule as in `_checked.lua`.
_COUNTED = re.compile(r"[0-9]{1,16}|-[0-9]{1,15}")


class Fields:
    """The fields of one hash, or the error that made it unreadable."""

    def __init__(self, record: Mapping[str, str] | RecordBroken) -> None:
        self._fields: Mapping[str, str] = {} if isinstance(record, RecordBroken) else record
        #: What is wrong, by field name; "" stands for the whole record.
        self.faults: dict[str, str] = {"": record.what} if isinstance(record, RecordBroken) else {}
        needs = self._fields.get("needs", "1")
        if len(needs) < 10 and needs.isdecimal() and (what := too_new(int(needs))):
            self.faults[""] = what

    @property
    def fault(self) -> str | None:
        """One line with all faults; None if there are none."""
        return ", ".join(f"{name} {what}".strip() for name, what in self.faults.items()) or None

    def text(self, name: str) -> str | None:
        """Return a text, with invalid UTF-8 replaced; None if the field is missing."""
        value = self._fields.get(name)
        return None if value is None else readable(value)

    def required(self, name: str) -> str:
        """Return a text; a missing field is a fault."""
        value = self.text(name)
        if value is None:
            self._missing(name)
        return value or ""

    def number(self, name: str) -> int | None:
        """Return a whole number; None if the field is missing."""
        value = self._fields.get(name)
        if not value:
            return None
        if not _WHOLE.fullmatch(value):
            self._wrong(name, value, "not a whole number")
            return None
        return int(value)

    def counted(self, name: str, *, most: int | None = None) -> int | None:
        """Return a whole number by the stricter rule of scripts; None if the field is missing.

        With `most`, it must lie in 0 to `most`.
        """
        value = self._fields.get(name)
        if value is None:
            return None
        if not _COUNTED.fullmatch(value):
            self._wrong(name, value, "not a whole number")
            return None
        number = int(value)
        if most is not None and not 0 <= number <= most:
            self._wrong(name, value, f"outside 0-{most}")
            return None
        return number

    def amount(self, name: str) -> float | None:
        """Return a number; None if the field is missing."""
        value = self._fields.get(name)
        if not value:
            return None
        try:
            return float(value)
        except ValueError:
            self._wrong(name, value, "not a number")
            return None

    def instant(self, name: str) -> datetime | None:
        """Return an instant that is stored as Unix milliseconds; None if the field is missing."""
        ms = self.number(name)
        if ms is None:
            return None
        if not is_instant(ms):
            self._wrong(name, str(ms), "not an instant")
            return None
        return from_ms(ms)

    def required_instant(self, name: str, *, stand_in: datetime) -> datetime:
        """Return an instant, or `stand_in`; a missing field is a fault."""
        if name not in self._fields:
            self._missing(name)
        return self.instant(name) or stand_in

    def word(self, kind: type[_Kind], name: str, default: _Kind | None = None) -> _Kind:
        """Return a member of an enum, or a stand-in for a newer version's word.

        A missing field gives `default`; without a default it is a fault.
        """
        value = self.text(name)
        if value is not None:
            return stored_word(kind, value)
        if default is not None:
            return default
        self._missing(name)
        return stored_word(kind, UNREADABLE)

    def add_fault(self, name: str, what: str) -> None:
        """Add what is wrong with a field, in words that follow its name."""
        self.faults.setdefault(name, what)

    def _wrong(self, name: str, value: str, why: str) -> None:
        self.add_fault(name, f"is {readable(value)[:_MAX_SHOWN]!r}, {why}")

    def _missing(self, name: str) -> None:
        if "" not in self.faults:
            self.add_fault(name, "is missing")


def is_instant(ms: int) -> bool:
    """Return whether Unix milliseconds are an instant that can be shown in every zone."""
    return _FIRST_MS <= ms <= _LAST_MS
