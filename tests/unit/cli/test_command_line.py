"""The command line as a user types it: exit codes, one-sentence errors and stable JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hermes_celery.cli import Commands, main
from hermes_celery.cli.commands import ADVICE, COMMANDS, MEANT
from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.core.job import JobRequest, Origin
from hermes_celery.core.run import RunState
from hermes_celery.core.work import TaskCall
from hermes_celery.store import Database, ForeignQueue, ForeignQueues, connect
from hermes_celery.store.keys import Keys
from hermes_celery.wiring.client import open_cron
from tests.support import eventually


@pytest.fixture
def home(tmp_path: Path, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HERMES_HOME at a directory with scripts and the client at the real server."""
    scripts = tmp_path / "scripts"
    (scripts / "adir").mkdir(parents=True)
    (scripts / "hi.sh").write_text("echo hi")
    for name, value in {
        "HERMES_HOME": str(tmp_path),
        "HERMES_REDIS_URL": valkey_url,
        "HERMES_CELERY_NAMESPACE": namespace,
        "HERMES_TIMEZONE": "Europe/Berlin",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


#: What a shell makes of `* * * * *` in a directory with many files.
_FILES = [f"file-{number}" for number in range(50)]


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def added(*arguments: str) -> dict[str, object]:
    result = typed("add", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    record: dict[str, object] = json.loads(result.stdout)
    return record


@pytest.mark.usefixtures("home")
def test_a_job_is_added_shown_changed_paused_resumed_and_removed() -> None:
    job = added("every 2h", "--script", "hi.sh", "--no-agent", "--name", "Greeting")
    assert (job["script"], job["timezone"], job["state"]) == ("hi.sh", "Europe/Berlin", "scheduled")
    assert "Greeting" in typed("list").stdout
    assert typed("edit", "greeting", "--retries", "3", "--overlap", "allow").exit_code == 0
    shown = typed("show", "greeting").stdout
    assert "policy:       overlap allow, retries 3" in shown
    assert typed("edit", "greeting", "--overlap", "queue_one").exit_code == 0
    record = json.loads(typed("show", "greeting", "--json").stdout)
    assert record["policy"] == {"overlap": "queue_one", "retries": 3}
    assert record["revision"] == 3
    assert "paused" in typed("pause", "greeting", "--reason", "later").stdout
    assert json.loads(typed("show", "greeting", "--json").stdout)["paused_reason"] == "later"
    assert "next run" in typed("resume", "greeting").stdout
    assert typed("remove", "greeting").exit_code == 0
    assert "no jobs yet" in typed("list").stdout


_INVALID_URLS = (
    "https://[::1",
    "http://a]b/",
    "https://\u2100.com/",
    "https://h:99999/",
    "https://.../",
)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("url", _INVALID_URLS)
@pytest.mark.parametrize(
    "option", [("--http", "GET"), ("x", "--ping"), ("x", "--deliver"), ("x", "--base-url")]
)
def test_an_invalid_url_is_refused_in_one_sentence(option: tuple[str, ...], url: str) -> None:
    result = typed("add", "every 5m", *option, url)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert "url" in result.stderr.lower()
    assert "no jobs yet" in typed("list").stdout


def test_an_invalid_server_name_is_refused_in_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_REDIS_URL", f"redis://{'a' * 64}.de/0")
    result = typed("list")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "HERMES_REDIS_URL" in result.stderr
    assert "its host is not a host name or address" in result.stderr


def listed(*arguments: str) -> list[object]:
    return [job["name"] for job in json.loads(typed("list", "--json", *arguments).stdout)]


@pytest.mark.usefixtures("home")
def test_a_limited_list_names_the_command_for_the_next_page() -> None:
    jobs = [added("every 5m", "x", "--name", f"{word} {n}") for word in "ab" for n in (1, 2)]
    names = [job["name"] for job in jobs]
    first = typed("list", "--limit", "3")
    assert [name for name in names if str(name) in first.stdout] == names[:3]
    assert first.stderr == (
        f"1 more: hermes-celery list --limit 3 --after {jobs[2]['id']}  (--all lists all)\n"
    )
    rest = typed("list", "--after", str(jobs[2]["id"]))
    assert [name for name in names if str(name) in rest.stdout] == names[3:]
    assert rest.stderr == ""
    assert typed("list", "--limit", "4").stderr == ""
    assert listed() == listed("--all") == listed("--limit", "0") == names
    assert listed("--limit", "1", "--after", "a 2") == names[2:3]
    assert listed("--after", str(jobs[3]["id"])) == []


@pytest.mark.usefixtures("home")
def test_the_list_is_filtered_by_name_and_state() -> None:
    for name in ("beta 2", "alpha", "Beta 1"):
        added("every 5m", "x", "--name", name)
    assert typed("pause", "beta 2").exit_code == 0
    assert listed("--name", "BETA") == ["Beta 1", "beta 2"]
    assert listed("--state", "paused") == ["beta 2"]
    assert "no job matches" in typed("list", "--name", "beta", "--state", "error").stdout
    more = typed("list", "--state", "scheduled", "--name", "", "-n", "1").stderr
    assert more.startswith("more: hermes-celery list --state scheduled --limit 1 --after ")


@pytest.mark.usefixtures("home")
def test_text_shows_failed_and_succeeded_while_json_shows_the_stored_words(
    valkey: Database,
) -> None:
    stopped, well = (str(added("every 5m", "x", "--name", name)["id"]) for name in "ab")
    valkey.client.hset(valkey.keys.job(stopped), mapping={"state": "error", "last_status": "error"})
    valkey.client.hset(valkey.keys.job(well), "last_status", "ok")

    shown = typed("list").stdout
    assert shown.count("failed") == 2
    assert "succeeded" in shown
    assert not re.search(r"\berror\b|\bok\b", shown)
    assert re.search(r"state: +failed\n", typed("show", "a").stdout)
    assert re.search(r"last status: +failed\n", typed("show", "a").stdout)
    assert listed("--state", "failed") == listed("--state", "error") == ["a"]
    assert "[scheduled|paused|completed|failed]" in typed("list", "--help").stdout
    record = json.loads(typed("show", "a", "--json").stdout)
    assert (record["state"], record["last_status"]) == ("error", "error")


@pytest.mark.usefixtures("home")
def test_the_table_shows_a_hundred_jobs_without_all() -> None:
    job = JobRequest(schedule="every 5m", prompt="x", name="it's")
    open_cron().add_many([job] * 1_203)
    lines = typed("list", "--name", "it's").stdout.splitlines()
    assert len(lines) == 1 + 100
    more = typed("list", "--name", "it's").stderr
    assert more.startswith("1,103 more: hermes-celery list --name 'it'\"'\"'s' --after ")
    lines = typed("list", "--all").stdout.splitlines()
    assert len(lines) == 2 + 1_203
    assert [i for i, line in enumerate(lines) if line.startswith("ID")] == [0, 1_001]
    assert len(json.loads(typed("list", "--json").stdout)) == 1_203


@pytest.mark.usefixtures("home")
def test_a_json_list_has_the_layout_of_one_json_value() -> None:
    job = added("every 5m", "a\nb", "--name", "n")
    expected = json.dumps([job], indent=2, ensure_ascii=False) + "\n"
    assert json.loads(typed("list", "--json").stdout) == [job]
    assert typed("list", "--json").stdout.count("\n") == expected.count("\n")
    assert typed("list", "--json").stdout.startswith('[\n  {\n    "id"')


@pytest.mark.usefixtures("home")
def test_bounds_of_a_schedule_are_stored_and_shown() -> None:
    job = added(
        "0 9 * * *", "--script", "hi.sh", "--no-agent", "--start", "2027-12-20T00:00",
        "--end", "2028-01-10", "--except", "* * 24-26 12 *", "--jitter", "60",
    )  # fmt: skip
    assert job["start_at"] == "2027-12-19T23:00:00+00:00"
    assert job["exclude"] == ["* * 24-26 12 *"]
    assert str(job["next_run_at"]).startswith("2027-12-20T08:0")
    shown = typed("show", str(job["id"])).stdout
    assert "until 2028-01-10" in shown
    assert "except * * 24-26 12 *" in shown


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "61 * * * *", "x"), "minute"),
        (("add", "every 5m"), "nothing to run"),
        (("add", "every 5m", "x", "--tz", "Europe/Atlantis"), "Europe/Atlantis"),
        (("add", "every 5m", "--script", "no.sh", "--no-agent"), "Script not found"),
        (("add", "every 5m", "--script", "adir", "--no-agent"), "not a file"),
        (("add", "every 5m", "--script", "../x", "--no-agent"), "escapes the scripts directory"),
        (("add", "every 5m", "--no-agent"), "requires a script"),
        (("add", "every 5m", "x", "--repeat", "banana"), "Invalid repeat"),
        (("add", "every 5m", "x", "--workdir", "/no/such"), "does not exist"),
        (("add", "every 5m", "x", "--retries", "-1"), "retries is -1"),
        (("show", "../../x"), "no job has the id or name"),
        (("run", "nobody"), "no job has the id or name"),
        (("logs", "nobody"), "no run has the id 'nobody', and no job has that id or name"),
        (("cancel", "nobody"), "no run has the id"),
        (("list", "--after", "nobody"), "no job has the id or name"),
        (("runs", "--after", "nobody"), "no run has the id"),
        (("import", "/no/such/home"), "does not exist"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else "",
)
def test_a_refusal_is_one_sentence_and_exit_code_1(arguments: tuple[str, ...], says: str) -> None:
    result = typed(*arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stdout == ""
    assert json.loads(typed("list", "--json").stdout) == []


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("ad",),
        ("add",),
        ("add", "every 5m", "x", "--colour", "red"),
        ("add", "every 5m", "x", "--overlap", "perhaps"),
        ("pause",),
        ("pause", "x", "--all"),
        ("edit", "x"),
        ("list", "--limit", "-1"),
        ("list", "--state", "lazy"),
        ("runs", "--limit", "0"),
        ("runs", "--state", "lazy"),
        ("runs", "--since", "yesterday"),
        ("backfill", "x"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert typed(*arguments).exit_code == 2


@pytest.mark.usefixtures("home")
def test_an_unknown_command_is_answered_with_the_nearest_one() -> None:
    assert "No such command 'ad'. Is 'add' meant?" in typed("ad").stderr
    assert typed("zzz").stderr.endswith("No such command 'zzz'.\n")


@pytest.mark.parametrize(
    ("word", "command"),
    [("delete", "remove"), ("rm", "remove"), ("start", "up"), ("ls", "list"), ("ps", "runs"),
     ("history", "runs"), ("log", "logs"), ("enable", "resume"), ("disable", "pause"),
     ("trigger", "run"), ("new", "add"), ("update", "edit"), ("version", "--version")],
)  # fmt: skip
def test_a_word_of_other_programs_is_answered_with_our_command(word: str, command: str) -> None:
    result = typed(word)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"No such command '{word}'. Is '{command}' meant?\n")


def test_every_word_of_other_programs_leads_to_a_command_and_hides_none() -> None:
    assert {word for word in MEANT.values() if not word.startswith("--")} <= set(COMMANDS)
    assert not (MEANT.keys() | ADVICE.keys()) & COMMANDS.keys()
    assert not MEANT.keys() & ADVICE.keys()


def test_the_error_for_stop_says_how_to_stop_up() -> None:
    assert "Press Ctrl-C in the terminal of `up`" in typed("stop").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", *_FILES, "--script", "x.sh"),
        ("add", "0", "9", "*", "*", "1-5", "say hello"),
        ("edit", "job", "--schedule", "every", "5m"),
        ("next", *"*****"),
        ("explain", "every", "5m"),
    ],
    ids=" ".join,
)
def test_the_error_for_a_schedule_without_quotes_says_where_they_belong(
    arguments: tuple[str, ...],
) -> None:
    result = typed(*arguments)
    assert result.exit_code == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert 'Put the schedule in quotes, such as "0 9 * * 1-5"' in error
    assert len(error) < 250


