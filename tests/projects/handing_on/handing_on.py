"""Tasks that hand their run on, in each way that Celery offers."""

import os
import signal
import time

from celery import Celery, chain, chord, group
from celery.exceptions import Reject
from kombu import Queue
from notes import note

from hermes_celery import Cron

app = Celery("handing_on", broker=os.environ["BROKER"])
app.conf.result_backend = os.environ.get("RESULTS") or None
if os.environ.get("VISIBILITY"):
    app.conf.broker_transport_options = {
        "visibility_timeout": int(os.environ["VISIBILITY"]),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
app.conf.task_queues = [Queue("celery"), Queue("other")]
app.conf.task_default_queue = "celery"
cron = Cron(app)


@app.task
def leaf(name):
    """Stand in for a replaced task."""
    note("leaf", name)
    return f"leaf {name}"


@app.task
def step(name, seconds=0):
    """Be a step of a chain, not the last one."""
    time.sleep(seconds)
    note("step", name)


@app.task
def bad(name):
    """Fail."""
    note("bad", name)
    raise ValueError(f"{name} does not work")


@app.task
def linked(*_):
    """Be the callback of a task; it is no run."""
    note("linked")


@app.task(bind=True)
def single(self):
    """Replace this task by another task."""
    note("body", "single")
    raise self.replace(leaf.s("single"))


@app.task(bind=True)
def immutable(self):
    """Replace this task by an immutable signature."""
    note("body", "immutable")
    raise self.replace(leaf.si("immutable"))


@app.task(bind=True)
def pages(self, page=0):
    """Replace this task by the same task for the next page."""
    note("body", "pages", page)
    if page < 2:
        raise self.replace(self.s(page + 1))
    return f"page {page}"


@app.task(bind=True)
def elsewhere(self):
    """Replace this task by a task on another queue."""
    note("body", "elsewhere")
    raise self.replace(leaf.s("elsewhere").set(queue="other"))


@app.task(bind=True)
def one_link(self):
    """Replace this task by a chain of one task."""
    note("body", "one_link")
    raise self.replace(chain(leaf.s("one_link")))


@app.task(bind=True)
def long_chain(self):
    """Replace this task by a chain, whose last task ends the run."""
    note("body", "long_chain")
    raise self.replace(
        chain(step.si("long_chain"), step.si("long_chain", 2), leaf.si("long_chain"))
    )


@app.task(bind=True)
def broken_chain(self):
    """Replace this task by a chain that fails."""
    note("body", "broken_chain")
    raise self.replace(chain(step.si("broken_chain"), bad.si("broken_chain"), leaf.si("broken")))


@app.task(bind=True, acks_late=True)
def turned_away(self, name):
    """Requeue its own message once."""
    note("turned_away", name)
    if not self.request.delivery_info.get("redelivered"):
        raise Reject("not now", requeue=True)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def dies_once(self, name):
    """Kill the process of this task the first time."""
    note("dies_once", name)
    if not self.request.delivery_info.get("redelivered"):
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, retry_on_worker_lost=True, max_retries=0)
def dies(name):
    """Kill the process of this task; it has no retries."""
    note("dies", name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, acks_late=True)
def held(self, name):
    """Run until the stopping worker ends it."""
    note("held", name)
    if not self.request.delivery_info.get("redelivered"):
        time.sleep(60)


@app.task(bind=True)
def put_back(self):
    """Replace this task by a chain, one step of which is requeued."""
    note("body", "put_back")
    raise self.replace(chain(turned_away.si("put_back"), leaf.si("put_back")))


@app.task(bind=True)
def survives(self):
    """Replace this task by a chain, one step of which is redelivered after its process died."""
    note("body", "survives")
    raise self.replace(chain(dies_once.si("survives"), leaf.si("survives")))


@app.task(bind=True)
def beyond_help(self):
    """Replace this task by a chain, one step of which dies without a retry."""
    note("body", "beyond_help")
    raise self.replace(chain(dies.si("beyond_help"), leaf.si("beyond_help")))


@app.task(bind=True)
def cut_off(self):
    """Replace this task by a chain; the worker stops during a step."""
    note("body", "cut_off")
    raise self.replace(chain(held.si("cut_off"), leaf.si("cut_off")))


@app.task(bind=True)
def to_nobody(self):
    """Replace this task by a chain that begins with an unregistered task."""
    note("body", "to_nobody")
    raise self.replace(chain(app.signature("not.there", immutable=True), leaf.si("to_nobody")))


@app.task(bind=True)
def to_gibberish(self):
    """Replace this task by a chain that begins with an unreadable message."""
    note("body", "to_gibberish")
    first = step.si("to_gibberish").set(shadow={"not": "a text"})
    raise self.replace(chain(first, leaf.si("to_gibberish")))


