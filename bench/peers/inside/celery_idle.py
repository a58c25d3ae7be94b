"""Times idle ticks of a Celery peer in this process: `python -m ...celery_idle FILE SCHEDULER`.

The scheduler is built by Celery's own beat service, told that beat has begun (RedBeat takes its
lock then), and ticked. The first tick loads everything and is not counted.
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
    """Milliseconds of ticks with nothing due."""
    service = Service(app, scheduler_cls=scheduler, schedule_filename=str(schedule_file))
    ticking = service.scheduler
    # RedBeat listens from when its module is imported, which the line before has done.
    beat_init.send(sender=service)
    took = []
    for _ in range(_TICKS):
        began = time.perf_counter()
        wait_seconds = ticking.tick()
        took.append((time.perf_counter() - began) * 1000)
        if not wait_seconds:
            raise SystemExit("something was due in a tick that was to be idle")
        time.sleep(_PAUSE_SECONDS)
    ticking.close()
    return took[1:]


def main() -> None:
    """Write the times to the file, as JSON."""
    path, scheduler = Path(sys.argv[1]), sys.argv[2]
    if os.environ["PEER_KIND"] == "django":
        import django

        django.setup()
    app.finalize()
    path.write_text(json.dumps(idle_ticks(scheduler, schedule_file=path.with_suffix(".shelve"))))


if __name__ == "__main__":
    main()
