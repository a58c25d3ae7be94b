"""Tasks that end by what is no Exception."""

import asyncio
import os
import time

from celery import Celery, Task
from notes import note

from hermes_celery import Cron
from hermes_celery.core.policy import Policy

app = Celery("escapes", broker=os.environ["BROKER"])
app.conf.result_backend = os.environ["BROKER"]
cron = Cron(app)
NEVER = "0 0 1 1 *"


class Odd(BaseException):
    """Of the project's own."""


@app.task
def cancelled():
    """Gives up as a coroutine does."""
    raise asyncio.CancelledError("c")


@app.task
def odd():
    """Raises its own."""
    raise Odd("o")


@app.task
def interrupted():
    """As if somebody had pressed Ctrl-C."""
    raise KeyboardInterrupt


@app.task
def greenlet_exit():
    """Ends its greenlet by itself."""
    from greenlet import GreenletExit

    raise GreenletExit("g")


@app.task(time_limit=30)
def own_timer():
    """Takes longer than it wanted to, which is less than it may."""
    import gevent

    with gevent.Timeout(0.2):
        time.sleep(20)


@app.task(time_limit=2)
def hang():
    """Takes too long."""
    time.sleep(60)


@app.task
def slow():
    """Takes a minute."""
    note("slow")
    time.sleep(60)


@app.task
def plain():
    """Says that it ran."""
    note("plain")


@app.task
def exits():
    """Ends what performs it."""
    raise SystemExit(3)


class Wrapped(Task):
    """Has a `__call__` of its own."""

    def __call__(self, *args, **kwargs):
        """As any other."""
        return super().__call__(*args, **kwargs)


@app.task(base=Wrapped)
def direct():
    """Called without a job."""
    note("direct")
    raise asyncio.CancelledError("d")


for task in (
    cancelled, odd, interrupted, greenlet_exit, own_timer, hang, slow, plain, exits,
):  # fmt: skip
    cron.add(task.name.rpartition(".")[2], NEVER, task=task)
cron.add("hang_again", NEVER, task=hang, policy=Policy(retries=1, retry_wait_seconds=1))
