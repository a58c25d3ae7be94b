"""What a run printed: collected while it prints, capped, kept as bytes.

Output is never decoded on its way: binary, half a character or the wrong encoding are kept as they
are. Of more than the cap the beginning and the end are kept, with a marker between them, because
the end says how it went (and holds the wake gate's line).
"""

from __future__ import annotations

from collections import deque

import msgspec

CAP_BYTES = 1024 * 1024


class OutputCapture:
    """Collects one stream in bounded memory."""

    def __init__(self, cap_bytes: int = CAP_BYTES) -> None:
        self._half = cap_bytes // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0

    def write(self, chunk: bytes) -> None:
        """Take what was read."""
        room = self._half - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        if not chunk:
            return
        self._tail.append(chunk)
        self._tail_size += len(chunk)
        while self._tail_size - len(self._tail[0]) >= self._half:
            first = self._tail.popleft()
            self._tail_size -= len(first)
            self._dropped += len(first)

    def content(self) -> bytes:
        """All of it, or beginning and end with a marker between."""
        tail = b"".join(self._tail)
        excess = max(len(tail) - self._half, 0)
        cut = self._dropped + excess
        if not cut:
            return bytes(self._head) + tail
        marker = f"\n[... {cut:,} bytes cut: output is kept up to 1 MiB ...]\n".encode()
        return bytes(self._head) + marker + tail[excess:]


def as_text(content: bytes) -> str:
    """Output for people and for prompts: UTF-8, with a sign for each byte that is not."""
    return content.decode("utf-8", errors="replace")


class PrintedPiece(msgspec.Struct, frozen=True, kw_only=True):
    """What was printed since the last look."""

    stdout: bytes = b""
    stderr: bytes = b""
