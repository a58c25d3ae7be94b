"""An old project: old names of settings, tasks as classes, tasks by name."""

from celery import Celery, Task, chain, chord
from notes import note

from hermes_celery import Cron

app = Celery("legacy", config_source="oldsettings")
cron = Cron(app)


@app.task(name="count")
def count(x, y):
    """Add two numbers."""
    note("count-every-two-seconds", x + y)
    return x + y


@app.task(name="poll", bind=True, default_retry_delay=1)
def poll(self):
    """Poll for news; the first attempt always fails."""
    if self.request.retries == 0:
        raise self.retry(countdown=1)
    note("poll", self.request.retries)


class Backup(Task):
    """A task as a class."""

    name = "slow.backup"

    def run(self, into):
        """Copy everything."""
        note("back-up-at-night", into)
        return into


app.register_task(Backup())


@app.task(name="add")
def add(x, y):
    """Add two numbers."""
    return x + y


@app.task(name="total")
def total(numbers):
    """Add many numbers."""
    note("total", sum(numbers))
    return sum(numbers)


@app.task(name="month_end")
def month_end():
    """Start a chord and a chain."""
    chord((add.s(n, n) for n in range(3)), total.s()).delay()
    chain(add.s(1, 1), count.s(2)).delay()
    note("month-end")
