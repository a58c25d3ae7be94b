"""Arguments, options and names of all kinds; each task notes the values it receives."""

import os
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from celery import Celery
from kombu import Queue
from notes import note

from hermes_celery import Cron

app = Celery("typed", broker=os.environ["BROKER"])
app.conf.accept_content = ["json", "pickle"]
# A worker run by root reads pickle only with C_FORCE_ROOT.
app.conf.task_queues = [Queue("celery"), Queue("{celery}")]
cron = Cron(app)

VALUES = {
    "instant": datetime(2024, 1, 2, tzinfo=UTC),
    "day": date(2024, 1, 2),
    "time": time(3, 4),
    "uuid": UUID(int=5),
    "decimal": Decimal("1.10"),
    "bytes": b"abc",
    "inf": float("inf"),
}


@app.task
def values(word, *args, **kwargs):
    """Note the `repr` of each argument."""
    for name, value in [*enumerate(args), *kwargs.items()]:
        note(word, name, repr(value).replace(" ", ""))


@app.task(bind=True)
def told(self, word):
    """Note a header and the priority of the message."""
    note(word, getattr(self.request, "tenant", None), self.request.delivery_info["priority"])


@app.task(name="a task's näme with blanks")
def blanks(*_):
    """Record that this task ran."""
    note("blanks")


@app.task(bind=True)
def queued(self):
    """Note the queue of the message."""
    note("queue", self.request.delivery_info["routing_key"])


@app.task
def half():
    """Record that this task ran, twice a second."""
    note("half")


@app.on_after_configure.connect
def add_more(sender, **_):
    """Add a periodic task as Celery's documentation does."""
    sender.add_periodic_task(1, blanks.s("x" * 500))


@app.on_after_finalize.connect
def add_last(sender, **_):
    """Add a periodic task whose signature has options."""
    sender.add_periodic_task(1.0, told.s("added").set(headers={"tenant": "b"}), name="added")


app.conf.beat_schedule = {
    "values": {
        "task": "typed.values",
        "schedule": 1,
        "args": ("json", VALUES["day"]),
        "kwargs": VALUES,
    },
    "pickled": {
        "task": "typed.values",
        "schedule": 1,
        "args": ("pickle", (1, [date(2024, 1, 2)]), {1: float("-inf")}),
        "kwargs": VALUES,
        "options": {"serializer": "pickle"},
    },
    "told": {
        "task": "typed.told",
        "schedule": 1,
        "args": ("told",),
        "options": {"headers": {"tenant": "a"}, "priority": 10, "expires": 600},
    },
    "linked": {
        "task": "typed.half",
        "schedule": 1,
        "options": {
            "link": app.signature("typed.values", ("linked", date(2024, 1, 2)), immutable=True)
        },
    },
    "queued": {"task": "typed.queued", "schedule": 1, "options": {"queue": "{celery}"}},
    "blanks": {"task": "a task's näme with blanks", "schedule": 1},
    "half": {"task": "typed.half", "schedule": 0.5},
    "function": {"task": "typed.half", "schedule": 1, "kwargs": {"then": lambda: half}},
    "lifetime": {
        "task": "typed.half",
        "schedule": 1,
        "options": {"expires": timedelta(minutes=5)},
    },
}