def test_the_message_about_an_absolute_script_names_the_directory_of_this_home(home: Path) -> None:
    added("every 1h", "x", "--name", "job")
    for command in (("add", "every 1h"), ("edit", "job")):
        result = typed(*command, "--script", "/etc/evil.sh")
        assert result.exit_code == 1
        assert f"must be relative to {home}/scripts/. Got" in result.stderr
        assert f"Place scripts in {home}/scripts/" in result.stderr
        assert "~" not in result.stderr


@pytest.mark.usefixtures("home")
def test_importing_from_an_empty_redbeat_says_that_it_has_no_entry() -> None:
    found = typed("import", "redbeat", "--prefix", "nobodys:")
    assert (found.exit_code, found.stdout) == (0, "0 imported, 0 kept as they are, 0 refused\n")
    assert "RedBeat has no entry under the prefix 'nobodys:'" in found.stderr


@pytest.mark.usefixtures("home")
def test_an_ambiguous_name_is_refused_with_the_ids() -> None:
    ids = [added("every 5m", "x", "--name", "twin")["id"] for _ in range(2)]
    result = typed("show", "TWIN")
    assert result.exit_code == 1
    assert all(str(job_id) in result.stderr for job_id in ids)


@pytest.mark.usefixtures("home")
def test_a_stale_revision_is_a_conflict() -> None:
    job = str(added("every 5m", "x")["id"])
    assert typed("edit", job, "--prompt", "mine", "--revision", "1").exit_code == 0
    result = typed("edit", job, "--prompt", "theirs", "--revision", "1")
    assert (result.exit_code, "no longer at revision 1" in result.stderr) == (1, True)


