"""Send through `hermes send`: the platforms of a Hermes installed on this machine.

It reads Hermes' own configuration, so it reaches platforms that apprise does not (Discord's bot,
WhatsApp, plugins). The text goes through standard input and never appears in the list of processes.
Only the end of its output is kept. When its time is over, its whole process group is killed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from hermes_celery.core.targets import Target
from hermes_celery.delivering.splitting import pieces, utf16_length
from hermes_celery.errors import DeliveryFault

#: Hermes' own limits per message (gateway/platforms); other platforms have `_DEFAULT_LIMIT`.
_LIMITS = {
    "discord": 2000, "telegram": 4096, "slack": 39_000, "signal": 8000, "whatsapp": 4096,
    "sms": 1600, "mattermost": 4000, "matrix": 16_000, "dingtalk": 20_000, "feishu": 8000,
    "wecom": 4000, "weixin": 2000, "email": 100_000, "teams": 28_000,
}  # fmt: skip
_DEFAULT_LIMIT = 4096
#: Extra time, because `hermes send` starts a Python interpreter and imports much.
_START_SECONDS = 20.0
#: The kept end of its output, which has the reason of a failure.
_KEPT_BYTES = 64 * 1024
_CHUNK = 16_384
#: The most characters of its last line in an error.
_SHOWN = 2000


class HermesChannel:
    """One target of the installed Hermes."""

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
        """Split the text into pieces of at most the platform's limit."""
        limit = _LIMITS.get(self._target.platform.lower(), _DEFAULT_LIMIT)
        return pieces(text, limit=limit, length=utf16_length)

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Send one piece. Raises DeliveryFault with the last line that Hermes printed."""
        text = "\n".join([piece, *(f"MEDIA:{path}" for path in files)])
        try:
            code, said = self._run([self._command, "send", "--to", self._target.label], text)
        except subprocess.TimeoutExpired:
            raise DeliveryFault(f"`hermes send` took over {self.seconds:g} s") from None
        except OSError as error:
            raise DeliveryFault(f"`hermes send` cannot be started: {error.strerror}") from None
        if code != 0:
            lines = said.strip().splitlines()
            why = lines[-1][-_SHOWN:] if lines else f"`hermes send` ended with exit code {code}"
            raise DeliveryFault(f"delivery error: {why.removeprefix('hermes send: ')}")

    def _run(self, argv: list[str], text: str) -> tuple[int, str]:
        """Run a command; return its exit code and the end of its stderr, or of its stdout.

        Raises OSError and subprocess.TimeoutExpired.
        """
        deadline = time.monotonic() + self.seconds
        with tempfile.TemporaryFile() as given:
            given.write(text.encode(errors="replace"))
            given.seek(0)
            process = subprocess.Popen(
                argv,
                stdin=given,
                env=dict(self._environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        with process:
            try:
                output, errors = _ends_of(process, deadline)
                code = process.wait(max(deadline - time.monotonic(), 0))
            finally:
                # Kill the whole group: a leftover child would hold the output open.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return code, (errors.strip() or output).decode(errors="replace")


def _ends_of(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Return the ends of a process's stdout and stderr. Raises subprocess.TimeoutExpired."""
    kept: dict[object, bytes] = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(max(left, 0))
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                kept[key.fileobj] = (kept[key.fileobj] + chunk)[-_KEPT_BYTES:]
                if not chunk:
                    selector.unregister(key.fileobj)
    return kept[process.stdout], kept[process.stderr]
