"""Resolve `deliver` to targets on this machine, from the environment and targets.toml."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from hermes_celery.core import targets
from hermes_celery.core.job import Origin
from hermes_celery.core.targets import Target, UnknownTarget
from hermes_celery.delivering.attachments import ExtractedFiles, allowed_dirs, extract
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.channel_file import is_file_url, located
from hermes_celery.delivering.platform_urls import read_names
from hermes_celery.errors import DeliveryRefused, JobError, SettingsError, shown
from hermes_celery.events import event

_log = logging.getLogger(__name__)
#: The most targets of one job. Each is a part of every delivery, sent separately.
_MAX_TARGETS = 100


class AddressBook:
    """Resolves targets on this machine.

    Each `open` reads `targets.toml` again, so that changes take effect.
    """

    def __init__(
        self, *, environment: Mapping[str, str], names_path: Path, home: Path, files_dir: Path
    ) -> None:
        self._environment = environment
        self._names_path = names_path
        self._files_dir = files_dir
        self._allowed = allowed_dirs(home, environment)

    def names(self) -> Mapping[str, str]:
        """Return the named targets. Raises SettingsError."""
        return read_names(self._names_path)

    def open(self) -> OpenBook:
        """Return the address book for one delivery."""
        return OpenBook(self, environment=self._environment)

    def attachments(self, text: str) -> ExtractedFiles:
        """Split a text into the text without `MEDIA:` lines and the files that may be sent."""
        return extract(text, allowed=self._allowed)

    def check(self, deliver: str) -> None:
        """Raise JobError for an invalid target, as far as this machine can tell."""
        names = self.names()
        parts = targets.parts_of(deliver)
        if len(parts) > _MAX_TARGETS:
            raise JobError(
                f"cannot deliver to {len(parts):,} targets; at most {_MAX_TARGETS} are allowed; "
                "name one target that forwards the message"
            )
        for part in parts:
            try:
                targets.check(part, names=names)
                if is_file_url(part):
                    located(part, root=self._files_dir)
                elif targets.is_url(part) or part in names:
                    AppriseChannel.check(names.get(part, part))
            except (UnknownTarget, DeliveryRefused) as error:
                raise JobError(f"cannot deliver to that: {error}") from None


class OpenBook:
    """An address book that reads `targets.toml` at most once, when it is first needed."""

    def __init__(self, book: AddressBook, *, environment: Mapping[str, str]) -> None:
        self._book = book
        self._environment = environment

    def targets(self, deliver: str, origin: Origin | None) -> list[Target]:
        """Return every target that `deliver` means, without names while their file is invalid."""
        return targets.resolve(
            deliver, origin=origin, environment=self._environment, names=self._names_or_none
        )

    def without_target(self, deliver: str, origin: Origin | None) -> list[str]:
        """Return the parts of `deliver` that should name a target and resolve to none.

        An `origin` that resolves to none is no fault for Hermes, so it is left out.
        """
        return [
            part
            for part in dict.fromkeys(targets.parts_of(deliver))
            if part not in (targets.LOCAL, targets.ORIGIN) and not self.targets(part, origin)
        ]

    def addressed(self, target: Target) -> Target:
        """Return the target with the URL of its name.

        Raises DeliveryRefused for an unknown name, and SettingsError while the file is invalid.
        """
        if not target.name or target.url:
            return target
        if isinstance(self._names, SettingsError):
            raise self._names
        if target.name not in self._names:
            raise DeliveryRefused(f"targets.toml on this worker has no {shown(target.name)}")
        return msgspec.structs.replace(target, url=self._names[target.name])

    def attachments(self, text: str) -> ExtractedFiles:
        """Split a text into the text without `MEDIA:` lines and the files that may be sent."""
        return self._book.attachments(text)

    @cached_property
    def _names(self) -> Mapping[str, str] | SettingsError:
        try:
            return self._book.names()
        except SettingsError as error:
            return error

    @cached_property
    def _names_or_none(self) -> Mapping[str, str]:
        if isinstance(self._names, SettingsError):
            event(_log, "targets.unreadable", level=logging.ERROR, why=self._names)
            return {}
        return self._names
