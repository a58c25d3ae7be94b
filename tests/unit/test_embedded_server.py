"""The embedded server's directories: nobody else can enter them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from hermes_celery import embedded_server


def mode(path: Path) -> int:
    """The permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_user_can_enter_the_servers_directories() -> None:
    with tempfile.TemporaryDirectory(prefix="hc-") as place:
        state = Path(place) / "cron"
        state.mkdir(mode=0o755)
        # One that an earlier version left open to all.
        (state / "data").mkdir(mode=0o755)
        embedded_server.server_command(state)
        assert (mode(state), mode(state / "data")) == (0o700, 0o700)


def test_a_usual_umask_opens_no_directory() -> None:
    before = os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="hc-") as place:
            state = Path(place) / "cron"
            embedded_server.server_command(state)
            assert (mode(state), mode(state / "data")) == (0o700, 0o700)
    finally:
        os.umask(before)
