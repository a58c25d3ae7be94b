"""A project whose own code runs at each publishing: base classes, routers, signals."""

import os
import time
import uuid

from celery import Celery, Task, signals
from notes import note
from redis import Redis

from hermes_celery import Cron

redis = Redis.from_url(os.environ["BROKER"])


class AlreadyQueued(Exception):
    """The lock of a task is already held."""


class QueueOnce(Task):
    """A task that can be queued only once at a time, as with celery-once."""

    abstract = True

    def apply_async(self, args=None, kwargs=None, **options):
        """Publish if the lock is free; otherwise raise AlreadyQueued."""
        note("once", options["task_id"])
        if not redis.set("once:" + self.name, "1", nx=True, ex=60):
            raise AlreadyQueued(self.name)
        return super().apply_async(args, kwargs, **options)

    def after_return(self, *args):
        """Release the lock."""
        redis.delete("once:" + self.name)


class Singleton(Task):
    """A task that returns the result of an already queued one, as with celery-singleton."""

    abstract = True

    def apply_async(self, args=None, kwargs=None, **options):
        """Return another task's result and publish nothing."""
        return self.AsyncResult("one-that-is-queued-already")


class Hiccup(Task):
    """A task whose first publishing fails with a broker error."""

    abstract = True

    def apply_async(self, *args, **kwargs):
        """Raise ConnectionError at the first call."""
        if redis.incr("hiccups") == 1:
            raise ConnectionError("the broker is away")
        return super().apply_async(*args, **kwargs)


class Dropping(Task):
    """A task that ignores the options of `apply_async`."""

    abstract = True

    def apply_async(self, args=None, kwargs=None, **options):
        """Publish without the options."""
        return super().apply_async(args, kwargs)


def route(name, args, kwargs, options, task=None, **kw):
    """Route every second message of one task to a second queue; fail for another task."""
    if name == "publishing.unroutable":
        raise LookupError("no route for it")
    if name == "publishing.routed":
        return {"queue": ("celery", "second")[redis.incr("routed") % 2]}
    return None


app = Celery("publishing", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.task_routes = (route,)
app.conf.task_annotations = {"publishing.annotated": {"expires": 5}}
EVERY = {
    "expiring": 2.0,
    "annotated": 2.0,
    "correlated": 2.0,
    "once": 2.0,
    "singleton": 3.0,
    "hiccup": 2.0,
    "dropping": 3.0,
    "unroutable": 3.0,
    "routed": 2.0,
}
app.conf.beat_schedule = {
    name: {"task": f"publishing.{name}", "schedule": seconds} for name, seconds in EVERY.items()
}
app.conf.beat_schedule["mistaken"] = {
    "task": "publishing.correlated", "schedule": 3.0, "args": ["too", "many"],
}  # fmt: skip


@signals.before_task_publish.connect
def stamp(sender=None, headers=None, **kwargs):
    """Add a correlation id and the time to each message."""
    headers["correlation"] = uuid.uuid4().hex
    headers["sent_at"] = time.time()
    note("before", sender, headers["id"])


@signals.after_task_publish.connect
def count(sender=None, headers=None, **kwargs):
    """Note each published message."""
    note("after", sender, headers["id"])


@app.task(expires=5)
def expiring():
    """Record that this task ran."""
    note("expiring")


@app.task
def annotated():
    """Record that this task ran."""
    note("annotated")


@app.task(bind=True)
def correlated(self):
    """Note the headers of the message."""
    get = self.request.get
    note("correlated", get("correlation"), time.time() - get("sent_at"), get("celery_beat_task"))


@app.task(base=QueueOnce)
def once():
    """Record that this task ran."""
    note("once-ran")


@app.task(base=Singleton)
def singleton():
    """Record that this task ran, which never happens."""
    note("singleton")


@app.task(base=Hiccup)
def hiccup():
    """Record that this task ran."""
    note("hiccup")


@app.task(base=Dropping)
def dropping():
    """Record that this task ran."""
    note("dropping")


@app.task
def unroutable():
    """Record that this task ran, which never happens."""
    note("unroutable")


@app.task(bind=True)
def routed(self):
    """Note the queue of the message."""
    note("routed", self.request.delivery_info["routing_key"])
