"""Times idle ticks of a Celery peer in this process: `python -m ...celery_idle FILE SCHEDULER`.

Celery's own beat service builds the scheduler. Then the signal `beat_init` is sent, at which
RedBeat takes its lock, and the scheduler ticks. The first tick loads all entries and is not
counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from celery.beat import Service
from celery.signals import beat_init

from bench.peers.inside.celery_app import app

_TICKS = 24
_PAUSE_SECONDS = 0.25


def idle_ticks(scheduler: str, *, schedule_file: Path) -> list[float]:
    """Return the milliseconds of ticks with nothing due."""
    service = Service(app, scheduler_cls=scheduler, schedule_filename=str(schedule_file))
    ticking = service.scheduler
    # RedBeat connects to this signal when its module is imported, which the line above does.
    beat_init.send(sender=service)
    took = []
    for _ in range(_TICKS):
        began = time.perf_counter()
        wait_seconds = ticking.tick()
        took.append((time.perf_counter() - began) * 1000)
        if not wait_seconds:
            raise SystemExit("an entry was due in a tick that should be idle")
        time.sleep(_PAUSE_SECONDS)
    ticking.close()
    return took[1:]


def main() -> None:
    """Measure and write the times to the file as JSON."""
    path, scheduler = Path(sys.argv[1]), sys.argv[2]
    if os.environ["PEER_KIND"] == "django":
        import django

        django.setup()
    app.finalize()
    path.write_text(json.dumps(idle_ticks(scheduler, schedule_file=path.with_suffix(".shelve"))))


if __name__ == "__main__":
    main()
