"""Tests of the declarer: which declarations it stores, and which jobs it leaves alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from hermes_celery.celery_app.declarer import Declarer
from hermes_celery.cli import main
from hermes_celery.cli.screen import refused_row
from hermes_celery.core.declared import Declaration
from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import JobState, UnreadableJob
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.instant import from_ms
from hermes_celery.scheduling.declared_jobs import managed_id
from hermes_celery.settings import read_settings
from hermes_celery.store import CheckMode, Database, Declarations, Formats, Incidents, Jobs
from hermes_celery.wiring.project import Cron
from hermes_celery.wiring.project_jobs import make_beat_sign, make_declarer
from hermes_celery.wiring.watchdogs import make_examiner, make_sweep
from tests.support import replaced, server_clock

MANAGER = "project:shop"
_Beat = Callable[[Celery, str], Declarer]


@pytest.fixture
def make_project(valkey_url: str, namespace: str, tmp_path: Path) -> Callable[..., Celery]:
    """Return a function that makes an app with a cron and these `beat_schedule` entries."""

    def make(name: str = "shop", **entries: object) -> Celery:
        broker = valkey_url.replace("unix://", "redis+socket://")
        app = Celery(name, broker=broker, set_as_current=False)
        app.conf.beat_schedule = {
            entry: {"task": "shop.work", "schedule": given} for entry, given in entries.items()
        }
        environment = {
            "HERMES_REDIS_URL": valkey_url,
            "HERMES_CELERY_NAMESPACE": namespace,
            "HERMES_HOME": str(tmp_path),
        }
        Cron(app, settings=read_settings(environment))
        return app

    return make


@pytest.fixture
def beat(valkey: Database) -> _Beat:
    """Return a function that makes a leader's declarer, after its beat announced its jobs."""

    def make(app: Celery, owner: str) -> Declarer:
        make_beat_sign(app, owner=owner).say()
        clock = server_clock(valkey)
        return make_declarer(app, app.conf.hermes_settings, valkey, owner=owner, clock=clock)

    return make


def names(database: Database) -> set[str]:
    return {job.name for job in Jobs(database).all()}


def gone(database: Database, owner: str) -> None:
    """Take off the signs of a beat that has stopped."""
    Formats(database).say_gone(f"beat {owner}")
    Declarations(database).say_gone(owner)


