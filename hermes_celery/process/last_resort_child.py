"""Kill one worker that was told to stop and does not; `last_resort` starts this with each worker.

It learns of a signal from the byte that the C part of Python's handler writes, even when no line of
Python runs in the worker. It is run by its path, without this package and without site-packages.
"""

import os
import select
import signal
import sys
import time

#: The signals of Celery's shutdowns: warm, warm from a terminal (Ctrl-C), and cold.
_STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def main(worker: int, seconds: float, warm: int) -> None:
    """Wait until the worker ends, or until a signal comes and its deadline passes.

    `warm` says which shutdowns may take any time: 0 none, 1 that of a first SIGINT, 2 also that of
    any SIGTERM.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if not _was_told(warm):
        return
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not _is_there(worker, min(0.2, deadline - time.monotonic())):
            return
    if os.getppid() == worker:
        print(
            f"CRITICAL worker.killed: process {worker} was told to stop {seconds:g} s ago and has "
            "not ended, so it is killed with all that it runs; runs that had not ended become lost",
            file=sys.stderr,
            flush=True,
        )
        os.kill(worker, signal.SIGKILL)


def _was_told(warm: int) -> bool:
    """Wait for a signal that starts the deadline; return False if the worker ends without one.

    A warm shutdown that may take any time does not start it.
    """
    interrupts = 0
    while byte := os.read(0, 1):
        number = byte[0]
        interrupts += number == signal.SIGINT
        is_warm = (number == signal.SIGTERM and warm > 1) or (
            number == signal.SIGINT and warm > 0 and interrupts == 1
        )
        if number in _STOPPING and not is_warm:
            return True
    return False


def _is_there(worker: int, seconds: float) -> bool:
    ready, _, _ = select.select([0], [], [], max(seconds, 0))
    if ready and not os.read(0, 4096):
        return False
    return os.getppid() == worker


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
