"""Pairs for the guard: an operation of the package and a bare loop of similar work.

Each side is a function that performs one round and returns the CPU time of the client and the
server. The bare loops are written as simply as possible: `json`, one plain Lua script, integers and
a table. They are a yardstick, not a competitor: their speed depends on the same interpreter, client
and server.
"""

from __future__ import annotations

import gc
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import cast

import msgspec

from bench.bed import Bed, fresh_bed, store_jobs
from bench.messages import OWN_CODE, PLAIN, RUN_ID, applying, building, project
from bench.next_instant import EXPRESSIONS, START, ZONES, ours_ms
from bench.server import BenchError
from bench.whole_path import BARE_LUA
from hermes_celery.clock import ServerClock
from hermes_celery.core.run import Outcome, RunState, run_id_of
from hermes_celery.scheduling.lease import Lease
from hermes_celery.scheduling.look_ahead import LookAhead
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import Claim, DueIndex, Runs
from hermes_celery.wiring.own_app import make_app
from tests.support import messages_of

_DUE_JOBS = 500
_RUNS = 100
_STEPS = 100
_BATCH = 100
_MESSAGES = 100
#: Time before the jobs are due at which the leader plans ahead.
_AHEAD_MS = 1_000

#: State -> number of keys and arguments, as in `claim.lua` and `finish.lua`.
_BARE_SIZES = {"running": (7, 5), "succeeded": (14, 14)}
_BARE_STEP = """
-- KEYS  1 record   2 job   3 sorted set   4 output ...   ARGV  1 state   2 instant   3 output ...
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'changed_ms', ARGV[2], 'attempt', '1')
redis.call('ZADD', KEYS[3], ARGV[2], KEYS[1])
redis.call('ZREM', KEYS[3], KEYS[1])
redis.call('SET', KEYS[4], ARGV[3])
return redis.call('HGET', KEYS[2], 'spec')
"""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds of one round of work."""

    client: float
    #: 0 if the work needs no server.
    server: float = 0.0


#: Performs one round: sets up, works, cleans up. Only the work is counted.
Round = Callable[[], Cost]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """An operation of the package and its bare loop, for the same number of units."""

    ours: Round
    bare: Round


def _client_cost(work: Callable[[], object]) -> Cost:
    # Collect earlier garbage, so that only this work's own garbage counts.
    gc.collect()
    began = time.process_time()
    work()
    return Cost(client=time.process_time() - began)


class _Ground:
    """A server with hourly jobs that are all due at once, and a leader that need not wait."""

    def __init__(self, bed: Bed, *, jobs: int) -> None:
        self.database = bed.database
        self.job_ids = store_jobs(bed, [bed.database.now_ms()] * jobs)
        self._due_index = DueIndex(bed.database)
        self._messages = messages_of(make_app(bed.settings))
        self._ahead = LookAhead(self._due_index, self._messages)
        lease = Lease(bed.database, owner="guard", clock=ServerClock(bed.database.now_ms))
        lease.hold()
        self._token = lease.require()
        self._ticked_ms = 0
        self.tick()
        keys = bed.database.keys
        self.message: str = bed.database.call("LINDEX", keys.default_queue, 0)
        self.spec: str = bed.database.call("HGET", keys.job(self.job_ids[0]), "spec")
        self._clear()

    def tick(self, ahead: LookAhead | None = None) -> None:
        """Dispatch all jobs at their next due time."""
        now_ms = self._ticked_ms = self._due_index.next_due_ms() or 0
        report = Ticker(self._due_index, self._messages, ahead=ahead).tick(
            token=self._token, now_ms=now_ms
        )
        if report.dispatched != len(self.job_ids):
            raise BenchError(f"the tick did not dispatch all {len(self.job_ids)} jobs: {report}")

    def run_ids(self) -> list[str]:
        """Return the run ids of the last tick."""
        return [run_id_of(job_id, self._ticked_ms) for job_id in self.job_ids]

    def look_ahead(self) -> LookAhead:
        """Plan the whole next tick."""
        now_ms = (self._due_index.next_due_ms() or 0) - _AHEAD_MS
        while self._ahead.look(now_ms):
            pass
        if len(self._ahead) != len(self.job_ids):
            raise BenchError(f"{len(self._ahead)} of {len(self.job_ids)} jobs were planned ahead")
        return self._ahead

    def cost(self, work: Callable[[], object]) -> Cost:
        """Return the cost of some work, then delete the keys it wrote."""
        began = self._server_seconds()
        client = _client_cost(work).client
        cost = Cost(client=client, server=self._server_seconds() - began)
        self._clear()
        return cost

    def _server_seconds(self) -> float:
        """Return the CPU time of the server's command thread, in seconds."""
        info: Mapping[str, float] = self.database.call("INFO", "cpu")
        return info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]

    def _clear(self) -> None:
        """Delete all keys except the jobs, so that every round starts from the same state."""
        keys, client = self.database.keys, self.database.client
        kept = {keys.due, keys.term, *(keys.job(job_id) for job_id in self.job_ids)}
        client.unlink(*(key for key in client.scan_iter(count=1_000) if key not in kept))


