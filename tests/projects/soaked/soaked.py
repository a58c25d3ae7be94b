"""A project for the soak test; its tasks record each start, and retry, expire or hand their run on.

Each start is one line in a file of the process: run id, attempt, task, number of the retry, time in
ns. A line is one write(2), so that a killed process leaves whole lines.
"""

import os
import secrets
import time

import planted
from celery import Celery, Task

from hermes_celery import Cron
from hermes_celery.core.policy import OnLost, Overlap, Policy
from hermes_celery.session import get_session_env

app = Celery("soaked", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "health_check_interval": 10,
    # Messages of a killed worker are redelivered while the soak still waits for them.
    "visibility_timeout": 20,
    "unacked_restore_throttle": 1,
}
app.conf.worker_disable_prefetch = True
cron = Cron(app)
planted.plant()
_SECOND = "every 1s"


class Stamped(Task):
    """The project's own base class, which adds a header to each message."""

    def apply_async(self, args=None, kwargs=None, **options):
        """Publish with a header of the project's own."""
        headers = {**(options.pop("headers", None) or {}), "correlation": secrets.token_hex(8)}
        return super().apply_async(args, kwargs, headers=headers, **options)


class _Starts:
    """Writes to a file of this process; each forked pool process has its own file."""

    opened = (0, -1)

    def note(self, what, number=0):
        """Record one start."""
        pid, file = self.opened
        if pid != os.getpid():
            name = f"{os.getpid()}-{secrets.token_hex(4)}.lines"
            path = os.path.join(os.environ["SOAK_STARTS"], name)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND)
            # If another thread does the same, there are two files, and both are read.
            self.opened = (os.getpid(), file)
        run_id = get_session_env("HERMES_CRON_RUN_ID")
        attempt = get_session_env("HERMES_CRON_ATTEMPT") or "1"
        os.write(file, f"{run_id} {attempt} {what} {number} {time.time_ns()}\n".encode())


starts = _Starts()


@app.task
def plain():
    """Start and succeed."""
    starts.note("plain")


@app.task(expires=3)
def fresh():
    """Start only while its message has not expired."""
    starts.note("fresh")


@app.task(base=Stamped, bind=True)
def stamped(self):
    """Check that the project's own code made its message."""
    assert self.request.get("correlation"), "the project's header is missing"
    starts.note("stamped")


@app.task(bind=True, max_retries=3)
def again(self):
    """Retry twice."""
    starts.note("again", self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0)


@app.task
def rest():
    """Stand in for `handed`."""
    starts.note("rest")


@app.task(bind=True)
def handed(self):
    """Replace this task by `rest`."""
    starts.note("handed")
    raise self.replace(rest.s())


@app.task
def busy():
    """Occupy a slot for a moment, so that other runs wait."""
    starts.note("busy")
    time.sleep(0.4)


@app.task
def grouped():
    """Run in a group that allows one run at a time over all workers."""
    starts.note("grouped")
    time.sleep(0.05)


#: Declare several jobs of each kind, so that some runs wait when a process is killed.
for number in range(int(os.environ.get("SOAK_JOBS", "3"))):
    for task in (plain, fresh, stamped, again, handed, busy):
        word = task.name.rpartition(".")[2]
        cron.add(f"{word}-{number}", _SECOND, task=task)
    cron.add(
        f"retried-{number}",
        _SECOND,
        task=plain,
        policy=Policy(on_lost=OnLost.RETRY, retry_wait_seconds=1),
    )
    cron.add(f"many-{number}", _SECOND, task=stamped, policy=Policy(overlap=Overlap.ALLOW))
    cron.add(f"held-{number}", _SECOND, task=stamped, policy=Policy(overlap=Overlap.QUEUE_ONE))
    cron.add(f"grouped-{number}", _SECOND, task=grouped, group="one", group_limit=1)
