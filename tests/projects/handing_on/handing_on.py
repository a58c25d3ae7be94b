"""Tasks that hand themselves on, in each way in which Celery lets them."""

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
    """What a task is replaced by."""
    note("leaf", name)
    return f"leaf {name}"


@app.task
def step(name, seconds=0):
    """A step before the last one."""
    time.sleep(seconds)
    note("step", name)


@app.task
def bad(name):
    """A step that fails."""
    note("bad", name)
    raise ValueError(f"{name} does not work")


@app.task
def linked(*_):
    """A callback: no run of anybody."""
    note("linked")


@app.task(bind=True)
def single(self):
    """Replaced by another task."""
    note("body", "single")
    raise self.replace(leaf.s("single"))


@app.task(bind=True)
def immutable(self):
    """Replaced by a task that takes nothing of this one."""
    note("body", "immutable")
    raise self.replace(leaf.si("immutable"))


@app.task(bind=True)
def pages(self, page=0):
    """Replaced by itself, for the next page."""
    note("body", "pages", page)
    if page < 2:
        raise self.replace(self.s(page + 1))
    return f"page {page}"


@app.task(bind=True)
def elsewhere(self):
    """Replaced by a task on another queue."""
    note("body", "elsewhere")
    raise self.replace(leaf.s("elsewhere").set(queue="other"))


@app.task(bind=True)
def one_link(self):
    """Replaced by a chain of one."""
    note("body", "one_link")
    raise self.replace(chain(leaf.s("one_link")))


@app.task(bind=True)
def long_chain(self):
    """Replaced by a chain, whose last task ends the run."""
    note("body", "long_chain")
    raise self.replace(
        chain(step.si("long_chain"), step.si("long_chain", 2), leaf.si("long_chain"))
    )


@app.task(bind=True)
def broken_chain(self):
    """Replaced by a chain that breaks."""
    note("body", "broken_chain")
    raise self.replace(chain(step.si("broken_chain"), bad.si("broken_chain"), leaf.si("broken")))


@app.task(bind=True, acks_late=True)
def turned_away(self, name):
    """A step that is put back on its queue once by its own hand."""
    note("turned_away", name)
    if not self.request.delivery_info.get("redelivered"):
        raise Reject("not now", requeue=True)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def dies_once(self, name):
    """A step whose process dies with it, once."""
    note("dies_once", name)
    if not self.request.delivery_info.get("redelivered"):
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, retry_on_worker_lost=True, max_retries=0)
def dies(name):
    """A step whose process dies with it, and which may not be tried again."""
    note("dies", name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, acks_late=True)
def held(self, name):
    """A step that the worker ends when it stops."""
    note("held", name)
    if not self.request.delivery_info.get("redelivered"):
        time.sleep(60)


@app.task(bind=True)
def put_back(self):
    """Replaced by a chain, a step of which is put back on its queue."""
    note("body", "put_back")
    raise self.replace(chain(turned_away.si("put_back"), leaf.si("put_back")))


@app.task(bind=True)
def survives(self):
    """Replaced by a chain, a step of which comes again after its process died."""
    note("body", "survives")
    raise self.replace(chain(dies_once.si("survives"), leaf.si("survives")))


@app.task(bind=True)
def beyond_help(self):
    """Replaced by a chain, a step of which dies for good."""
    note("body", "beyond_help")
    raise self.replace(chain(dies.si("beyond_help"), leaf.si("beyond_help")))


@app.task(bind=True)
def cut_off(self):
    """Replaced by a chain, during a step of which the worker stops."""
    note("body", "cut_off")
    raise self.replace(chain(held.si("cut_off"), leaf.si("cut_off")))


@app.task(bind=True)
def to_nobody(self):
    """Replaced by a chain that begins with a task that no worker knows."""
    note("body", "to_nobody")
    raise self.replace(chain(app.signature("not.there", immutable=True), leaf.si("to_nobody")))


