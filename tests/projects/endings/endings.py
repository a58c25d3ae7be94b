"""Tasks that Celery itself ends: expired, revoked, rejected, unregistered, timed out, killed."""

import os
import signal
import time

from celery import Celery, Task
from celery.exceptions import Reject
from notes import note

from hermes_celery import Cron

app = Celery("endings", broker=os.environ["BROKER"])
app.conf.result_backend = os.environ.get("RESULTS") or None
app.conf.worker_disable_prefetch = "NO_PREFETCH" in os.environ
cron = Cron(app)
NEVER = "0 0 1 1 *"
app.conf.beat_schedule = {
    "short": {"task": "endings.short", "schedule": 4.0, "options": {"expires": 3}},
    "cleanup": {"task": "celery.backend_cleanup", "schedule": 2.0},
    "late": {"task": "endings.late", "schedule": 2.0},
}


@app.task
def short():
    """Run; the message expires after three seconds."""
    note("short")


@app.task
def block(seconds):
    """Occupy a slot."""
    note("block")
    time.sleep(seconds)


@app.task
def slow():
    """Run for half a minute, in small steps."""
    note("slow")
    for _ in range(300):
        time.sleep(0.1)


@app.task
def plain():
    """Record that this task ran."""
    note("plain")


@app.task
def reject():
    """Reject its message."""
    note("reject")
    raise Reject("not today", requeue=False)


@app.task(bind=True, acks_late=True)
def reject_once(self):
    """Requeue its message once."""
    note("reject_once", self.request.id)
    if not self.request.delivery_info.get("redelivered"):
        raise Reject("once more", requeue=True)


@app.task(time_limit=2)
def hang():
    """Exceed the time limit of the task."""
    note("hang")
    time.sleep(60)


@app.task
def hang_as_the_job_says():
    """Exceed the time limit of the job."""
    time.sleep(60)


@app.task
def die():
    """Kill the pool process of this task."""
    note("die")
    # Celery must first read that the task has started; otherwise it cannot name the task.
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once():
    """Kill the pool process of this task the first time."""
    note("die_once")
    marker = os.environ["NOTES"] + ".died"
    if not os.path.exists(marker):
        open(marker, "w").close()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


class Careful(Task):
    """A task that fails before its body runs."""

    def before_start(self, task_id, args, kwargs):
        """Raise an error."""
        raise RuntimeError("no licence")


@app.task(base=Careful)
def careful():
    """Record that this task ran; it is never called."""
    note("careful")


class Guarded(Task):
    """A task whose `__call__` decides whether the body runs."""

    def __call__(self, *args, **kwargs):
        """Call the body only if the argument `call` is true."""
        if kwargs.get("call"):
            return super().__call__(*args, **kwargs)
        note("guarded")
        return None


@app.task(base=Guarded)
def guarded(call=False):
    """Record that the body was called."""
    note("called")


@app.task
def exits():
    """Exit from its pool process."""
    raise SystemExit(3)


for name in (
    "block", "plain", "reject", "reject_once", "hang", "hang_as_the_job_says", "die", "die_once",
    "careful", "exits",
):  # fmt: skip
    options = {"time_limit": 2} if name == "hang_as_the_job_says" else {}
    args = (30,) if name == "block" else ()
    cron.add(name, NEVER, task=f"endings.{name}", args=args, options=options)
cron.add("slow", NEVER, task=slow)
cron.add("guarded", NEVER, task=guarded)
cron.add("called", NEVER, task=guarded, kwargs={"call": True})
cron.add("stamped", NEVER, task=plain, options={"stamped_headers": ["team"], "team": "blue"})
cron.add("unknown", NEVER, task="endings.is_nowhere")


from celery.signals import worker_init  # noqa: E402


@worker_init.connect
def register_late(**_):
    """Register a task when the worker starts, like a module imported late."""

    @app.task(name="endings.late")
    def late():
        note("late")