@pytest.mark.parametrize("revision", ["0", "-1", "nan", "1.0"])
@pytest.mark.usefixtures("home")
def test_a_revision_that_no_job_can_have_is_refused_as_typed_wrong(revision: str) -> None:
    job = str(added("every 5m", "x")["id"])
    result = typed("edit", job, "--prompt", "mine", "--revision", revision)
    assert (result.exit_code, "'--revision'" in result.stderr) == (2, True)


@pytest.mark.usefixtures("home")
def test_run_queues_a_run_at_once_and_prints_stable_field_names() -> None:
    job = added("every 5m", "--script", "hi.sh", "--no-agent")
    run = json.loads(typed("run", str(job["id"]), "--json").stdout)
    assert {
        "id", "job_id", "job_name", "due_at", "queued_at", "started_at", "finished_at", "state",
        "attempt", "worker", "error", "reason",
    } <= set(run)  # fmt: skip
    assert (run["state"], run["job_id"]) == ("queued", job["id"])
    assert [r["id"] for r in json.loads(typed("runs", "--json", "--since", "1h").stdout)] == [
        run["id"]
    ]
    again = typed("run", str(job["id"]), "--key", "k").stdout
    assert typed("run", str(job["id"]), "--key", "k").stdout == again
    assert typed("cancel", run["id"]).stdout == f"cancelled {run['id']}\n"
    assert typed("cancel", run["id"]).exit_code == 1


