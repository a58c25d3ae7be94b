"""Record what version 0.1.0 stores: a namespace with everything in it, as JSON lines on stdout.

    python tests/data/stored/record.py > tests/data/stored/0.1.0.jsonl

It imports 0.1.0 from the wheel beside this directory and nothing else of this repository, starts a
Valkey of its own, and stands at a fixed instant. There are two namespaces, with one shard and with
four. The first line says when it was; each other one is a key: its type, its value, and how long it
is still to live, in milliseconds, or null. Bytes that are no UTF-8 are {"base64": ...}.
"""

# mypy: ignore-errors
# It speaks to 0.1.0, whose interface is not that of this tree.

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
WHEEL = HERE.parent / "wheels" / "hermes_celery-0.1.0-py3-none-any.whl"
NAMESPACES = {"recorded-1": 1, "recorded-4": 4}
NOON_MS = 1_782_129_600_000  # 2026-06-22T12:00:00Z
#: What is gone so soon is no part of what is stored (the lease).
SHORT_MS = 10_000


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.ms = NOON_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


class Recorded:
    """One namespace of 0.1.0."""

    def __init__(self, url: str, namespace: str, shards: int, home: Path) -> None:
        from hermes_celery.announcing import Announcer
        from hermes_celery.app import make_app
        from hermes_celery.cron import Crontab
        from hermes_celery.dispatch import Dispatch
        from hermes_celery.keys import Keys
        from hermes_celery.lease import Lease
        from hermes_celery.ping import Pinger

        from hermes_celery.settings import read_settings
        from hermes_celery.store import (
            Database,
            Deliveries,
            DueIndex,
            Incidents,
            Jobs,
            Places,
            Runs,
            connect,
        )

        environment = {
            "HERMES_REDIS_URL": url,
            "HERMES_CELERY_NAMESPACE": namespace,
            "HERMES_HOME": str(home),
        }
        self.clock = Clock()
        self.home = home
        self.database = Database(connect(url), keys=Keys(namespace=namespace))
        if shards > 1:
            self.database.call("SET", self.database.keys.shards, shards)
        self.jobs, self.runs = Jobs(self.database), Runs(self.database)
        self.places, self.deliveries = Places(self.database), Deliveries(self.database)
        self.incidents = Incidents(self.database)
        self.messages = Dispatch(make_app(read_settings(environment)))
        self.announcer = Announcer(self.messages, pinger=Pinger(timeout_seconds=1))
        self.shards = [
            (DueIndex(self.database, shard=shard),
             Lease(self.database, owner=f"beat.example:{shard}", clock=self.clock, shard=shard))
            for shard in range(shards)
        ]  # fmt: skip
        self.token = 0
        self.cron = Crontab(
            jobs=self.jobs,
            runs=self.runs,
            due=DueIndex(self.database),
            clock=self.clock,
            messages=lambda: self.messages,
            default_timezone="UTC",
            check_files=lambda _: None,
        )

    # --- acts -----------------------------------------------------------------------------------

    def add(self, name: str, schedule: str = "every 1h", **fields) -> str:
        from hermes_celery.job import JobRequest

        work = {"script": f"{name}.sh", "no_agent": True}
        if any(kind in fields for kind in ("http", "task", "prompt")):
            work = {}
        request = JobRequest(schedule=schedule, name=name, **{**work, **fields})
        return self.cron.add(request).id

    def tick(self) -> None:
        from hermes_celery.tick import tick

        for due, lease in self.shards:
            lease.release()
            tick(due, self.messages, token=lease.hold(), now_ms=self.clock.ms)
        self.token = self.shards[0][1].token or 0

    def latest(self, name: str, **fields) -> str:
        return self.cron.latest_runs(name, **fields)[0].id

    def claim(self, run_id: str):
        return self.runs.claim(
            run_id, token=f"claim-{run_id[-6:]}", now_ms=self.clock.ms, worker="celery@example:7"
        )

    def end(self, run_id: str, state: str, **fields) -> None:
        """Claim a run and finish it, its delivery planned as a worker does."""
        from hermes_celery.run import Outcome, RunState

        retry_at_ms = fields.pop("retry_at_ms", None)
        claim = self.claim(run_id)
        self.places.enter(claim, now_ms=self.clock.ms)
        self.clock.advance(1)
        outcome = Outcome(state=RunState(state), **fields)
        if outcome.usage is not None:
            self.places.spend(claim, outcome.usage, now_ms=self.clock.ms)
        self.runs.finish(
            claim,
            outcome,
            now_ms=self.clock.ms,
            retry_at_ms=retry_at_ms,
            follow_up=self.announcer.follow_up(claim, outcome),
        )
        self.places.leave(claim)

    def deliver(self, run_id: str) -> None:
        from hermes_celery.delivery.book import AddressBook
        from hermes_celery.delivery.channels import Channels

        from hermes_celery.delivering import Deliverer

        book = AddressBook(
            environment={},
            names_path=self.home / "targets.toml",
            home=self.home,
            files_dir=self.home / "output",
        )
        Deliverer(
            deliveries=self.deliveries,
            incidents=self.incidents,
            jobs=self.jobs,
            runs=self.runs,
            book=book,
            channels=Channels(environment={}, names=book.names, files_dir=self.home / "output",
                              timeout_seconds=0.5, hermes_command="hermes"),
            clock=self.clock,
            wrap=True,
            first_wait_seconds=10,
            timeout_seconds=0.5,
            jitter=lambda: 1.0,
        ).deliver(run_id)  # fmt: skip

    # --- the scene ------------------------------------------------------------------------------

    def fill(self) -> None:
        """Jobs, runs, deliveries and incidents of every kind and state."""
        for _, lease in self.shards:
            lease.hold()
        self.add_jobs()
        self.clock.advance(3600)
        self.tick()
        self.perform()
        self.miss_and_overlap()
        self.lose()
        self.trouble()

    def add_jobs(self) -> None:
        from hermes_celery.job import JobRequest, Origin
        from hermes_celery.managed import synchronise
        from hermes_celery.policy import CatchUp, OnLost, Overlap, Policy
        from hermes_celery.work import HttpCall, TaskCall

        from hermes_celery.instant import from_ms

        self.add("disks", deliver="file://disks", failure_deliver="file://faults")
        self.add(
            "agent",
            "0 9 * * 1-5",
            timezone="Europe/Berlin",
            prompt="näh — 🜲",
            skills=["a"],
            context_from="disks",
            model="m",
            provider="p",
            workdir=None,
            reasoning="high",
            enabled_toolsets=["web"],
            attach_to_session=True,
            token_budget=1000,
            cost_budget=2.5,
            session="origin",
            ping="https://ping.example/token",
            origin=Origin(platform="telegram", chat_id="1", thread_id="2", user_name="u"),
        )
        self.add("budget", prompt="count", token_budget=100)
        self.add(
            "hook",
            http=HttpCall(
                url="https://example.com/x",
                method="POST",
                body="b",
                headers={"X-A": "1"},
                expect=(200, 204),
            ),
        )
        self.add(
            "task",
            task=TaskCall(
                name="shop.report", args=[1, "x"], kwargs={"full": True}, options={"priority": 3}
            ),
            queue="shop",
            priority=5,
        )
        self.add("one-shot", "in 30m")
        self.add("thrice", "every 20m", repeat=3)
        self.add("paused")
        self.cron.pause("paused", reason="holiday")
        self.add("late", policy=Policy(grace_seconds=60, catch_up=CatchUp.SKIP))
        self.add("all", "every 10m", policy=Policy(catch_up=CatchUp.ALL, catch_up_limit=9))
        self.add("waits", "every 30m", policy=Policy(overlap=Overlap.QUEUE_ONE))
        self.add("beside", policy=Policy(overlap=Overlap.ALLOW, max_active=3))
        self.add("replaces", policy=Policy(overlap=Overlap.REPLACE))
        self.add("expires", policy=Policy(expires_seconds=60))
        self.add(
            "again",
            policy=Policy(retries=3, retry_wait_seconds=60, pause_after=5),
            timeout_seconds=9.5,
            interpreter="python3",
        )
        self.add("lost")
        self.add("lost-again", policy=Policy(on_lost=OnLost.RETRY))
        self.add("running")
        self.add("silent", deliver="file://silent")
        self.add("undelivered", deliver="file://../outside,file://fine")
        self.add("unplanned", deliver="file://later")
        self.add("unreachable", deliver="json://127.0.0.1:1/token")
        self.add("cancelled")
        self.add("timed-out", failure_deliver="file://faults", template="{{ job.name }}")
        self.add("first", group="g", group_limit=1)
        self.add("second", group="g", group_limit=1)
        self.add(
            "bounded",
            start=from_ms(NOON_MS),
            end=from_ms(NOON_MS + 86_400_000),
            exclude=["2026-12-24"],
            jitter_seconds=30,
        )
        broken = self.add("broken")
        key = self.database.keys.job(broken)
        spec = json.loads(self.database.call("HGET", key, "spec"))
        self.database.call("HSET", key, "spec", json.dumps({**spec, "schedule": "no schedule"}))
        names = ("nightly", "hourly")
        synchronise(
            self.jobs,
            {name: JobRequest(schedule="every 1h", name=name, task=TaskCall(name="shop.far"))
             for name in names},
            manager="project:shop",
            now=from_ms(self.clock.ms),
            default_timezone="UTC",
        )  # fmt: skip

    def perform(self) -> None:
        """Runs end in every way."""
        from hermes_celery.live import Printed
        from hermes_celery.run import Usage

        self.end(self.latest("disks"), "succeeded", output=b"10 % free\n\xff\n", exit_code=0)
        self.deliver(self.latest("disks"))
        failed = self.cron.run("disks", key="once")
        self.end(failed, "failed", error="exit code 3", exit_code=3, stderr=b"no disk\n")
        self.deliver(failed)
        self.end(
            self.latest("budget"), "succeeded", output=b"1", usage=Usage(tokens=120, cost_usd=0.5)
        )
        self.end(self.latest("hook"), "failed", error="HTTP 500", reason="status 500")
        self.end(self.latest("one-shot"), "succeeded", output=b"done")
        self.end(self.latest("silent"), "succeeded", silent=True)
        self.deliver(self.latest("silent"))
        self.end(self.latest("undelivered"), "succeeded", output=b"to nobody")
        self.deliver(self.latest("undelivered"))
        self.end(self.latest("unplanned"), "succeeded", output=b"not yet planned")
        self.end(self.latest("unreachable"), "succeeded", output=b"once more")
        self.deliver(self.latest("unreachable"))
        self.end(self.latest("timed-out"), "timed_out", error="took longer than 60 s")
        self.deliver(self.latest("timed-out"))
        self.end(
            self.latest("again"),
            "failed",
            error="first try",
            exit_code=1,
            retry_at_ms=self.clock.ms + 60_000,
        )
        self.cron.cancel(self.latest("cancelled"), reason="by hand")
        first, second = self.claim(self.latest("first")), self.claim(self.latest("second"))
        self.places.enter(first, now_ms=self.clock.ms)
        self.places.enter(second, now_ms=self.clock.ms)
        running = self.claim(self.latest("running"))
        printed = {running.run_id: Printed(stdout=b"half\n", stderr=b"note\n")}
        self.runs.heartbeat({running.run_id: running.token}, now_ms=self.clock.ms, printed=printed)

    def miss_and_overlap(self) -> None:
        """Hours without a beat; what still runs holds the next back."""
        from hermes_celery.instant import from_ms

        lost = [self.claim(self.latest(name)) for name in ("lost", "lost-again")]
        self.claims = {claim.run_id: claim for claim in lost}
        self.clock.advance(7200)
        self.tick()
        self.cron.backfill("beside", start=from_ms(NOON_MS - 3 * 3_600_000), end=from_ms(NOON_MS))
        # Alive to the end.
        for name in ("running", "first"):
            run_id = next(run.id for run in self.cron.latest_runs(name) if run.started_at)
            token = self.database.call("HGET", self.database.keys.run(run_id), "claim")
            groups = {run_id: "g"} if name == "first" else {}
            self.runs.heartbeat({run_id: token}, now_ms=self.clock.ms + 3_000, groups=groups)

    def lose(self) -> None:
        """A pass of rescue over runs whose workers are gone."""
        from hermes_celery.rescue import rescue

        self.clock.advance(3)
        rescue(self.jobs, self.runs, self.messages, token=self.token, now_ms=self.clock.ms)
        run_id = self.latest("expires")
        self.clock.advance(61)
        self.claim(run_id)
        for name in ("running", "first"):
            run_id = next(run.id for run in self.cron.latest_runs(name) if run.started_at)
            token = self.database.call("HGET", self.database.keys.run(run_id), "claim")
            self.runs.heartbeat({run_id: token}, now_ms=self.clock.ms)

    def trouble(self) -> None:
        """Incidents open, acknowledged and closed, a notice, a switch that was used, a worker."""
        from hermes_celery.incidents import Kind

        kinds = {kind.value: kind for kind in Kind}
        for number, kind in enumerate(kinds.values()):
            self.incidents.note(f"{number:012x}", kind, f"about {kind}", now_ms=self.clock.ms)
        self.incidents.ack(f"{0:012x}", now_ms=self.clock.ms)
        closed = [one for one in self.incidents.of_job("") if one.id == f"{1:012x}"]
        self.incidents.close(
            closed, job_id="", now_ms=self.clock.ms + 2, worked_ms=self.clock.ms + 1
        )
        self.deliveries.notice(
            "notice-1",
            "a notice",
            deliver="file://notices",
            job_id="",
            incident=f"{2:012x}",
            count=1,
            now_ms=self.clock.ms,
        )
        self.cron.pause_all(note="for a moment")
        self.cron.resume_all()
        self.database.call("ZADD", self.database.keys.workers, self.clock.ms, "celery@example:7")


