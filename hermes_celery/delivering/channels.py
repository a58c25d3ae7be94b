"""The delivery channels: apprise, `hermes send`, a local file. A message takes exactly one of them.

`Channels.way_to` returns the channel of a target, or raises a fault that no further attempt can
change.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hermes_celery.core.targets import PLATFORMS, Target
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.channel_file import FileChannel, is_file_url
from hermes_celery.delivering.channel_hermes import HermesChannel
from hermes_celery.delivering.platform_urls import apprise_url
from hermes_celery.errors import DeliveryRefused, shown


class Channel(Protocol):
    """A channel to one target."""

    #: The longest time that sending one piece takes.
    seconds: float

    def pieces(self, text: str) -> list[str]:
        """Split the text into pieces that the target accepts."""

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Send one piece. Raises DeliveryFault."""


class Channels:
    """Finds the channel of a target on this machine."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        files_dir: Path,
        timeout_seconds: float,
        hermes_command: str = "hermes",
    ) -> None:
        self._environment = environment
        self._files_dir = files_dir
        self._timeout_seconds = timeout_seconds
        self._hermes_command = hermes_command

    def way_to(self, target: Target) -> Channel:
        """Return the channel of a target; a named target must have its URL (`OpenBook.addressed`).

        Raises DeliveryRefused if there is none.
        """
        if target.platform and target.platform.lower() not in PLATFORMS:
            raise DeliveryRefused(f"unknown platform {shown(target.platform)}")
        url = target.url
        if url and is_file_url(url):
            return FileChannel(url, root=self._files_dir)
        url = url or apprise_url(target, self._environment) or ""
        if url and AppriseChannel.is_installed():
            return AppriseChannel(url, platform=target.platform,
                                  timeout_seconds=self._timeout_seconds)  # fmt: skip
        hermes = shutil.which(self._hermes_command) if target.platform else None
        if hermes:
            return HermesChannel(hermes, target, timeout_seconds=self._timeout_seconds,
                              environment=self._environment)  # fmt: skip
        if url:
            raise DeliveryRefused(AppriseChannel.INSTALL)
        raise DeliveryRefused(f"platform {shown(target.platform)} not configured/enabled")