@pytest.mark.usefixtures("home")
def test_pause_and_resume_say_when_nothing_changed() -> None:
    added("every 2h", "x", "--name", "n")
    assert "nothing changed, not paused: " in typed("resume", "n").stdout
    assert typed("pause", "n").stdout.startswith("paused ")
    assert "nothing changed, already paused: " in typed("pause", "n").stdout
    assert typed("resume", "n").stdout.startswith("resumed ")
    assert "nothing changed" in typed("resume", "--all").stdout
    assert "paused all jobs" in typed("pause", "--all").stdout
    assert "all jobs were already paused" in typed("pause", "--all").stdout
    assert json.loads(typed("pause", "--all", "--json").stdout) == {
        "everything": "paused", "changed": False,
    }  # fmt: skip
    assert json.loads(typed("resume", "--all", "--json").stdout) == {
        "everything": "resumed", "changed": True,
    }  # fmt: skip


@pytest.mark.usefixtures("home")
def test_pause_all_pauses_every_job() -> None:
    assert typed("pause", "--all", "--reason", "upgrade").exit_code == 0
    assert "all jobs since" in typed("status").stdout
    assert ": upgrade" in typed("status").stdout
    assert typed("resume", "--all").exit_code == 0
    assert "everything since" not in typed("status").stdout


