"""What `deliver` means on this machine: its environment and its targets.toml."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hermes_celery.core import targets
from hermes_celery.core.job import Origin
from hermes_celery.core.targets import Target, UnknownTarget
from hermes_celery.delivering.attachments import ExtractedFiles, allowed_dirs, extract
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.channel_file import is_file_url, located
from hermes_celery.delivering.platform_urls import read_names
from hermes_celery.errors import DeliveryRefused, JobError, SettingsError
from hermes_celery.events import event

_log = logging.getLogger(__name__)
#: Each is a part of every delivery, sent by itself.
_MAX_TARGETS = 100


class AddressBook:
    """Resolves targets; `targets.toml` is read each time, so that a change holds at once."""

    def __init__(
        self, *, environment: Mapping[str, str], names_path: Path, home: Path, files_dir: Path
    ) -> None:
        self._environment = environment
        self._names_path = names_path
        self._files_dir = files_dir
        self._allowed = allowed_dirs(home, environment)

    def names(self) -> Mapping[str, str]:
        """The named targets. Raises SettingsError."""
        return read_names(self._names_path)

    def targets(self, deliver: str, origin: Origin | None) -> list[Target]:
        """Every place that `deliver` means now; without names while their file is at fault."""
        return self._resolved(deliver, origin, self._names())

    def without_target(self, deliver: str, origin: Origin | None) -> list[str]:
        """The parts of `deliver` that should mean a place and mean none now.

        Hermes takes it for no fault when `origin` means nothing.
        """
        names = self._names()
        return [
            part
            for part in dict.fromkeys(targets.parts_of(deliver))
            if part not in (targets.LOCAL, targets.ORIGIN)
            and not self._resolved(part, origin, names)
        ]

    def attachments(self, text: str) -> ExtractedFiles:
        """A text without its `MEDIA:` lines, and the files that may go with it."""
        return extract(text, allowed=self._allowed)

    def check(self, deliver: str) -> None:
        """Raise JobError for what cannot be delivered to, as far as this machine can know."""
        names = self.names()
        parts = targets.parts_of(deliver)
        if len(parts) > _MAX_TARGETS:
            raise JobError(
                f"cannot deliver to {len(parts):,} targets; {_MAX_TARGETS} are the most; name "
                "one that passes the message on"
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

    def _names(self) -> Mapping[str, str]:
        try:
            return self.names()
        except SettingsError as error:
            event(_log, "targets.unreadable", level=logging.ERROR, why=error)
            return {}

    def _resolved(
        self, deliver: str, origin: Origin | None, names: Mapping[str, str]
    ) -> list[Target]:
        return targets.resolve(deliver, origin=origin, environment=self._environment, names=names)
