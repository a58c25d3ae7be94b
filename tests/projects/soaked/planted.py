"""A bug in the package, in this process: the soak of this project has to turn red on each."""

import os

from hermes_celery.celery_app import continued_runs
from hermes_celery.running.ended_by_celery import RunEnder


def _plant_nothing_expires():
    """Nobody hears that a message expired: its run waits, and its job with it."""
    RunEnder.expired = lambda self, message: None


def _plant_replaced():
    """A run whose task handed it on counts as over."""
    continued_runs.Carrier.is_handed_on = property(lambda self: False, lambda self, is_so: None)


_PLANTS = {"expired": _plant_nothing_expires, "replaced": _plant_replaced}


def plant():
    """Plant what the variable SOAK_PLANT names, if it is set."""
    name = os.environ.get("SOAK_PLANT")
    if name:
        _PLANTS[name]()