@app.task(bind=True)
def many(self):
    """Replace this task by a group."""
    note("body", "many")
    raise self.replace(group(leaf.si("many-1"), leaf.si("many-2")))


@app.task(bind=True)
def crowd(self):
    """Replace this task by a chord."""
    note("body", "crowd")
    raise self.replace(chord([step.si("crowd"), step.si("crowd")], leaf.si("crowd")))


@app.task(bind=True)
def bad_crowd(self):
    """Replace this task by a chord, one part of which fails."""
    note("body", "bad_crowd")
    raise self.replace(chord([step.si("bad_crowd"), bad.si("bad_crowd")], leaf.si("bad_crowd")))


@app.task(bind=True)
def again(self):
    """Publish its retry and return."""
    note("body", "again", self.request.id)
    if self.request.retries == 0:
        self.retry(countdown=0, throw=False)
    return f"retry {self.request.retries}"


@app.task(bind=True)
def own_id(self, turn=0):
    """Publish a message with its own id."""
    note("body", "own_id", turn)
    if turn == 0:
        self.apply_async(args=(1,), task_id=self.request.id)
    return f"turn {turn}"


@app.task(bind=True)
def and_raises(self, turn=0):
    """Publish a message with its own id and fail."""
    note("body", "and_raises", turn)
    if turn == 0:
        self.apply_async(args=(1,), task_id=self.request.id)
        raise ValueError("after it had sent itself on")
    return f"turn {turn}"


@app.task(bind=True, acks_late=True, max_retries=2)
def retried(self):
    """Retry twice on another queue."""
    note("body", "retried", self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0, queue="other")
    return "retried"


@app.task(bind=True)
def sidelined(self):
    """Retry on another queue with a lower priority."""
    note("body", "sidelined", self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=0, queue="other", priority=7)
    return "sidelined"


@app.task(bind=True)
def patient(self, word="first", number=6):
    """Retry with other arguments after some seconds."""
    note("body", "patient", word, self.request.retries)
    if self.request.retries == 0:
        raise self.retry(args=("second",), countdown=number)
    return word


@app.task
async def unawaited():
    """Return a coroutine, whose body never runs."""
    note("body", "unawaited")


@app.task
def unwound():
    """Return a generator, whose body never runs."""
    note("body", "unwound")
    yield 1


@app.task
def unkept():
    """Return a value that JSON cannot encode."""
    note("body", "unkept")
    return {"made": object()}


@app.task(ignore_result=True)
def unasked():
    """Return a value that JSON cannot encode, with `ignore_result`."""
    note("body", "unasked")
    return {"made": object()}


@app.task(bind=True)
def unheard(self):
    """Retry over a connection to a broker that does not exist."""
    note("body", "unheard", self.request.retries)
    raise self.retry(countdown=0, connection=app.connection("redis://127.0.0.1:1/0"),
                     retry=False)  # fmt: skip


@app.task(bind=True, max_retries=1)
def in_vain(self):
    """Retry until its limit."""
    note("body", "in_vain", self.request.retries)
    raise self.retry(exc=KeyError("in vain"), countdown=0)


@app.task(autoretry_for=(ZeroDivisionError,), retry_kwargs={"max_retries": 1, "countdown": 0})
def automatic():
    """Fail; Celery retries it."""
    note("body", "automatic")
    return 1 / 0


@app.task
def parent():
    """Publish another task, which is no run."""
    note("body", "parent")
    leaf.delay("child")
    return "parent"


@app.task(bind=True)
def after_its_end(self):
    """Fail; its failure handler publishes it again."""
    note("body", "after_its_end", self.request.retries)
    if self.request.retries == 0:
        raise ValueError("fails once")


def _send_again(self, exc, task_id, args, kwargs, einfo):
    self.apply_async(task_id=task_id, retries=1, headers=self.request.headers)


after_its_end.on_failure = _send_again.__get__(after_its_end)

ALL = (
    single, immutable, pages, elsewhere, one_link, long_chain, broken_chain, again, own_id,
    and_raises, unheard, patient, sidelined, unawaited, unwound, unkept, unasked, retried,
    in_vain, automatic, parent, after_its_end, put_back, survives,
    beyond_help, cut_off, to_nobody, to_gibberish,
)  # fmt: skip
WITH_RESULTS = (many, crowd, bad_crowd)
for task in (*ALL, *(WITH_RESULTS if app.conf.result_backend else ())):
    name = task.name.rpartition(".")[2]
    options = {"link": [linked.si()]} if name == "immutable" else {}
    cron.add(name, "0 0 1 1 *", task=task, options=options)
