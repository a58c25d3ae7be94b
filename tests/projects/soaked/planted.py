"""Plants a bug in the package within this process; the soak test must fail on each."""

import os

from hermes_celery.celery_app import continued_runs
from hermes_celery.running.ended_by_celery import RunEnder


def _plant_nothing_expires():
    """Ignore expired messages, so that their runs stay queued and block their jobs."""
    RunEnder.expired = lambda self, message: None


def _plant_replaced():
    """Treat a handed-on run as finished."""
    continued_runs.Carrier.is_handed_on = property(lambda self: False, lambda self, is_so: None)


_PLANTS = {"expired": _plant_nothing_expires, "replaced": _plant_replaced}


def plant():
    """Plant the bug that the variable SOAK_PLANT names, if it is set."""
    name = os.environ.get("SOAK_PLANT")
    if name:
        _PLANTS[name]()
