"""Measure one step of an idle beat."""

from __future__ import annotations

import time

from bench.bed import Bed
from hermes_celery.scheduling.beat import owner_name
from hermes_celery.scheduling.lease import RENEW_SECONDS
from hermes_celery.store import Waker
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.project_jobs import make_beat

#: The first step is dropped, since it takes the lease and opens connections.
_STEPS = 24


class _NoSleep(Waker):
    """A waker that never sleeps."""

    def wait(self, seconds: float) -> bool:
        """Return at once."""
        return False


def idle_steps(bed: Bed) -> list[float]:
    """Return the milliseconds of single idle steps, at the intervals of a real beat."""
    beat = make_beat(make_app(bed.settings), owner=owner_name())
    # Use the beat that the package builds; replace only its sleep.
    beat._waker = _NoSleep(bed.database)
    steps = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        beat.step()
        steps.append((time.perf_counter() - began) * 1000)
        time.sleep(RENEW_SECONDS)
    beat.stop()
    return steps[1:]
