"""The table of fields is complete, and options, checks and planning are read from it."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import pytest
from celery import Celery
from click.testing import CliRunner, Result

import hermes_celery
from hermes_celery.cli import main
from hermes_celery.core.field_checks import NumberWithin, checked_prompt
from hermes_celery.core.fields import BY_NAME, FIELDS, HOLDERS, TIMING, Field
from hermes_celery.core.job import JobFields, JobRequest, JobSpec, JobState
from hermes_celery.core.job_checks import define, redefine
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.work import HttpCall, WorkKind
from hermes_celery.errors import HermesCeleryError, JobError
from hermes_celery.interop.cron_attributes import DECLARED, REFUSED
from hermes_celery.scheduling.declared_jobs import DeclaredJobs, synchronise
from hermes_celery.store import Database
from hermes_celery.wiring.client import open_cron
from hermes_celery.wiring.project import Cron
from tests.support import NOON, HandClock, Store, a_spec

HERE = Path(__file__).parent
#: The attributes of a definition that no request sets.
BOOKKEEPING = {
    "id", "schedule_display", "anchor_ms", "created_ms", "managed_by", "declared_in", "needs",
}  # fmt: skip


# --- the table is complete


def test_every_attribute_of_a_request_and_of_its_policy_is_in_the_table_once() -> None:
    names = [field.name for field in FIELDS]
    asked = [*JobRequest.__struct_fields__, *Policy.__struct_fields__]
    assert sorted(names) == sorted({*asked} - {*HOLDERS})
    assert len(set(names)) == len(names)


def test_every_attribute_of_a_definition_is_a_field_or_bookkeeping() -> None:
    stored = {field.attribute for field in FIELDS if not field.inside}
    assert stored | {*HOLDERS} | BOOKKEEPING == {*JobSpec.__struct_fields__}


def test_clearing_a_field_restores_its_default() -> None:
    defaults = {
        one.name: one.default
        for struct in (JobRequest, Policy)
        for one in msgspec.structs.fields(struct)
    }
    assert {field.name: field.empty for field in FIELDS if not field.is_required} == {
        name: default for name, default in defaults.items() if name not in {*HOLDERS, "schedule"}
    }


def test_every_field_has_an_option_or_a_reason_to_be_inert() -> None:
    assert [field.name for field in FIELDS if bool(field.option) == bool(field.inert)] == []
    assert [field.name for field in FIELDS if field.inert] == ["attach_to_session"]


def test_every_field_but_the_inert_ones_is_read_somewhere() -> None:
    """Code that only lists, checks or shows fields does not count."""
    package = Path(hermes_celery.__file__).parent
    listing = {source_of(one) for one in (JobFields, define, Field, checked_prompt)}
    read = attributes_read(textwrap.dedent(inspect.getsource(JobSpec.compiled)))
    for path in package.rglob("*.py"):
        if path not in listing and "cli" not in path.parts:
            read |= attributes_read(path.read_text(encoding="utf-8"))
    assert [field.name for field in FIELDS if (field.attribute in read) == bool(field.inert)] == []


def source_of(value: Any) -> Path:
    return Path(inspect.getfile(value))


def attributes_read(source: str) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def test_goes_with_names_a_field() -> None:
    assert {field.goes_with for field in FIELDS if field.goes_with} <= BY_NAME.keys()


# --- command line: every option sets its field, and an empty text clears it


@pytest.fixture
def _environment(
    valkey_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("HERMES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    monkeypatch.setenv("HERMES_TIMEZONE", "Europe/Berlin")


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def changed(job: str, *arguments: str) -> dict[str, Any]:
    result = typed("edit", job, *arguments, "--elsewhere", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


#: For each field the words typed after its option, the value in `--json` and the text in `show`.
TYPED: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "name": (("other",), "other", "other"),
    "timezone": (("Asia/Tokyo",), "Asia/Tokyo", "(Asia/Tokyo)"),
    "repeat": (("7",), {"times": 7, "completed": 0}, "0 of 7"),
    "start": (("2099-01-01",), "2098-12-31T23:00:00+00:00", "from 2099-01-01 00:00:00"),
    "end": (("2099-01-01T10:00+00:00",), "2099-01-01T10:00:00+00:00", "until 2099-01-01 11:00:00"),
    "exclude": (("2098-12-24",), ["2098-12-24"], "except 2098-12-24"),
    "jitter_seconds": (("30",), 30, "jitter 30 s"),
    "prompt": (("other",), "other", "other"),
    "script": (("a.sh",), "a.sh", "a.sh"),
    "interpreter": (("ruby",), "ruby", "ruby"),
    "workdir": (("/tmp",), "/tmp", "/tmp"),
    "skills": (("news",), ["news"], "news"),
    "context_from": (("a" * 12,), ["a" * 12], "a" * 12),
    "model": (("big",), "big", "big"),
    "provider": (("some",), "some", "some"),
    "base_url": (("http://me:secret@box/",), "http://***@box", "http://***@box"),
    "reasoning": (("high",), "high", "high"),
    "enabled_toolsets": (("web",), ["web"], "web"),
    "session": (("none",), "none", "none"),
    "queue": (("gpu",), "gpu", "gpu"),
    "priority": (("0",), 0, "0"),
    "timeout_seconds": (("60",), 60, "timeout 60 s"),
    "idle_timeout_seconds": (("5.5",), 5.5, "idle 5.5 s"),
    "group": (("g", "--group-limit", "2"), "g", "group g, 2 at once in it"),
    "token_budget": (("5000",), 5000, "5,000 tokens a day"),
    "cost_budget": (("1.5",), 1.5, "1.5 USD a day"),
    "deliver": (("local,json://token@host",), "local,json://***", "local,json://***"),
    "failure_deliver": (("json://token@host",), "json://***", "json://***"),
    "template": (("{{ output }}",), "{{ output }}", "{{ output }}"),
    "ping": (("https://hc.example/token",), "https://hc.example/***", "https://hc.example/***"),
    "origin": (
        ('{"platform": "telegram", "chat_id": "5"}',),
        {"platform": "telegram", "chat_id": "5"},
        "telegram / 5",
    ),
    "catch_up": (("all",), "all", "catch_up all"),
    "catch_up_limit": (("5",), 5, "catch_up_limit 5"),
    "grace_seconds": (("0",), 0, "grace_seconds 0"),
    "expires_seconds": (("60",), 60, "expires_seconds 60"),
    "overlap": (("queue_one",), "queue_one", "overlap queue_one"),
    "max_active": (("5", "--overlap", "allow"), 5, "max_active 5"),
    "retries": (("3",), 3, "retries 3"),
    "retry_wait_seconds": (("9",), 9, "retry_wait_seconds 9"),
    "retry_max_seconds": (("900",), 900, "retry_max_seconds 900"),
    "on_lost": (("retry",), "retry", "on_lost retry"),
    "pause_after": (("4",), 4, "pause_after 4"),
}
#: Fields that an empty text alone cannot clear; other tests cover them.
BY_HAND = {"schedule", "no_agent", "http", "task", "group_limit"}


def test_every_field_with_an_option_is_covered_here() -> None:
    assert {field.name for field in FIELDS if field.option} == TYPED.keys() | BY_HAND


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("name", TYPED)
def test_an_option_sets_its_field_and_an_empty_text_clears_it(name: str) -> None:
    field, (words, value, text) = BY_NAME[name], TYPED[name]
    script = ("--script", "x.sh") if name == "interpreter" else ()
    added = typed("add", "every 1h", "do it", "--elsewhere", *script)
    assert added.exit_code == 0, added.output
    job = added.output.split()[1]
    before = json.loads(typed("show", job, "--json").stdout)
    after = changed(job, field.option[0], *words)
    holder = after[field.inside] if field.inside else after
    assert holder[field.key] == value
    label = "name" if name == "name" else "repeat" if name == "repeat" else field.row or "schedule"
    shown = [line for line in typed("show", job).stdout.splitlines() if text in line]
    assert [line for line in shown if line.startswith(f"{label}:")], shown
    more = ("--skill", "news") if name == "prompt" else ()
    cleared = changed(job, field.option[0], "", *more)
    if name == "prompt":
        assert (cleared["prompt"], cleared["skills"]) == ("", ["news"])
    elif name == "max_active":
        assert cleared["policy"] == {"overlap": "allow"}
    else:
        differing = {key for key in before if before[key] != cleared[key]}
        assert differing <= {"revision", "next_run_at"}


@pytest.mark.usefixtures("_environment")
def test_a_job_becomes_another_kind_of_work_and_back() -> None:
    job = typed("add", "every 1h", "do it", "--elsewhere").output.split()[1]
    call = changed(job, "--http", "get", "http://box/", "--prompt", "")
    assert (call["http"]["method"], call["prompt"]) == ("GET", "")
    task = changed(job, "--http", "", "", "--task", "shop.report", "--args", "[1]")
    assert (task["http"], task["task"]["args"]) == (None, [1])
    script = changed(job, "--task", "", "--script", "a.sh", "--no-agent")
    assert (script["task"], script["no_agent"]) == (None, True)
    agent = changed(job, "--agent", "--prompt", "back", "--script", "")
    assert (agent["no_agent"], agent["prompt"], agent["script"]) == (False, "back", None)


@pytest.mark.usefixtures("_environment")
def test_credentials_of_a_request_are_stored_and_not_shown() -> None:
    url = "http://box/?password=hidden-one&day=1"
    headers = ("--header", "Authorization: Bearer hidden-two", "--header", "Accept: text/plain")
    added = typed("add", "every 1h", "--http", "GET", url, *headers, "--json")
    call = json.loads(added.stdout)["http"]
    assert call["headers"] == {"Authorization": "***", "Accept": "text/plain"}
    assert "day=1" in call["url"]
    job = json.loads(added.stdout)["id"]
    stored = open_cron().show(job).spec.http
    assert stored is not None
    assert (stored.url, stored.headers["Authorization"]) == (url, "Bearer hidden-two")
    changed(job, "--name", "n", "--timeout", "5")
    assert open_cron().show(job).spec.http == stored
    for arguments in ((), ("--json",)):
        assert "hidden" not in typed("show", job, *arguments).stdout


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--schedule", ""), 2, "a job needs a schedule"),
        (("--timeout", "soon"), 2, "'soon' is not a number"),
        (("--retries", "1.5"), 2, "'1.5' is not a whole number"),
        (("--overlap", "perhaps"), 2, "'perhaps' must be one of skip, allow, queue_one, replace"),
        (("--start", "soon"), 2, "'soon' is not an ISO time"),
        (("--origin", "[]"), 2, "is not a JSON object of texts"),
        (("--origin", '{"chat": "5"}'), 2, "an origin has no field chat; its fields are platform"),
        (("--header", "a:b"), 2, "this needs --http"),
        (("--retry-max", "0"), 1, "retry_max_seconds is 0; it must be 1 to 86400"),
        (("--group", "g"), 1, "group and group_limit go together"),
        (("--max-active", "3"), 1, "max_active needs overlap 'allow'"),
        (("--interpreter", "ruby"), 1, "needs a script, and the job has none"),
        (("--prompt", ""), 1, "the job has nothing to run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_invalid_value_is_refused_and_changes_nothing(
    arguments: tuple[str, ...], code: int, why: str
) -> None:
    job = typed("add", "every 1h", "do it", "--elsewhere").output.split()[1]
    result = typed("edit", job, *arguments)
    assert (result.exit_code, why in result.output) == (code, True), result.output
    assert json.loads(typed("show", job, "--json").stdout)["revision"] == 1


# --- changes: fields that are cleared together, and re-planning


def test_clearing_a_field_clears_the_fields_that_depend_on_it() -> None:
    policy = Policy(overlap=Overlap.ALLOW, max_active=5)
    old = a_spec(
        script="a.rb", interpreter="ruby", no_agent=True, group="g", group_limit=2, policy=policy
    )
    for change in ({"group": None}, {"script": None}, {"overlap": Overlap.SKIP}):
        new = redefine(old, {**change, "prompt": "x"}, now=NOON, default_timezone="UTC")
        (name,) = change
        followers = [field for field in FIELDS if field.goes_with == name]
        assert followers
        for follower in followers:
            assert follower.of(old) != follower.empty
            assert follower.of(new) == follower.empty


def test_a_script_job_can_become_an_http_job() -> None:
    old = a_spec(prompt=None, script="a.sh", no_agent=True)
    change = {"script": None, "http": HttpCall(url="https://example.org/")}
    assert redefine(old, change, now=NOON, default_timezone="UTC").kind is WorkKind.HTTP


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("program", ["/usr/bin/nope", "nope", "/tmp/x"])
def test_an_interpreter_that_is_missing_here_is_refused(tmp_path: Path, program: str) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    (scripts / "a.sh").write_text("echo\n")
    added = typed("add", "every 1h", "--script", "a.sh", "--no-agent", "--json")
    job = json.loads(added.stdout)["id"]
    refused = typed("edit", job, "--interpreter", program)
    assert refused.exit_code == 1
    assert f"the interpreter {program!r} is not in a directory that this machine allows" in (
        refused.output
    )
    assert typed("edit", job, "--interpreter", program, "--elsewhere").exit_code == 0
    assert typed("edit", job, "--interpreter", "sh").exit_code == 0


def test_policy_fields_change_one_by_one_and_an_unknown_one_is_refused() -> None:
    old = a_spec(policy=Policy(retries=2, pause_after=3))
    new = redefine(old, {"retries": 5}, now=NOON, default_timezone="UTC")
    assert new.policy == Policy(retries=5, pause_after=3)
    told = r"^a job has no field retry; did you mean retries\? Fields are name, schedule, "
    with pytest.raises(JobError, match=told):
        redefine(old, {"retry": 5}, now=NOON, default_timezone="UTC")


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("retry_wait", "retry_wait_seconds"),
        ("timeout", "timeout_seconds"),
        ("tz", "timezone"),
        ("except", "exclude"),
        ("Promt", "prompt"),
        ("overlaps", "overlap"),
    ],
)
def test_an_unknown_field_is_answered_with_the_field_that_is_meant(
    unknown: str, meant: str
) -> None:
    with pytest.raises(JobError, match=rf"no field {unknown}; did you mean {meant}\? Fields are"):
        redefine(a_spec(), {unknown: 5}, now=NOON, default_timezone="UTC")


def test_unknown_fields_that_are_near_no_field_get_the_list_alone() -> None:
    changes: dict[Any, Any] = {"xyzzy": 1, 5: 2, "x" * 10_000: 3}
    with pytest.raises(JobError, match=r"^a job has no field 5, xx.*…; fields are name, ") as told:
        redefine(a_spec(), changes, now=NOON, default_timezone="UTC")
    assert len(str(told.value)) < 1000


@pytest.fixture
def store() -> Store:
    return Store(Database(fakeredis.FakeRedis(decode_responses=True)), HandClock(NOON))


def declare(store: Store, **fields: Any) -> None:
    request = JobRequest(**{"schedule": "every 2h", "prompt": "x", "name": "job", **fields})
    report = synchronise(
        store.jobs,
        DeclaredJobs(manager="m", requests={"job": request}, default_timezone="UTC"),
        now=store.cron.now,
    )
    assert report.refused == {}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"schedule": "every 3h"}, NOON + timedelta(hours=4)),
        ({"start": NOON + timedelta(hours=6)}, NOON + timedelta(hours=7)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_declared_job_with_another_schedule_or_start_begins_a_new_grid(
    store: Store, change: dict[str, Any], first: Any
) -> None:
    declare(store)
    before = store.jobs.find("job")
    store.clock.advance(3600)
    declare(store, **change)
    after = store.jobs.find("job")
    assert after.spec.anchor_ms == before.spec.anchor_ms + 3_600_000
    assert after.next_run_at == first
    declare(store)
    assert store.jobs.find("job").next_run_at == NOON + timedelta(hours=3)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"exclude": ["* 14 22 6 *"]}, NOON + timedelta(hours=4)),
        ({"end": NOON + timedelta(days=1)}, NOON + timedelta(hours=2)),
        ({"jitter_seconds": 600}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_declared_job_with_another_exclusion_end_or_jitter_keeps_its_grid(
    store: Store, change: dict[str, Any], first: Any
) -> None:
    declare(store)
    before = store.jobs.find("job")
    store.clock.advance(3600)
    declare(store, **change)
    after = store.jobs.find("job")
    assert after.spec.anchor_ms == before.spec.anchor_ms
    assert after.next_run_at == after.spec.compiled().next_after(store.cron.now)
    assert first is None or after.next_run_at == first
    declare(store)
    assert store.jobs.find("job").next_run_at == NOON + timedelta(hours=2)


def test_a_declared_job_whose_content_changes_keeps_its_grid(store: Store) -> None:
    declare(store)
    before = store.jobs.find("job")
    store.clock.advance(3600)
    declare(store, prompt="y", queue="gpu", repeat=5, policy=Policy(retries=2))
    after = store.jobs.find("job")
    assert (after.spec.prompt, after.spec.repeat_times) == ("y", 5)
    assert (after.spec.anchor_ms, after.next_run_at) == (before.spec.anchor_ms, before.next_run_at)


def end_all_runs(store: Store, times: int) -> None:
    """Complete the job as if it had had all its runs."""
    job = store.jobs.find("job")
    ended = msgspec.structs.replace(
        job, state=JobState.COMPLETED, completed=times, next_run_at=None
    )
    store.jobs.change(ended, was=job)


def test_an_ended_declared_job_goes_on_when_repeat_is_raised(store: Store) -> None:
    declare(store, repeat=3)
    end_all_runs(store, 3)
    store.clock.advance(7 * 3600)
    declare(store, repeat=5)
    job = store.jobs.find("job")
    assert (job.state, job.completed) == (JobState.SCHEDULED, 3)
    assert job.next_run_at == NOON + timedelta(hours=8)
    end_all_runs(store, 5)
    declare(store, repeat=4)
    assert store.jobs.find("job").state is JobState.COMPLETED
    declare(store, repeat=4, schedule="every 3h")
    job = store.jobs.find("job")
    assert (job.state, job.completed) == (JobState.SCHEDULED, 0)


def test_an_ended_job_goes_on_when_an_edit_allows_more_runs(store: Store) -> None:
    store.cron.add(JobRequest(schedule="every 2h", prompt="x", name="job", repeat=3))
    end_all_runs(store, 3)
    assert store.cron.edit("job", {"prompt": "y"}).state is JobState.COMPLETED
    job = store.cron.edit("job", {"repeat": None})
    assert (job.state, job.next_run_at) == (JobState.SCHEDULED, NOON + timedelta(hours=2))
    assert store.due.next_due_ms() == store.clock.ms + 7_200_000


@pytest.mark.parametrize("is_over", [False, True])
def test_a_one_shot_edited_into_an_interval_recurs(store: Store, is_over: bool) -> None:
    store.cron.add(JobRequest(schedule="in 2h", prompt="x", name="job"))
    if is_over:
        end_all_runs(store, 1)
    job = store.cron.edit("job", {"schedule": "every 1h"})
    assert (job.spec.repeat_times, job.completed, job.state) == (None, 0, JobState.SCHEDULED)
    again = store.cron.edit("job", {"schedule": "in 3h"})
    assert again.spec.repeat_times == 1
    counted = store.cron.edit("job", {"schedule": "every 1h", "repeat": 4})
    assert counted.spec.repeat_times == 4


def test_a_declaration_takes_a_policys_fields_one_by_one_and_refuses_an_unknown_field() -> None:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    cron = Cron(app)
    cron.add("a", "every 1h", prompt="x", retries=3, policy=Policy(pause_after=2))
    (request,) = getattr(app, DECLARED).values()
    assert request.policy == Policy(retries=3, pause_after=2)
    cron.add("b", "every 1h", prompt="x", retry=3)
    assert "no field retry; did you mean retries? Fields are name" in getattr(app, REFUSED)["b"]


# --- a new field


def test_a_field_is_added_with_one_entry_and_one_attribute(
    valkey_url: str, namespace: str, tmp_path: Path
) -> None:
    """The test adds two fields to a copy of the package and changes nothing else."""
    original, package = Path(hermes_celery.__file__).parent, tmp_path / "hermes_celery"
    shutil.copytree(original, package, ignore=shutil.ignore_patterns("__pycache__"))
    first = JobFields.__struct_fields__[0]
    attribute = f"    {first}: "
    insert(
        package / source_of(JobFields).relative_to(original),
        before=attribute,
        text="    colour: str | None = None\n    season: str | None = None\n",
    )
    insert(
        package / source_of(Field).relative_to(original),
        before="    *_TIMING,\n",
        text=(
            '    Field(name="colour", option=("--colour",), help="Of its lamp.",\n'
            '          check=checks.stripped, row="colour", hide=str.upper,\n'
            '          hermes=("lamp",)),\n'
            '    Field(name="season", option=("--season",), help="When.", is_timing=True,\n'
            "          is_grid=True,\n"
            '          check=checks.stripped, row="season"),\n'
        ),
    )
    done = subprocess.run(
        [sys.executable, str(HERE / "with_new_fields.py")],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join((str(tmp_path), str(HERE.parents[2]))),
            "HERMES_REDIS_URL": valkey_url,
            "HERMES_CELERY_NAMESPACE": namespace,
            "HERMES_HOME": str(tmp_path / "home"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"{package}\n"), done.stderr[-3000:]


def insert(path: Path, *, before: str, text: str) -> None:
    whole = path.read_text(encoding="utf-8")
    assert whole.count(before) >= 1, before
    path.write_text(whole.replace(before, text + before, 1), encoding="utf-8")


def test_a_definition_holds_the_requested_timing_fields() -> None:
    spec, _ = define(
        JobRequest(schedule="every 1h", prompt="x", jitter_seconds=5, exclude=[" 2098-12-24 ", ""]),
        job_id="a" * 12,
        now=NOON,
        default_timezone="UTC",
    )
    assert (spec.jitter_seconds, spec.exclude) == (5, ("2098-12-24",))
    assert set(TIMING) == {
        "schedule", "timezone", "start_ms", "end_ms", "exclude", "jitter_seconds",
    }  # fmt: skip


@pytest.mark.parametrize("field", [one for one in FIELDS if isinstance(one.check, NumberWithin)],
                         ids=lambda field: field.name)  # fmt: skip
def test_a_number_at_its_limits_is_accepted_and_one_beyond_them_is_refused(field: Field) -> None:
    check = field.check
    assert isinstance(check, NumberWithin)
    assert (check(check.low), check(check.high), check(None)) == (check.low, check.high, None)
    for outside in (check.low - 1e-7, check.high * 1.001):
        with pytest.raises(JobError, match=field.name):
            check(outside)


@pytest.mark.parametrize(
    ("name", "limits", "most", "beyond"),
    [
        ("timeout_seconds", "0.1 to 86,400 (1 day)", 86_400, 86_401),
        ("grace_seconds", "0 to 2,678,400 (31 days)", 2_678_400, 2_678_401),
        ("priority", "0 to 255", 255, 256),
        ("cost_budget", "0.000001 or more", 0.000001, 0.0000001),
        ("jitter_seconds", "0 or more", 0, -1),
        ("repeat", "at most 1,000,000,000", 10**9, 10**9 + 1),
        ("name", "at most 200 characters", "n" * 200, "n" * 201),
        ("prompt", "at most 100,000 characters", "p " * 50_000, "p " * 50_001),
        ("schedule", "at most 256 characters", f"0 9 10{',1' * 123} * *", f"0 9 1{',1' * 124} * *"),
    ],
)  # fmt: skip
def test_the_limits_of_a_field_are_those_of_its_check(
    name: str, limits: str, most: Any, beyond: Any
) -> None:
    assert BY_NAME[name].limits == limits
    asked = JobRequest(schedule="@daily", prompt="x")
    job, _ = define(asked, job_id="a" * 12, now=NOON, default_timezone="UTC")
    redefine(job, {name: most}, now=NOON, default_timezone="UTC")
    with pytest.raises(HermesCeleryError):
        redefine(job, {name: beyond}, now=NOON, default_timezone="UTC")