@app.task(bind=True)
def to_gibberish(self):
    """Replaced by a chain that begins with what no worker can read."""
    note("body", "to_gibberish")
    first = step.si("to_gibberish").set(shadow={"not": "a text"})
    raise self.replace(chain(first, leaf.si("to_gibberish")))


@app.task(bind=True)
def many(self):
    """Replaced by a group."""
    note("body", "many")
    raise self.replace(group(leaf.si("many-1"), leaf.si("many-2")))


@app.task(bind=True)
def crowd(self):
    """Replaced by a chord."""
    note("body", "crowd")
    raise self.replace(chord([step.si("crowd"), step.si("crowd")], leaf.si("crowd")))


@app.task(bind=True)
def bad_crowd(self):
    """Replaced by a chord, a part of which fails."""
    note("body", "bad_crowd")
    raise self.replace(chord([step.si("bad_crowd"), bad.si("bad_crowd")], leaf.si("bad_crowd")))


@app.task(bind=True)
def again(self):
    """Sends itself once more, and returns."""
    note("body", "again", self.request.id)
    if self.request.retries == 0:
        self.retry(countdown=0, throw=False)
    return f"retry {self.request.retries}"


@app.task(bind=True)
def own_id(self, turn=0):
    """Sends a message with its own id."""
    note("body", "own_id", turn)
    if turn == 0:
        self.apply_async(args=(1,), task_id=self.request.id)
    return f"turn {turn}"


@app.task(bind=True)
def and_raises(self, turn=0):
    """Sends a message with its own id, and fails."""
    note("body", "and_raises", turn)
    if turn == 0:
        self.apply_async(args=(1,), task_id=self.request.id)
        raise ValueError("after it had sent itself on")
    return f"turn {turn}"


@app.task(bind=True, acks_late=True, max_retries=2)
def retried(self):
    """Tried again on another queue, with other arguments."""
    note("body", "retried", self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0, queue="other")
    return "retried"


@app.task(bind=True)
def sidelined(self):
    """Tried again on another queue, with a lower priority."""
    note("body", "sidelined", self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=0, queue="other", priority=7)
    return "sidelined"


@app.task(bind=True)
def patient(self, word="first", number=6):
    """Tried again with other arguments, in a while."""
    note("body", "patient", word, self.request.retries)
    if self.request.retries == 0:
        raise self.retry(args=("second",), countdown=number)
    return word


@app.task
async def unawaited():
    """Its body never runs."""
    note("body", "unawaited")


@app.task
def unwound():
    """Its body never runs either."""
    note("body", "unwound")
    yield 1


@app.task
def unkept():
    """Returns what JSON has no word for."""
    note("body", "unkept")
    return {"made": object()}


@app.task(ignore_result=True)
def unasked():
    """Returns what JSON has no word for, and nobody keeps it."""
    note("body", "unasked")
    return {"made": object()}


@app.task(bind=True)
def unheard(self):
    """Tried again while the broker is away, as far as it can tell."""
    note("body", "unheard", self.request.retries)
    raise self.retry(countdown=0, connection=app.connection("redis://127.0.0.1:1/0"),
                     retry=False)  # fmt: skip


@app.task(bind=True, max_retries=1)
def in_vain(self):
    """Tried again until its limit."""
    note("body", "in_vain", self.request.retries)
    raise self.retry(exc=KeyError("in vain"), countdown=0)


@app.task(autoretry_for=(ZeroDivisionError,), retry_kwargs={"max_retries": 1, "countdown": 0})
def automatic():
    """Tried again by Celery."""
    note("body", "automatic")
    return 1 / 0


@app.task
def parent():
    """Publishes a task of its own, which is nobody's run."""
    note("body", "parent")
    leaf.delay("child")
    return "parent"


@app.task(bind=True)
def after_its_end(self):
    """Fails, and is sent again by its own handler for failures."""
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