def test_an_entry_that_0_1_0_stored_with_skip_allows_overlap_after_the_first_sync(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    leader, jobs = beat(make_project(stock=3.0), "a"), Jobs(valkey)
    leader.begin(valkey.now_ms())
    job = jobs.find("stock")
    old = replaced(job, spec=replaced(job.spec, policy=Policy(), declared_in=None))
    jobs.change(old, was=job)
    leader.begin(valkey.now_ms())
    now = jobs.find("stock")
    assert now.spec.policy.overlap is Overlap.ALLOW
    assert (now.next_run_at, now.spec.anchor_ms) == (job.next_run_at, job.spec.anchor_ms)


def test_a_job_that_another_living_beat_declares_is_not_removed(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    older = beat(make_project(stock=3.0, gone=60.0), "a")
    older.begin(valkey.now_ms())
    newer = beat(make_project(stock=3.0, new=60.0), "b")
    newer.begin(valkey.now_ms())
    assert names(valkey) == {"stock", "gone", "new"}
    gone(valkey, "a")
    newer.step(valkey.now_ms() + 3_001)
    assert names(valkey) == {"stock", "new"}


def test_a_job_that_another_project_declared_is_not_changed(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    """Both apps have one name, and both declare `stock`."""
    first = make_project(stock=3.0)
    beat(first, "a").begin(valkey.now_ms())
    stranger = Declaration(
        project="shop (module other)", jobs={managed_id("project:shop", "stock"): "stock"}
    )
    jobs = Jobs(valkey)
    job = jobs.find("stock")
    jobs.change(replaced(job, spec=replaced(job.spec, declared_in="module other")), was=job)
    make_beat_sign(first, owner="c").say()
    Declarations(valkey).say("c", stranger)
    second = beat(make_project(stock=60.0), "b")
    gone(valkey, "a")
    second.begin(valkey.now_ms())
    assert jobs.find("stock").spec.schedule == "every 3s"
    (refusal,) = [one for one in Declarations(valkey).refusals() if one.is_refused]
    assert refusal.name == "stock"
    assert "shop (module other) declares a job of that name" in refusal.why


def test_an_unreadable_beat_schedule_removes_no_job(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    beat(make_project(stock=3.0), "a").begin(valkey.now_ms())
    gone(valkey, "a")
    app = make_project()
    app.conf.beat_schedule = ["stock"]
    beat(app, "b").begin(valkey.now_ms())
    assert names(valkey) == {"stock"}
    assert [one.name for one in Declarations(valkey).refusals()] == ["app.conf.beat_schedule"]


def test_an_entry_with_the_name_of_an_added_job_is_refused_and_that_job_runs(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app = make_project(stock=3.0, other=60.0)
    Cron(app).add("stock", "every 5m", task="shop.elsewhere")
    leader, jobs = beat(app, "a"), Jobs(valkey)
    leader.begin(valkey.now_ms())
    leader.begin(valkey.now_ms())
    assert jobs.find("stock").spec.schedule == "every 5m"
    assert names(valkey) == {"stock", "other"}
    (refusal,) = [one for one in Declarations(valkey).refusals() if one.is_refused]
    assert (refusal.name, refusal.job_id) == ("stock", jobs.find("stock").id)
    assert refusal.text == (
        "job 'stock' of beat_schedule of app shop is refused: two declarations are named 'stock': "
        "this entry of beat_schedule does not run, but the one of cron.add in module "
        "tests.store.test_declarer does; rename one of them"
    )
    assert [one.text for one in Incidents(valkey).of_job("")] == [refusal.text]
    del app.conf.beat_schedule["stock"]
    leader.begin(valkey.now_ms())
    assert [one for one in Declarations(valkey).refusals() if one.is_refused] == []
    assert Incidents(valkey).of_job("") == []


def test_an_added_job_replaces_the_entry_that_celery_would_install(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app = make_project(stock=3.0)
    app.conf.result_backend = "file:///tmp"
    name = "celery.backend_cleanup"
    Cron(app).add(name, "0 5 * * *", task=name)
    beat(app, "a").begin(valkey.now_ms())
    assert Jobs(valkey).find(name).spec.schedule == "0 5 * * *"
    assert [one for one in Declarations(valkey).refusals() if one.is_refused] == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"start": datetime.fromisoformat("2026-12-05")}, "2026-12-05T00:00:00 has no time zone"),
        ({"start": "2026-12-05"}, "start is '2026-12-05'; it must be a datetime"),
        ({"jitter_seconds": -1}, "jitter of -1 seconds is negative"),
        ({"retry": 3}, "a job has no field retry"),
        ({"schedule": "60 * * * *"}, "60"),
        ({"task": 5}, "its task is 5"),
    ],
    ids=str,
)
def test_an_invalid_field_refuses_its_job_alone_and_the_stored_job_stays_unchanged(
    make_project: Callable[..., Celery],
    beat: _Beat,
    valkey: Database,
    fields: dict[str, Any],
    why: str,
) -> None:
    whole = make_project()
    Cron(whole).add("iv", "every 10m", task="shop.work")
    beat(whole, "one").begin(1_000)
    gone(valkey, "one")
    before = Jobs(valkey).find("iv")

    app = make_project()
    Cron(app).add("iv", **{"schedule": "every 20m", "task": "shop.work", **fields})
    Cron(app).add("other", "every 5m", task="shop.work")
    beat(app, "two").begin(2_000)
    assert names(valkey) == {"iv", "other"}
    assert Jobs(valkey).find("iv") == before
    (refusal,) = [one for one in Declarations(valkey).refusals() if one.is_refused]
    assert refusal.text.startswith("job 'iv' of cron.add in module tests.store.test_declarer is re")
    assert why in refusal.why


def test_a_long_name_of_a_refused_job_is_cut_everywhere(
    make_project: Callable[..., Celery],
    beat: _Beat,
    valkey: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_project()
    Cron(app).add("y" * 10_000, "every 1h", task="shop.work")
    beat(app, "one").begin(1_000)

    (refusal,) = [one for one in Declarations(valkey).refusals() if one.is_refused]
    (incident,) = Incidents(valkey).open()
    (line,) = [one.getMessage() for one in caplog.records if "job.refused" in one.getMessage()]
    for text in (refusal.text, incident.text, line, " ".join(refused_row(refusal))):
        assert "yyy…" in text
        assert len(text) < 500


def test_texts_that_cannot_be_stored_refuse_their_jobs_and_the_others_run(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    lone = "\ud800"
    app = make_project(fine=3.0, **{f"entry{lone}": 4.0, "broken": object()})
    app.conf.beat_schedule["args"] = {"task": "shop.work", "schedule": 3.0, "args": (lone,)}
    cron = Cron(app)
    cron.add(f"name{lone}", "every 1h", task="shop.work")
    cron.add("prompt", "every 1h", prompt=f"x{lone}")
    cron.add("script", "every 1h", script=f"x{lone}.sh", no_agent=True)
    cron.add("deliver", "every 1h", task="shop.work", deliver=f"telegram:{lone}")
    cron.add("template", "every 1h", task="shop.work", template=lone)
    cron.add("task", "every 1h", task=f"shop.{lone}")
    cron.add("good", "every 1h", task="shop.work")
    beat(app, "one").begin(valkey.now_ms())
    stored = names(valkey)
    assert {"fine", "good"} <= stored
    assert [name for name in stored if name.startswith("entry")]
    refused = {one.name for one in Declarations(valkey).refusals() if one.is_refused}
    assert refused == {
        "args", "broken", "deliver", "name?", "prompt", "script", "task", "template"
    }  # fmt: skip
    assert set(cron.refused()) == refused


def test_thirty_refusals_are_twenty_one_incidents(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app = make_project(**{f"e{number}": object() for number in range(30)})
    beat(app, "a").begin(valkey.now_ms())
    assert len(Declarations(valkey).refusals()) == 30
    texts = [one.text for one in Incidents(valkey).of_job("")]
    assert len(texts) == 21
    assert any(text.startswith("10 more declared jobs are refused") for text in texts)
    gone(valkey, "a")
    app.conf.beat_schedule = {}
    beat(app, "b").begin(valkey.now_ms())
    assert Declarations(valkey).refusals() == []
    assert Incidents(valkey).of_job("") == []


def test_a_new_leader_closes_an_earlier_leaders_incident_about_sharing(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app, incidents = make_project(stock=3.0), Incidents(valkey)
    shared = Trouble(kind=TroubleKind.NAMESPACE, subject="sharing", text="two projects")
    incidents.report(shared, now_ms=1)
    make_beat_sign(app, owner="c").say()
    Declarations(valkey).say("c", Declaration(project="blog", jobs={"b" * 12: "post"}))
    leader, now_ms = beat(app, "a"), valkey.now_ms()
    leader.begin(now_ms)
    leader.step(now_ms)
    # The other project still shares the namespace, though it is too early to report it.
    assert [one.text for one in incidents.of_job("")] == ["two projects"]
    gone(valkey, "c")
    leader.step(now_ms + 3_001)
    assert incidents.of_job("") == []


def test_our_own_app_declares_nothing(valkey: Database) -> None:
    app = Celery("hermes_celery", set_as_current=False)
    app.conf.hermes_is_own_app = True
    app.conf.hermes_settings = read_settings({})
    make = make_declarer(
        app, app.conf.hermes_settings, valkey, owner="a", clock=server_clock(valkey)
    )
    make.begin(valkey.now_ms())
    assert names(valkey) == set()


def examined(database: Database, *, mends: bool) -> list[str]:
    """Examine all records as fsck does; return the findings."""
    examiner = make_examiner(database, BrokerNames())
    mode = CheckMode(now_ms=database.now_ms(), mends=mends, is_deep=True)
    pages = examiner.records.everything(shards=1)
    found = [one for page in pages for one in examiner.page(page, mode)]
    assert all(one.is_mended is mends for one in found)
    return list(dict.fromkeys(one.text for one in found))


@pytest.mark.parametrize("loss", ["deleted", "of another type", "one member"])
def test_jobs_of_a_lost_set_are_found_again_and_removed_as_usual(
    make_project: Callable[..., Celery],
    beat: _Beat,
    valkey: Database,
    loss: str,
) -> None:
    beat(make_project(stock=3.0, old=60.0), "a").begin(valkey.now_ms())
    gone(valkey, "a")
    key, old = valkey.keys.managed(MANAGER), managed_id(MANAGER, "old")
    whole = Jobs(valkey).managed_by(MANAGER)
    assert len(whole) == 2
    if loss == "one member":
        valkey.call("SREM", key, old)
    else:
        valkey.call("DEL", key)
    if loss == "of another type":
        valkey.call("SET", key, "garbage")
        (text,) = examined(valkey, mends=False)
        assert text == f"key {key!r} is a string, not a set; moved to quarantine"
    else:
        (text,) = examined(valkey, mends=False)
        count = "1 job" if loss == "one member" else "2 jobs"
        assert text.startswith(f"key {key!r} lacked {count} that its project declared")
        assert old in text

    newer = beat(make_project(stock=3.0), "b")
    now_ms = valkey.now_ms()
    if loss != "of another type":
        newer.begin(now_ms)
        assert names(valkey) == {"stock", "old"}
    assert examined(valkey, mends=True) != []
    assert examined(valkey, mends=False) == []
    assert Jobs(valkey).managed_by(MANAGER) == whole
    if loss == "of another type":
        newer.begin(now_ms)
    newer.step(now_ms + 5_001)
    assert names(valkey) == {"stock"}
    assert examined(valkey, mends=False) == []


#: Ways to spoil a job's record, as commands; {key} is its key.
UNREADABLE: dict[str, list[tuple[str | bytes, ...]]] = {
    "garbage": [("HSET", "{key}", "spec", '{"id":')],
    "no definition": [("HDEL", "{key}", "spec")],
    "not UTF-8": [("HSET", "{key}", "spec", b"\xff\xfe")],
    "another job's": [("HSET", "{key}", "spec", '{"id":"bbbbbbbbbbbb","name":"x"}')],
    "no revision": [("HDEL", "{key}", "spec", "revision")],
    "another type": [("DEL", "{key}"), ("SET", "{key}", "garbage")],
}


def spoil(database: Database, job_id: str, how: str) -> None:
    for command in UNREADABLE[how]:
        words = (w.format(key=database.keys.job(job_id)) if w == "{key}" else w for w in command)
        database.call(*words)
    assert isinstance(Jobs(database).get_many([job_id])[job_id], UnreadableJob)


def events_of(log: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [one.getMessage() for one in log.records if one.getMessage().startswith(name)]


@pytest.mark.parametrize("is_new_beat", [True, False], ids=["new beat", "same beat"])
@pytest.mark.parametrize("how", UNREADABLE)
def test_a_declared_job_whose_record_is_unreadable_is_written_again(
    make_project: Callable[..., Celery],
    beat: _Beat,
    valkey: Database,
    caplog: pytest.LogCaptureFixture,
    how: str,
    is_new_beat: bool,
) -> None:
    app, jobs, now_ms = make_project(stock=3.0, other=60.0), Jobs(valkey), valkey.now_ms()
    caplog.set_level(logging.INFO)
    leader = beat(app, "a")
    leader.begin(now_ms)
    before, other = jobs.find("stock"), jobs.find("other")
    spoil(valkey, before.id, how)
    if is_new_beat:
        beat(app, "b").begin(now_ms + 1)
    else:
        leader.step(now_ms + 5_001)
    after = jobs.find("stock")
    assert (after.spec.schedule, after.state) == (before.spec.schedule, JobState.SCHEDULED)
    assert after.next_run_at is not None
    assert valkey.call("ZSCORE", valkey.keys.due_of(0), after.id) is not None
    assert jobs.find("other") == other
    assert [one for one in Declarations(valkey).refusals() if one.is_refused] == []
    assert Incidents(valkey).of_job("") == []
    assert len(events_of(caplog, "job.rewritten")) == 1
    assert len(events_of(caplog, "job.added")) == 2
    leader.step(now_ms + 10_002)
    assert jobs.find("stock") == after


@pytest.mark.parametrize("is_planned", [True, False])
def test_a_job_that_is_written_again_keeps_its_pause_its_counts_and_its_next_instant(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database, is_planned: bool
) -> None:
    app, jobs, now_ms = make_project(stock=3.0, other=60.0), Jobs(valkey), valkey.now_ms()
    leader = beat(app, "a")
    leader.begin(now_ms)
    for name in ("stock", "other"):
        job = jobs.find(name)
        valkey.call("HSET", valkey.keys.job(job.id), "completed", 7, "next_ms", now_ms + 86_400_000)
        job = jobs.find(name)
        if name == "stock":
            paused = {"state": JobState.PAUSED, "paused_at": from_ms(now_ms)}
            jobs.change(replaced(job, **paused, paused_reason="holiday"), was=job)
    before = {name: jobs.find(name) for name in ("stock", "other")}
    for job in before.values():
        spoil(valkey, job.id, "garbage")
        if not is_planned:
            # As the sweep does with a job that it cannot plan.
            valkey.call("HSET", valkey.keys.job(job.id), "state", "error")
            valkey.call("HDEL", valkey.keys.job(job.id), "next_ms")
    leader.step(now_ms + 5_001)
    for name, was in before.items():
        now = jobs.find(name)
        assert (now.state, now.paused_reason) == (was.state, was.paused_reason)
        assert (now.completed, now.paused_at) == (7, was.paused_at)
        assert (now.next_run_at == was.next_run_at) is is_planned
        assert now.next_run_at is not None


def test_a_one_shot_that_is_written_again_during_its_run_stays_under_way(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app, jobs, now_ms = make_project(), Jobs(valkey), valkey.now_ms()
    Cron(app).add("once", "in 1h", task="shop.work")
    leader = beat(app, "a")
    leader.begin(now_ms)
    key = valkey.keys.job(jobs.find("once").id)
    valkey.call("HSET", key, "completed", 1)
    valkey.call("HDEL", key, "next_ms")
    spoil(valkey, jobs.ids_named("once")[0], "garbage")
    leader.step(now_ms + 5_001)
    job = jobs.find("once")
    assert (job.state, job.next_run_at, job.completed) == (JobState.SCHEDULED, None, 1)


def test_the_last_of_many_declared_jobs_is_written_again_too(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app = make_project(**{f"e{number}": 60.0 for number in range(260)})
    leader, jobs, now_ms = beat(app, "a"), Jobs(valkey), valkey.now_ms()
    leader.begin(now_ms)
    last = managed_id(MANAGER, "e259")
    for first_ms in (now_ms, now_ms + 20_000):
        spoil(valkey, last, "garbage")
        leader.step(first_ms + 5_001)
        leader.step(first_ms + 10_002)
        assert jobs.get(last).name == "e259"


def test_a_job_of_a_newer_version_is_not_written_again(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    leader, now_ms = beat(make_project(stock=3.0), "a"), valkey.now_ms()
    leader.begin(now_ms)
    key = valkey.keys.job(managed_id(MANAGER, "stock"))
    spec = json.loads(valkey.call("HGET", key, "spec"))
    newer = json.dumps({**spec, "policy": {"overlap": "negotiate"}})
    valkey.call("HSET", key, "spec", newer)
    leader.step(now_ms + 5_001)
    leader.begin(now_ms + 5_002)
    assert valkey.call("HGET", key, "spec") == newer


def test_the_incident_about_an_unreadable_job_ends_when_it_is_written_again(
    make_project: Callable[..., Celery], beat: _Beat, valkey: Database
) -> None:
    app, now_ms, incidents = make_project(stock=3.0), valkey.now_ms(), Incidents(valkey)
    leader, sweep = beat(app, "a"), make_sweep(app.conf.hermes_settings)
    leader.begin(now_ms)
    job_id = managed_id(MANAGER, "stock")
    spoil(valkey, job_id, "no definition")
    sweep.put_off(job_id, "has no definition", now_ms=now_ms)
    (incident,) = incidents.open()
    assert f"job {job_id} was put off: has no definition" in incident.text
    leader.step(now_ms + 5_001)
    assert incidents.open() == []


def run_json(*words: str, exit_code: int | None = 0) -> Any:
    result = CliRunner().invoke(main, [*words, "--json"])
    assert exit_code is None or result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("how", ["garbage", "no definition", "another type"])
def test_an_unreadable_declared_job_is_shown_once_and_is_not_called_refused(
    make_project: Callable[..., Celery],
    beat: _Beat,
    valkey: Database,
    valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
) -> None:
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", valkey.keys.namespace)
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    app = make_project(stock=3.0)
    beat(app, "a").begin(valkey.now_ms())
    # The app has no such task, which is a warning of its own.
    warned = [("declared", "warn")]
    spoil(valkey, managed_id(MANAGER, "stock"), how)

    def shown() -> tuple[list[str], list[tuple[str, str]], bool]:
        rows = run_json("list")
        found = [one for one in run_json("doctor", exit_code=None) if one["check"] == "declared"]
        is_refused = any("is refused" in one["text"] for one in found)
        return (
            [row["fault"].partition(":")[0] if row.get("fault") else row["name"] for row in rows],
            [(one["check"], one["verdict"]) for one in found],
            is_refused,
        )

    assert shown() == (["unreadable"], warned, False)
    beat(app, "b").begin(valkey.now_ms())
    assert shown() == (["stock"], warned, False)
