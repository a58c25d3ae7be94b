"""`hermes send`: the platforms of a Hermes that is installed beside us.

It reads Hermes' own configuration, so it reaches what apprise does not (Discord's bot, WhatsApp,
plugins). The text goes by standard input and never appears in the list of processes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from hermes_celery.delivery.splitting import pieces, utf16_length
from hermes_celery.delivery.targets import Target
from hermes_celery.errors import DeliveryFault

#: Hermes' own limits per message (gateway/platforms); what is not here takes 4,096.
_LIMITS = {
    "discord": 2000, "telegram": 4096, "slack": 39_000, "signal": 8000, "whatsapp": 4096,
    "sms": 1600, "mattermost": 4000, "matrix": 16_000, "dingtalk": 20_000, "feishu": 8000,
    "wecom": 4000, "weixin": 2000, "email": 100_000, "teams": 28_000,
}  # fmt: skip
_DEFAULT_LIMIT = 4096
#: It starts a Python of its own and imports much.
_START_SECONDS = 20.0


class HermesSend:
    """One target of Hermes'."""

    def __init__(
        self,
        command: str,
        target: Target,
        *,
        timeout_seconds: float,
        environment: Mapping[str, str],
    ) -> None:
        self._command = command
        self._target = target
        self.seconds = timeout_seconds + _START_SECONDS
        self._environment = environment

    def pieces(self, text: str) -> list[str]:
        """The text in pieces of at most the platform's limit."""
        limit = _LIMITS.get(self._target.platform.lower(), _DEFAULT_LIMIT)
        return pieces(text, limit=limit, length=utf16_length)

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Send one piece. Raises DeliveryFault with what Hermes said."""
        text = "\n".join([piece, *(f"MEDIA:{path}" for path in files)])
        try:
            ended = subprocess.run(
                [self._command, "send", "--to", self._target.label],
                input=text,
                env=dict(self._environment),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.seconds,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise DeliveryFault(f"`hermes send` took over {self.seconds:g} s") from None
        except OSError as error:
            raise DeliveryFault(f"`hermes send` cannot be started: {error.strerror}") from None
        if ended.returncode != 0:
            said = (ended.stderr or ended.stdout).strip().splitlines()
            why = said[-1] if said else f"`hermes send` ended with exit code {ended.returncode}"
            raise DeliveryFault(f"delivery error: {why.removeprefix('hermes send: ')}")