def lines(client, clock_ms: int):
    """The whole server as values of JSON."""
    yield {"now_ms": clock_ms, "made_by": "hermes-celery 0.1.0"}
    for key in sorted(client.keys("*")):
        ttl = client.pttl(key)
        if 0 <= ttl < SHORT_MS:
            continue
        kind = client.type(key).decode()
        yield {
            "key": text(key),
            "type": kind,
            "value": _READ[kind](client, key),
            "ttl_ms": ttl if ttl >= 0 else None,
        }


def text(value: bytes):
    """As text where it is some."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


_READ = {
    "string": lambda client, key: text(client.get(key)),
    "hash": lambda client, key: {text(k): text(v) for k, v in client.hgetall(key).items()},
    "list": lambda client, key: [text(v) for v in client.lrange(key, 0, -1)],
    "set": lambda client, key: sorted(text(v) for v in client.smembers(key)),
    "zset": lambda client, key: [
        [text(v), score] for v, score in client.zrange(key, 0, -1, withscores=True)
    ],
}


def main() -> None:
    # Celery writes into each message where it was made.
    socket.gethostname = lambda: "beat.example"
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        place = Path(directory)
        with zipfile.ZipFile(WHEEL) as wheel:
            wheel.extractall(place / "old")
        sys.path.insert(0, str(place / "old"))
        import redis

        from hermes_celery import embedded

        assert Path(embedded.__file__).is_relative_to(place), "this is not the old version"
        server = subprocess.Popen(embedded.server_command(place), stdout=subprocess.DEVNULL)
        try:
            url = embedded.url(place)
            client = redis.Redis.from_url(url)
            while not answers(client):
                time.sleep(0.05)
            now_ms = 0
            for namespace, shards in NAMESPACES.items():
                recorded = Recorded(url, namespace, shards, place / namespace)
                recorded.fill()
                now_ms = recorded.clock.ms
            for line in lines(client, now_ms):
                text = json.dumps(line, ensure_ascii=False, sort_keys=True)
                print(text.replace(directory, "/srv/hermes"))
        finally:
            server.kill()
            server.wait()


def answers(client) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False


if __name__ == "__main__":
    main()
