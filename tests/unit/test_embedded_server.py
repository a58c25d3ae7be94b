"""Only the owner can enter the embedded server's directories."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from hermes_celery import embedded_server


def mode(path: Path) -> int:
    """Return the permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def test_the_servers_directories_are_closed_even_if_they_were_open() -> None:
    with tempfile.TemporaryDirectory(prefix="hc-") as place:
        state = Path(place) / "cron"
        state.mkdir(mode=0o755)
        # An earlier version left this directory open to all users.
        (state / "data").mkdir(mode=0o755)
        embedded_server.server_command(state)
        assert (mode(state), mode(state / "data")) == (0o700, 0o700)


def test_new_server_directories_are_closed_under_the_usual_umask() -> None:
    before = os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="hc-") as place:
            state = Path(place) / "cron"
            embedded_server.server_command(state)
            assert (mode(state), mode(state / "data")) == (0o700, 0o700)
    finally:
        os.umask(before)