@contextmanager
def _ground(jobs: int) -> Iterator[_Ground]:
    with fresh_bed() as bed:
        yield _Ground(bed, jobs=jobs)


@contextmanager
def _tick() -> Iterator[Pair]:
    with _ground(_DUE_JOBS) as ground:
        yield Pair(ours=lambda: ground.cost(ground.tick), bare=_bare_dispatch(ground))


@contextmanager
def _tick_planned_ahead() -> Iterator[Pair]:
    with _ground(_DUE_JOBS) as ground:

        def ours() -> Cost:
            ahead = ground.look_ahead()
            return ground.cost(lambda: ground.tick(ahead))

        yield Pair(ours=ours, bare=_bare_prepared_dispatch(ground))


#: Job id, due time and message of a run.
_Sent = tuple[str, str, str]


def _bare_dispatch(ground: _Ground) -> Round:
    """Decode jobs, encode messages, and pass batches of them to a plain Lua loop."""
    encoded, send = _encoding(ground), _sending(ground)

    def work() -> None:
        for batch in _batches(ground):
            send(encoded(batch))

    return lambda: ground.cost(work)


def _bare_prepared_dispatch(ground: _Ground) -> Round:
    """Pass batches whose messages were encoded before to a plain Lua loop.

    Like the steps of a look-ahead, the messages have left the processor's caches by then. How much
    that costs depends on the machine, so both sides must pay it.
    """
    encoded, send = _encoding(ground), _sending(ground)

    def round_() -> Cost:
        batches = [list(encoded(batch)) for batch in _batches(ground)]

        def work() -> None:
            for batch in batches:
                send(batch)

        return ground.cost(work)

    return round_


def _batches(ground: _Ground) -> Iterator[Sequence[str]]:
    for start in range(0, len(ground.job_ids), _BATCH):
        yield ground.job_ids[start : start + _BATCH]


def _encoding(ground: _Ground) -> Callable[[Sequence[str]], Iterator[_Sent]]:
    message = json.loads(ground.message)

    def encoded(batch: Sequence[str]) -> Iterator[_Sent]:
        for job_id in batch:
            due_ms = json.loads(ground.spec)["created_ms"]
            yield job_id, str(due_ms), json.dumps(message)

    return encoded


def _sending(ground: _Ground) -> Callable[[Iterable[_Sent]], None]:
    script = ground.database.client.register_script(BARE_LUA)
    keys = ["bare:queue", "bare:due", "bare:runs"]

    def send(batch: Iterable[_Sent]) -> None:
        args: list[str] = []
        for job_id, due_ms, message in batch:
            args += (job_id, f"{job_id}-{due_ms}", due_ms, message)
        script(keys=keys, args=args)

    return send


