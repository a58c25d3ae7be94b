"""The end of a worker that was told to stop and cannot: killed, with what it runs.

A warm shutdown waits for runs; at the end of the grace it cancels them, and scripts end by KILL
five seconds later. But a task may swallow its interruption, sit in a call to C that lets no line of
Python run, or hang in a far end. So a small process of its own watches each worker and kills it
eight seconds after its grace. In a project a warm shutdown waits for its tasks, as Celery's does;
there the time counts from the signal of a cold shutdown. Pool processes end with their parent
(`parent_death`), scripts by the `orphan_reaper`; runs that had not ended lose their heartbeat and
are `lost`, and deliveries their claim.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

#: After the grace: five seconds in which scripts end, and three to record that.
PATIENCE_SECONDS = 8.0
_CHILD = Path(__file__).with_name("last_resort_child.py")


class LastResort:
    """What watches this worker's main process; to be started in its main thread."""

    def __init__(self, *, grace_seconds: float, waits_when_warm: bool, is_remapped: bool) -> None:
        """`waits_when_warm`: a warm shutdown may take as long as it likes, as in a project.

        `is_remapped`: SIGTERM is a cold shutdown there, as REMAP_SIGTERM=SIGQUIT makes it.
        """
        self._seconds = grace_seconds + PATIENCE_SECONDS
        self._warm = 0
        if waits_when_warm:
            # A second SIGINT is a cold shutdown, a second SIGTERM is not heard.
            self._warm = 1 if is_remapped else 2
        self._owner = 0
        self._pipe = -1

    def start(self) -> bool:
        """Begin; False where signals are somebody else's business: a worker in a thread of theirs.

        Raises OSError when no process can be started.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            if before != -1:
                signal.set_wakeup_fd(before)
                os.close(writing)
                return False
            subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(_CHILD),
                    str(os.getpid()),
                    str(self._seconds),
                    str(self._warm),
                ],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reading)
        self._owner, self._pipe = os.getpid(), writing
        return True

    def leave(self) -> None:
        """In a pool process: its signals are not the worker's."""
        if self._pipe != -1 and self._owner != os.getpid():
            signal.set_wakeup_fd(-1)
            os.close(self._pipe)
            self._pipe = -1
