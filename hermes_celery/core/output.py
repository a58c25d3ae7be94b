"""Collect what a run prints, in bounded memory and as bytes.

Output is never decoded before it is shown: binary data, incomplete characters and other encodings
stay as they are. Output over the cap keeps its beginning and end, with a marker between them. The
end says how the run went, and holds the line of the wake gate.
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
        """Append a chunk."""
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
        """Return all of it, or the beginning and end with a marker between them."""
        tail = b"".join(self._tail)
        excess = max(len(tail) - self._half, 0)
        cut = self._dropped + excess
        if not cut:
            return bytes(self._head) + tail
        marker = f"\n[... {cut:,} bytes cut: output is kept up to 1 MiB ...]\n".encode()
        return bytes(self._head) + marker + tail[excess:]


def as_text(content: bytes) -> str:
    """Decode output as UTF-8 for people and prompts; bad bytes become replacement characters."""
    return content.decode("utf-8", errors="replace")


class PrintedPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Output since the previous piece."""

    stdout: bytes = b""
    stderr: bytes = b""
