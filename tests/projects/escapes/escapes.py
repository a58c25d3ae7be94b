"""Tasks that raise a BaseException."""

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
    """An exception class of the project's own."""


@app.task
def cancelled():
    """Raise the exception of a cancelled coroutine."""
    raise asyncio.CancelledError("c")


@app.task
def odd():
    """Raise the project's own exception."""
    raise Odd("o")


@app.task
def interrupted():
    """Raise KeyboardInterrupt, as Ctrl-C does."""
    raise KeyboardInterrupt


@app.task
def greenlet_exit():
    """Exit from its greenlet."""
    from greenlet import GreenletExit

    raise GreenletExit("g")


@app.task(time_limit=30)
def own_timer():
    """Exceed its own timer, but not its time limit."""
    import gevent

    with gevent.Timeout(0.2):
        time.sleep(20)


@app.task(time_limit=2)
def hang():
    """Exceed its time limit."""
    time.sleep(60)


@app.task
def slow():
    """Run for a minute."""
    note("slow")
    time.sleep(60)


@app.task
def plain():
    """Record that this task ran."""
    note("plain")


@app.task
def exits():
    """Exit from the process or thread that runs it."""
    raise SystemExit(3)


class Wrapped(Task):
    """A task with a `__call__` of its own."""

    def __call__(self, *args, **kwargs):
        """Call the body."""
        return super().__call__(*args, **kwargs)


@app.task(base=Wrapped)
def direct():
    """Raise CancelledError in a task that no job runs."""
    note("direct")
    raise asyncio.CancelledError("d")


for task in (
    cancelled, odd, interrupted, greenlet_exit, own_timer, hang, slow, plain, exits,
):  # fmt: skip
    cron.add(task.name.rpartition(".")[2], NEVER, task=task)
cron.add("hang_again", NEVER, task=hang, policy=Policy(retries=1, retry_wait_seconds=1))
