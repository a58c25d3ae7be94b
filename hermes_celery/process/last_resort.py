"""Kill a worker that was told to stop and does not end, with everything that it runs.

A warm shutdown waits for runs; at the end of the grace it cancels them, and scripts are killed five
seconds later. But a task may swallow the interruption, block in C code so that no line of Python
runs, or hang in a call to a server. So a small process watches each worker and kills it twelve
seconds after its grace. In a project, a warm shutdown waits for its tasks as Celery's does; there
the time counts from the signal of a cold shutdown. Pool processes end with their parent
(`parent_death`), and scripts by the `orphan_reaper`. Runs that had not ended lose their heartbeat
and become `lost`; deliveries lose their claim.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

#: Seconds after the grace: half a second for a run to notice its cancellation, five for scripts to
#: end, and two for Celery to stop, as it polls its pool processes every half second. The rest is
#: for machines that are busy.
PATIENCE_SECONDS = 12.0
_CHILD = Path(__file__).with_name("last_resort_child.py")


class LastResort:
    """Starts the watching process of a worker; used in the main thread of its main process."""

    def __init__(self, *, grace_seconds: float, waits_when_warm: bool, is_remapped: bool) -> None:
        """Choose the deadline and the signals that count.

        `waits_when_warm`: a warm shutdown may take any time, as in a project. `is_remapped`:
        SIGTERM means a cold shutdown, as with REMAP_SIGTERM=SIGQUIT.
        """
        self._seconds = grace_seconds + PATIENCE_SECONDS
        self._warm = 0
        if waits_when_warm:
            # Celery treats a second SIGINT as a cold shutdown and ignores a second SIGTERM.
            self._warm = 1 if is_remapped else 2
        self._owner = 0
        self._pipe = -1

    def start(self) -> bool:
        """Start watching.

        Returns False if another program handles the signals, as when the worker runs in a thread.
        Raises OSError if no process can be started.
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
        """Detach a pool process: signals to it are not signals to the worker."""
        if self._pipe != -1 and self._owner != os.getpid():
            signal.set_wakeup_fd(-1)
            os.close(self._pipe)
            self._pipe = -1