@pytest.mark.usefixtures("home")
def test_status_check_exits_with_1_without_a_beat() -> None:
    assert typed("status").exit_code == 0
    assert typed("status", "--check").exit_code == 1


@pytest.mark.usefixtures("home")
def test_a_manual_tick_dispatches_due_jobs() -> None:
    added("in 1s", "x")

    def dispatched() -> bool:
        return bool(json.loads(typed("tick", "--json").stdout)["dispatched"])

    eventually(dispatched, what="a due job")
    assert json.loads(typed("runs", "--json").stdout)[0]["state"] == "queued"


@pytest.mark.usefixtures("home")
def test_a_manual_tick_sends_no_session_if_sessions_are_off(
    valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_CELERY_SESSION", "none")
    origin = Origin(platform="telegram", chat_id="-1001")
    open_cron().add(JobRequest(schedule="in 1s", prompt="x", origin=origin, deliver="local"))
    eventually(lambda: json.loads(typed("tick", "--json").stdout)["dispatched"], what="a due job")
    database = Database(connect(valkey_url), keys=Keys(namespace=namespace))
    (message,) = database.call("LRANGE", database.keys.default_queue, 0, -1)
    assert "-1001" not in message


@pytest.mark.usefixtures("home")
def test_a_manual_tick_for_a_project_is_refused_without_its_app(
    valkey_url: str, namespace: str
) -> None:
    database = Database(connect(valkey_url), keys=Keys(namespace=namespace))
    database.call("SADD", database.keys.managed(f"project:{namespace}"), "a" * 12)
    refused = typed("tick")
    assert refused.exit_code == 1
    assert "nothing was done: hermes-celery -A APP tick" in refused.stderr


@pytest.mark.usefixtures("home")
def test_a_manual_tick_marks_runs_of_foreign_queues_as_sent(
    valkey_url: str, namespace: str
) -> None:
    database = Database(connect(valkey_url), keys=Keys(namespace=namespace))
    theirs = f"{namespace}-theirs"
    queue = ForeignQueue(name=theirs, workers=["w@host"], seen_ms=database.now_ms(), is_sure=True)
    ForeignQueues(database).write({theirs: queue})
    call = TaskCall(name="shop.report")
    open_cron().add(JobRequest(schedule="in 1s", task=call, queue=theirs))
    eventually(lambda: json.loads(typed("tick", "--json").stdout)["dispatched"], what="a due job")
    (run,) = open_cron().latest_runs()
    assert run.state is RunState.SENT


def test_every_command_has_help_and_is_listed() -> None:
    listed = typed("--help").stdout
    for name in COMMANDS:
        assert name in listed
        result = typed(name, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage:")


def test_an_invalid_variable_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERMES_CRON_MAX_WORKERS", "none")
    result = typed("list")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: HERMES_CRON_MAX_WORKERS: 'none' must be a whole number of at least 1 "
        "(1 means serial)\n"
    )


@pytest.mark.usefixtures("home")
def test_the_due_index_is_split_and_status_covers_every_shard(
    valkey_url: str, namespace: str
) -> None:
    for number in range(12):
        added("every 1h", "x", "--name", f"job {number}")
    assert typed("shards").stdout.startswith("shards    1\n")
    assert "split into 4" in typed("shards", "4").stdout
    record = json.loads(typed("shards", "--json").stdout)
    assert (record["shards"], record["unled"]) == (4, [0, 1, 2, 3])
    assert "12, next due 20" in typed("status").stdout
    database = Database(connect(valkey_url), keys=Keys(namespace=namespace))
    for shard in (0, 1, 3):
        database.call("SET", database.keys.lease_of(shard), f"beat-{shard}")
    assert "none for shard 2 of 4" in typed("status").stdout
    refused = typed("shards", "2")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "Error: beat-0, beat-1, beat-3 leads; stop every beat before the number of shards is "
        "changed, and start them again afterwards; `hermes-celery up --shards N` does both for "
        "the beats of `up`\n",
    )
    database.close()


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("given", "code"), [("0", 1), ("65", 1), ("many", 2)])
def test_an_invalid_number_of_shards_is_refused(given: str, code: int) -> None:
    result = typed("shards", given)
    assert result.exit_code == code
    assert given in result.stderr
    assert json.loads(typed("shards", "--json").stdout)["shards"] == 1


