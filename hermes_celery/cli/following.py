"""`logs -f`: print a run's output while it runs, from any machine that reaches the server."""

from __future__ import annotations

import sys
import time
from typing import BinaryIO

from hermes_celery.core.run import Run
from hermes_celery.store import Runs

_POLL_SECONDS = 0.1


class _Stream:
    """One output stream of a run, and how many bytes of it were shown."""

    def __init__(self, sink: BinaryIO, *, is_error: bool) -> None:
        self._sink = sink
        self._is_error = is_error
        self._shown = 0
        self.is_inside_a_line = False

    def show_new(self, runs: Runs, run_id: str) -> None:
        new, size = runs.printed_since(run_id, self._shown, is_error=self._is_error)
        if size < self._shown:
            # A new attempt began: its output starts from zero.
            self._shown = 0
            new, size = runs.printed_since(run_id, 0, is_error=self._is_error)
        self._sink.write(new)
        self._sink.flush()
        self._shown += len(new)
        self.is_inside_a_line = not new.endswith(b"\n") if new else self.is_inside_a_line


def follow(runs: Runs, run_id: str) -> Run:
    """Print a run's output until the run ends; return the ended run. Raises RunNotFound."""
    streams = (
        _Stream(sys.stdout.buffer, is_error=False),
        _Stream(sys.stderr.buffer, is_error=True),
    )
    while True:
        run = runs.get(run_id)
        for stream in streams:
            stream.show_new(runs, run_id)
        if run.state.is_final:
            if any(stream.is_inside_a_line for stream in streams):
                # A task's return value may lack a final line end. It goes to stderr, so that stdout
                # keeps the output byte for byte.
                print(file=sys.stderr)
            return run
        time.sleep(_POLL_SECONDS)
