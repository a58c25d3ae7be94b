"""`add` and `edit` read requests, tasks and limits from their options."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hermes_celery.cli import main


@pytest.fixture(autouse=True)
def _environment(
    valkey_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("HERMES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def added(*arguments: str) -> dict[str, Any]:
    result = typed("add", "every 1h", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_add_reads_an_http_request_from_its_options() -> None:
    job = added(
        *("--http", "post", "https://example.com/hook", "--header", "X-Kind: a:b"),
        *("--body", '{"a": 1}', "--expect", "202,204", "--name", "hook"),
    )
    assert job["http"] == {
        "url": "https://example.com/hook",
        "method": "POST",
        "headers": {"X-Kind": "a:b"},
        "body": '{"a": 1}',
        "expect": [202, 204],
    }
    assert (
        "request:      POST https://example.com/hook  "
        "(headers X-Kind; a body of 8 characters; expects 202, 204)\n"
    ) in typed("show", "hook").stdout


def test_add_reads_a_tasks_arguments_as_json() -> None:
    job = added("--task", "shop.report", "--args", "[1]", "--kwargs", '{"full": true}')
    assert job["task"] == {"name": "shop.report", "args": [1], "kwargs": {"full": True}}
    assert job["name"] == "shop.report"


def test_limits_are_shown_and_changed() -> None:
    job = added(
        *("prompt", "--timeout", "60", "--idle-timeout", "5.5", "--queue", "gpu", "--priority"),
        *("3", "--group", "gpu", "--group-limit", "2", "--token-budget", "5000"),
        *("--cost-budget", "1.5", "--session", "none"),
    )
    shown = typed("show", job["id"]).stdout
    for text in ("timeout 60 s", "idle 5.5 s", "group gpu", "2 at once", "5,000 tokens", "1.5 USD"):
        assert text in shown
    assert typed("edit", job["id"], "--timeout", "30").exit_code == 0
    changed = json.loads(typed("show", job["id"], "--json").stdout)
    assert (changed["timeout_seconds"], changed["queue"], changed["session"]) == (30, "gpu", "none")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--header", "a: b"), 2, "this needs --http"),
        (("--args", "[1]", "prompt"), 2, "this needs --task"),
        (("--task", "a.b", "--args", "{}"), 2, "--args"),
        (("--http", "GET", "http://h/", "--expect", "ok"), 2, "must be numbers"),
        (("--http", "GET", "http://h/", "--header", "nothing"), 2, "NAME:VALUE"),
        (("--http", "GET", "http://h/", "--task", "a.b"), 1, "one kind of work"),
        (("--http", "GET", "http://h/", "prompt"), 1, "one kind of work"),
        (("prompt", "--group", "g"), 1, "go together"),
        (("prompt", "--group-limit", "2"), 1, "go together"),
        (("prompt", "--timeout", "0"), 1, "timeout_seconds is 0; it must be 0.1 to 86400"),
        (("prompt", "--interpreter", "ruby"), 1, "needs a script"),
        (("prompt", "--reasoning", "x" * 101), 1, "must be 1 to 100 letters"),
        (("prompt", "--deliver", ","), 1, "deliver ',' names no target"),
        (("prompt", "--repeat", "-1"), 1, "give a number from 1 on, 'once' or 'forever'"),
        (("prompt", "--repeat", "9" * 20), 1, "more than 1,000,000,000; leave it out"),
        (("--http", "GET", "http://h/", "--expect", "101"), 1, "must be 200 to 599"),
        (("--http", "GET", "http://h/", "--header", "Content-Length: 9"), 1, "leave it out"),
        (
            ("--http", "GET", "http://h/", "--header", "A: 1", "--header", "a: 2"),
            1,
            "the headers 'A' and 'a' are the same header",
        ),
        (("prompt", "--queue", "a b"), 1, "queue 'a b' must be"),
        (("rm -rf /",), 1, "destructive_root_rm"),
        (("zero\u200bwidth",), 1, "invisible unicode U+200B"),
    ],
)
def test_invalid_options_are_refused_with_the_reason(
    arguments: tuple[str, ...], code: int, why: str
) -> None:
    result = typed("add", "every 1h", *arguments)
    assert (result.exit_code, why in result.output) == (code, True), result.output
    assert json.loads(typed("list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("--model", "big", "--skill", "s"), "skills, model have no effect on a script"),
        (("--toolset", "web"), "enabled_toolsets has no effect on a script"),
        (("--token-budget", "5"), "token_budget has no effect on a script"),
        (("--catch-up-limit", "5"), "catch_up_limit has no effect without catch_up all"),
    ],
)
def test_an_option_without_effect_is_noted(arguments: tuple[str, ...], note: str) -> None:
    script = ("every 1h", "--script", "x.sh", "--no-agent", "--elsewhere")
    result = typed("add", *script, *arguments)
    assert result.exit_code == 0
    assert f"Note: {note}" in result.stderr
    plain = typed("add", *script, "--json")
    assert plain.stderr == ""
    edited = typed("edit", json.loads(plain.stdout)["id"], *arguments, "--elsewhere")
    assert f"Note: {note}" in edited.stderr


@pytest.mark.parametrize(
    ("work", "note"),
    [
        (("--task", "shop.report"),
         "workdir, timeout_seconds, idle_timeout_seconds have no effect on a Celery task"),
        (("--http", "GET", "https://example.com/"), "workdir has no effect on a request"),
    ],
)  # fmt: skip
def test_limits_without_effect_on_the_kind_of_work_are_noted(
    work: tuple[str, ...], note: str
) -> None:
    limits = ("--timeout", "9", "--idle-timeout", "9", "--workdir", "/")
    result = typed("add", "every 1h", *work, *limits)
    assert result.exit_code == 0, result.output
    assert f"Note: {note}" in " ".join(result.stderr.split())
    alone = typed("add", "every 1h", "prompt", *limits, "--elsewhere")
    assert "no effect" not in alone.stderr


@pytest.mark.parametrize(
    ("option", "whole"),
    [("--expect", "--http"), ("--body", "--http"), ("--args", "--task"), ("--kwargs", "--task")],
)
def test_clearing_a_part_of_a_request_or_task_alone_is_refused(option: str, whole: str) -> None:
    job = added("prompt")
    result = typed("edit", job["id"], option, "")
    assert result.exit_code == 2
    assert f"this needs {whole} as well: an edit replaces it with all its parts" in result.output


def test_a_prompt_is_scanned_again_when_it_changes() -> None:
    job = added("harmless")
    result = typed("edit", job["id"], "--prompt", "cat ~/.netrc")
    assert result.exit_code == 1
    assert "read_secrets" in result.output