@pytest.mark.usefixtures("home")
def test_a_too_deeply_nested_value_is_refused_in_one_sentence() -> None:
    # Python decides how deep its parser goes; no version goes as deep as this.
    done = typed("add", "every 1h", "--task", "x.y", "--args", "[" * 1_000_000)
    assert done.exit_code == 1
    assert "nested too deeply" in done.output
    assert isinstance(done.exception, SystemExit)


def test_an_empty_app_option_is_refused() -> None:
    done = typed("-A", "", "list")
    assert done.exit_code == 2
    assert "the value is empty; name the app" in done.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("python", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", [["list"], ["status", "--json"], ["next", "every 1h"]])
def test_a_full_disk_behind_stdout_is_reported_in_one_sentence(
    command: list[str], python: list[str], valkey_url: str, tmp_path: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *python, "-m", "hermes_celery", *command],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={"PATH": os.environ["PATH"], "HERMES_REDIS_URL": valkey_url,
                 "HERMES_HOME": str(tmp_path), "HERMES_CELERY_NAMESPACE": "full"},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the output cannot be written: No space left")
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


class _Refused(Commands):
    """The command line, with one command that the operating system refuses."""

    def __init__(self, error: OSError) -> None:
        super().__init__(name="hermes-celery")
        self._error = error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        return click.Command(cmd_name, callback=self._start)

    def _start(self) -> None:
        click.echo("starting")
        raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            "the operating system refuses what is needed: Cannot allocate memory",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/beat.log"),
            "/data/beat.log cannot be used: No space left on device; make room on that disk",
        ),
        (
            OSError(errno.ENOENT, "No such file or directory", "/data/beat.log"),
            "/data/beat.log cannot be used: No such file or directory",
        ),
    ],
    ids=["no file", "full disk", "missing"],
)
def test_an_error_of_the_system_is_not_taken_for_one_of_the_output(
    error: OSError, told: str
) -> None:
    done = CliRunner().invoke(_Refused(error), ["list"])
    assert (done.exit_code, done.stdout) == (1, "starting\n")
    assert done.stderr == f"Error: {told}\n"


LONG = "y" * 10_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", LONG),
        ("logs", LONG),
        ("edit", LONG, "--name", "x"),
        ("cancel", LONG),
        ("runs", "--after", LONG),
        ("runs", "--state", LONG),
        ("list", LONG),
        ("list", "--after", LONG),
        ("incidents", "ack", LONG),
        ("letters", LONG),
        (LONG,),
        ("-N", LONG, "list"),
        ("-A", LONG, "list"),
        ("add", "every 1h", "hi", "--name", LONG),
        ("add", "every 1h", "hi", "--group", LONG),
        ("add", "every 1h", "hi", "--deliver", LONG),
        ("add", "every 1h", "hi", "--timezone", LONG),
        ("add", "every 1h", "hi", "--priority", LONG),
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
@pytest.mark.usefixtures("home")
def test_a_long_word_is_cut_where_an_error_repeats_it(arguments: tuple[str, ...]) -> None:
    result = typed(*arguments)
    assert result.exit_code in (ExitCode.FAILED, ExitCode.USAGE)
    assert "yyy" in result.stderr
    assert len(result.stderr) < 700