@contextmanager
def _claim_and_finish() -> Iterator[Pair]:
    with _ground(_RUNS) as ground:
        runs = Runs(ground.database)
        outcome = Outcome(state=RunState.SUCCEEDED, output=b"done\n", exit_code=0)

        def perform_all(run_ids: Sequence[str]) -> None:
            for run_id in run_ids:
                claim = runs.claim(run_id, token="token", now_ms=1, worker="guard")
                if not isinstance(claim, Claim):
                    raise BenchError(f"run {run_id} could not be claimed: {claim}")
                runs.finish(claim, outcome, now_ms=2)

        def ours() -> Cost:
            ground.tick()
            run_ids = ground.run_ids()
            return ground.cost(lambda: perform_all(run_ids))

        yield Pair(ours=ours, bare=_bare_steps(ground))


def _bare_steps(ground: _Ground) -> Round:
    """Call a plain script twice for each run."""
    script = ground.database.client.register_script(_BARE_STEP)

    def call(job_id: str, state: str, keys: int, args: int) -> None:
        names = [f"bare:{job_id}", ground.database.keys.job(job_id)]
        names += [f"bare:{job_id}:{number}" for number in range(2, keys)]
        json.loads(script(keys=names, args=[state, *range(1, args)]))

    def work() -> None:
        for job_id in ground.job_ids:
            for state, (keys, args) in _BARE_SIZES.items():
                call(job_id, state, keys, args)

    return lambda: ground.cost(work)


@contextmanager
def _next_instant() -> Iterator[Pair]:
    steps = [ours_ms(expression, zone) for zone in ZONES for expression in EXPRESSIONS]

    def ours() -> None:
        for step in steps:
            for _ in range(_STEPS):
                step()

    def bare() -> None:
        at_ms = int(START.timestamp() * 1000)
        for _ in range(_STEPS * len(steps)):
            at_ms = _bare_instant(at_ms)

    yield Pair(ours=lambda: _client_cost(ours), bare=lambda: _client_cost(bare))


@contextmanager
def _plain_message() -> Iterator[Pair]:
    """Build messages of a project's plain task from their template."""
    build = building(project(), PLAIN)
    fields = json.loads(cast(bytes, build()))

    def bare() -> None:
        for number in range(_MESSAGES):
            fields["headers"]["id"] = f"{RUN_ID}-{number}"
            json.dumps(fields)

    yield Pair(ours=lambda: _client_cost(_repeated(build)), bare=lambda: _client_cost(bare))


@contextmanager
def _built_message() -> Iterator[Pair]:
    """Build messages with a project's own code, beside `apply_async` with an open producer."""
    app = project()
    with applying(app, OWN_CODE) as apply_async:
        build = building(app, OWN_CODE)
        yield Pair(
            ours=lambda: _client_cost(_repeated(build)),
            bare=lambda: _client_cost(_repeated(apply_async)),
        )


def _repeated(work: Callable[[], object]) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(_MESSAGES):
            work()

    return repeat


_MINUTES = tuple(range(0, 60, 10))


def _bare_instant(at_ms: int) -> int:
    """Return the next time whose minute is a multiple of ten, computed in the simplest way."""
    at = datetime.fromtimestamp(at_ms // 1000, tz=UTC)
    hours, index = divmod(bisect_right(_MINUTES, at.minute), len(_MINUTES))
    midnight_ms = at_ms - at_ms % 86_400_000
    return midnight_ms + (at.hour + hours) * 3_600_000 + _MINUTES[index] * 60_000


PAIRS: Mapping[str, Callable[[], AbstractContextManager[Pair]]] = {
    "tick": _tick,
    "tick planned ahead": _tick_planned_ahead,
    "claim + finish": _claim_and_finish,
    "next instant": _next_instant,
    "plain task's message": _plain_message,
    "message with own code": _built_message,
}
