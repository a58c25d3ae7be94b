"""One attempt to send one part of a delivery: a message, a ping, or no way at all.

An attempt never raises: what stopped it is a value, beside how far it came.
"""

from __future__ import annotations

from typing import Protocol

from hermes_celery.delivery.channels import Channel
from hermes_celery.delivery.message import Message
from hermes_celery.errors import DeliveryFault
from hermes_celery.ping import Ping
from hermes_celery.ping import send as send_ping


class Sender(Protocol):
    """One attempt to send one part."""

    seconds: float

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        """Send from piece `sent` on; how many pieces are sent now, and what stopped it."""


class NoWay:
    """What stopped it before anything was sent."""

    seconds = 0.0

    def __init__(self, error: DeliveryFault) -> None:
        self._error = error

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        return sent, self._error


class PingSender:
    """A ping."""

    def __init__(self, ping: Ping, *, timeout_seconds: float) -> None:
        self._ping = ping
        self._timeout_seconds = timeout_seconds
        self.seconds = 2 * timeout_seconds

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        try:
            send_ping(self._ping, timeout_seconds=self._timeout_seconds)
        except DeliveryFault as error:
            return sent, error
        return 1, None


class MessageSender:
    """A message through a channel, piece by piece; files go with the last one."""

    def __init__(self, message: Message, channel: Channel, *, label: str) -> None:
        self._message = message
        self._channel = channel
        self._label = label
        self._pieces = message.pieces(channel)
        self.seconds = channel.seconds * max(len(self._pieces), 1)

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        for number in range(sent, len(self._pieces)):
            is_last = number + 1 == len(self._pieces)
            try:
                self._channel.send(
                    self._pieces[number],
                    title=self._message.title,
                    files=self._message.files if is_last else (),
                )
            except DeliveryFault as error:
                return number, error
            except Exception as error:  # noqa: BLE001 - a delivery's fault is recorded on it
                return number, DeliveryFault(f"delivery to {self._label} failed: {error}")
        return len(self._pieces), None
