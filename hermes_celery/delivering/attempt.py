"""One attempt to send one part of a delivery: a message or a ping.

An attempt never raises: it returns how far it came and the fault that stopped it. An attempt that
takes too long is abandoned, and told to send nothing more.
"""

from __future__ import annotations

from typing import Protocol

from hermes_celery.delivering.channels import Channel
from hermes_celery.delivering.dead_man_switch import Ping
from hermes_celery.delivering.dead_man_switch import send as send_ping
from hermes_celery.delivering.outgoing_message import Message
from hermes_celery.errors import DeliveryFault


class Attempt(Protocol):
    """One attempt to send one part."""

    seconds: float
    #: Number of pieces that were sent by this attempt or an earlier one.
    sent: int

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        """Send from piece `sent` on; return the number of sent pieces, and the fault if any."""

    def stop(self) -> None:
        """Begin no further piece: the attempt is abandoned."""


class ImpossibleAttempt:
    """An attempt that failed before anything was sent."""

    seconds = 0.0
    sent = 0

    def __init__(self, error: DeliveryFault) -> None:
        self._error = error

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        return sent, self._error

    def stop(self) -> None:
        """Do nothing."""


class PingAttempt:
    """An attempt to send a ping."""

    def __init__(self, ping: Ping, *, timeout_seconds: float) -> None:
        self._ping = ping
        self._timeout_seconds = timeout_seconds
        self.seconds = 2 * timeout_seconds
        self.sent = 0

    def stop(self) -> None:
        """Do nothing: a ping is one request."""

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        try:
            send_ping(self._ping, timeout_seconds=self._timeout_seconds)
        except DeliveryFault as error:
            return sent, error
        return 1, None


class MessageAttempt:
    """An attempt to send a message through a channel, in pieces. Files go with the last piece."""

    def __init__(self, message: Message, channel: Channel, *, label: str) -> None:
        self._message = message
        self._channel = channel
        self._label = label
        self._pieces = message.pieces(channel)
        self.seconds = channel.seconds * max(len(self._pieces), 1)
        self.sent = 0
        self._is_stopped = False

    def stop(self) -> None:
        """Begin no further piece."""
        self._is_stopped = True

    def run(self, sent: int) -> tuple[int, DeliveryFault | None]:
        for number in range(sent, len(self._pieces)):
            self.sent = number
            is_last = number + 1 == len(self._pieces)
            if self._is_stopped:
                return number, DeliveryFault("it took too long")
            try:
                self._channel.send(
                    self._pieces[number],
                    title=self._message.title,
                    files=self._message.files if is_last else (),
                )
            except DeliveryFault as error:
                return number, error
            except Exception as error:  # noqa: BLE001 - the fault is recorded on its delivery
                return number, DeliveryFault(f"delivery to {self._label} failed: {error}")
        return len(self._pieces), None
