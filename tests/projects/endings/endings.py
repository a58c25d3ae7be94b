"""What Celery ends by itself: expired, revoked, rejected, unknown, too long, killed."""

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
    """Runs within three seconds, or not at all."""
    note("short")


@app.task
def block(seconds):
    """Occupies a slot."""
    note("block")
    time.sleep(seconds)


@app.task
def slow():
    """Takes half a minute, in small steps."""
    note("slow")
    for _ in range(300):
        time.sleep(0.1)


@app.task
def plain():
    """Says that it ran."""
    note("plain")


@app.task
def reject():
    """Throws its message away."""
    note("reject")
    raise Reject("not today", requeue=False)


@app.task(bind=True, acks_late=True)
def reject_once(self):
    """Puts its message back, once."""
    note("reject_once", self.request.id)
    if not self.request.delivery_info.get("redelivered"):
        raise Reject("once more", requeue=True)


@app.task(time_limit=2)
def hang():
    """Takes too long."""
    note("hang")
    time.sleep(60)


@app.task
def hang_as_the_job_says():
    """Takes too long for its job."""
    time.sleep(60)


@app.task
def die():
    """Kills its own pool process."""
    note("die")
    # Celery has to have read that the task began: whose it was is known to nobody else.
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once():
    """Kills its own pool process, the first time."""
    note("die_once")
    marker = os.environ["NOTES"] + ".died"
    if not os.path.exists(marker):
        open(marker, "w").close()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


class Careful(Task):
    """Fails before its body."""

    def before_start(self, task_id, args, kwargs):
        """Not today."""
        raise RuntimeError("no licence")


@app.task(base=Careful)
def careful():
    """Never called."""
    note("careful")


class Guarded(Task):
    """Decides by itself whether its body is called."""

    def __call__(self, *args, **kwargs):
        """Not for this one."""
        if kwargs.get("call"):
            return super().__call__(*args, **kwargs)
        note("guarded")
        return None


@app.task(base=Guarded)
def guarded(call=False):
    """Called or not."""
    note("called")


@app.task
def exits():
    """Ends its pool process by itself."""
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
    """Some modules are found only when a worker begins."""

    @app.task(name="endings.late")
    def late():
        note("late")
