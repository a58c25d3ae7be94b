"""Settings are read once from the environment, and all faults are reported together."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import hermes_celery
from hermes_celery.celery_app.project_app import with_namespace
from hermes_celery.errors import JobError, SettingsError
from hermes_celery.masking.server_urls import without_password, without_passwords_in
from hermes_celery.session import Session
from hermes_celery.settings import ELSEWHERE, VARIABLES, Variable, read_settings, unknown_variables
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.project import Cron
from tests.support import cases


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(
            {
                "HERMES_CRON_MAX_WORKERS": "0",
                "HERMES_REDIS_URL": "amqp://u:secret@h/",
                "HERMES_TIMEZONE": "Mars/Olympus",
                "HERMES_CELERY_GRACE": "soon",
            }
        )
    assert [fault.split(":")[0] for fault in error.value.faults] == [
        "HERMES_REDIS_URL",
        "HERMES_TIMEZONE",
        "HERMES_CRON_MAX_WORKERS",
        "HERMES_CELERY_GRACE",
    ]
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("case", cases("tick.max_workers@pr9965"), ids=lambda c: str(c["input"]))
def test_max_workers_is_the_concurrency(case: dict[str, Any]) -> None:
    given = {name: value for name, value in case["input"].items() if value is not None}
    assert read_settings(given).max_workers == case["expected"]["workers"]


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_worker_count_below_one_or_not_a_number_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        read_settings({"HERMES_CRON_MAX_WORKERS": text})


@pytest.mark.parametrize("case", cases("run.script_timeout"), ids=lambda c: str(c["input"]))
def test_the_script_timeout_is_read_as_hermes_reads_it(case: dict[str, Any]) -> None:
    given = {name: value for name, value in case["input"].items() if value is not None}
    assert read_settings(given).script_timeout_seconds == case["expected"]["seconds"]


def test_without_a_url_the_embedded_server_is_used() -> None:
    assert read_settings({}).redis_url is None


def test_the_password_of_a_url_is_masked() -> None:
    assert without_password("redis://u:p@h:1/0") == "redis://u:***@h:1/0"
    assert without_password("redis://:p@h:1/0") == "redis://:***@h:1/0"
    assert without_password("redis://h:1/0") == "redis://h:1/0"
    assert without_password("sentinel://:p@a:1,[::1]:2/0") == "sentinel://:***@a:1,[::1]:2/0"
    assert without_password("redis://h/0?password=a;b#c&db=1") == "redis://h/0?password=***&db=1"
    assert without_password("redis://host?password=x") == "redis://host?password=***"
    assert without_password("redis://h?pass%77ord=x") == "redis://h?pass%77ord=***"


@pytest.mark.parametrize("url", ["redis://:hunter2@h/0", "redis://h/0?password=hunter2",
                                 "sentinel://h/0?master_name=m&sentinel_password=hunter2",
                                 "rediss://h/0?ssl_password=hunter2"])  # fmt: skip
def test_celerys_bug_report_shows_no_password(url: str) -> None:
    app = make_app(read_settings({"HERMES_REDIS_URL": url, "HERMES_CELERY_ALERTS": url}))
    shown = app.bugreport() + repr(app.conf.hermes_settings)
    assert "hermes_settings" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("option", ["PASSWORD", "passwd", "pass", "pwd", "auth", "token"])
def test_a_password_under_a_wrong_name_is_refused_without_being_shown(option: str) -> None:
    with pytest.raises(SettingsError, match=f"option '{option}' is unknown") as error:
        read_settings({"HERMES_REDIS_URL": f"redis://host?{option}=hunter2"})
    assert "hunter2" not in str(error.value)


def test_the_passwords_of_urls_in_an_error_are_masked() -> None:
    text = "no answer from 'redis://u:p@h:1/0' and redis://h?password=x&db=1, said the server"
    assert without_passwords_in(text) == (
        "no answer from 'redis://***@h:1/0' and redis://h?password=***&db=1, said the server"
    )


@pytest.mark.parametrize("secret", ["sec#ret", "sec/ret", "sec?ret", "12#ret", "12/ret", "12?ret",
                                    "p[ret", "p]ret", "p[x]ret", "p℀ret"])  # fmt: skip
def test_a_password_with_unescaped_delimiters_is_masked_and_refused(secret: str) -> None:
    url = f"redis://:{secret}@host:6379/0"
    assert without_password(url) == "redis://:***@host:6379/0"
    assert "ret" not in without_password(url.replace("//:", "//user:"))
    with pytest.raises(SettingsError) as error:
        read_settings({"HERMES_REDIS_URL": url})
    assert "ret" not in str(error.value)
    assert "write # / ? as %23 %2F %3F" in str(error.value)


@pytest.mark.parametrize("url", ["unix://u:p/ret@/run/x.sock", "redis://u:12?ret@h:6379/0"])
def test_a_password_that_parses_as_a_path_or_query_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"write # / [?] as %23 %2F %3F") as error:
        read_settings({"HERMES_REDIS_URL": url})
    assert "ret" not in str(error.value)


@pytest.mark.parametrize("url", ["redis://h:6379/0?client_name=a@b", "unix:///run/a@b.sock?db=1",
                                 "redis://h?password=a@b", "unix:///x.sock?client_name=a@b",
                                 "redis://u:p@h/0?client_name=a@b"])  # fmt: skip
def test_an_at_sign_after_the_login_is_accepted(url: str) -> None:
    assert read_settings({"HERMES_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("url", ["redis://:secret", "redis://u:sec[ret", "redis://[secret",
                                 "redis:/:secret@h", "u:secret@h"])  # fmt: skip
def test_the_password_of_an_invalid_url_is_masked(url: str) -> None:
    shown = without_password(url)
    assert "sec" not in shown
    assert "***" in shown
    with pytest.raises(SettingsError) as error:
        read_settings({"HERMES_REDIS_URL": url})
    assert "sec" not in str(error.value)


@pytest.mark.parametrize("name", ["shop", "shop.tasks", "Shop-2", "a" * 40])
def test_a_projects_namespace_is_the_name_of_its_app(name: str) -> None:
    app = Celery(name, set_as_current=False)
    assert with_namespace(read_settings({}), app).namespace == name
    chosen = read_settings({"HERMES_CELERY_NAMESPACE": "hermes"})
    assert with_namespace(chosen, app).namespace == "hermes"


@pytest.mark.parametrize("name", [None, "", "__main__", "my shop", "{shop}", ".shop", "a" * 41])
def test_an_app_without_a_usable_name_is_refused_with_the_line_to_write(name: str | None) -> None:
    app = Celery(name, set_as_current=False)
    with pytest.raises(SettingsError, match=r'Cron\(app, namespace="shop"\)'):
        with_namespace(read_settings({}), app)
    Cron(app, namespace="shop")
    Cron(app)
    assert with_namespace(read_settings({}), app).namespace == "shop"
    with pytest.raises(JobError, match="give both the same"):
        Cron(app, namespace="blog")
    with pytest.raises(JobError, match="must be 1 to 40 letters"):
        Cron(app, namespace="no blanks")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("HERMES_CRON_MAX_WORKERS", "1001", "at most 1,000; start more workers"),
        ("HERMES_CELERY_DELIVERY_TIMEOUT", "0", "above 0"),
        ("HERMES_CELERY_PING_URL", "http://", "must be an http"),
        ("HERMES_CELERY_PING_URL", "https://[::1", "must be an http"),
        ("HERMES_CELERY_PING_URL", "https://h:port/", "its port is not a number"),
        ("HERMES_REDIS_URL", "redis://a..b/0", "its host is not a host name or address"),
        ("HERMES_REDIS_URL", "redis://[::1/0", "Invalid IPv6 URL"),
        (
            "HERMES_REDIS_URL",
            "sentinel://a..b:1/0?master_name=m",
            "its host is not a host name or address",
        ),
        ("HERMES_CELERY_AGENT_COMMAND", "hermes -z", "contain {prompt}"),
        ("HERMES_CELERY_AGENT_COMMAND", "hermes '{prompt}", "No closing quotation"),
        ("HERMES_CRON_ENV_PASSTHROUGH", "TOKEN=abc", "list names, without values"),
        ("HERMES_CELERY_HTTP_ALLOW_PRIVATE", "10.0.0.0/8", "is not a host"),
        ("HERMES_CELERY_HTTP_ALLOW_PRIVATE", "true", "write on for all"),
        ("HERMES_CELERY_KEEP_RUNS", "2000000", "from 1 to 1,000,000"),
        ("HERMES_HOME", "~nobody-of-that-name/h", "no such user"),
    ],
)
def test_an_invalid_value_is_refused_with_the_reason(name: str, text: str, why: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({name: text})
    (fault,) = error.value.faults
    assert fault.startswith(f"{name}: ")
    assert why in fault


@pytest.mark.parametrize("text", ["abc", "0", "-3", "0.5", "inf", "nan"])
def test_a_value_that_hermes_ignores_is_ignored_with_a_note(text: str) -> None:
    settings = read_settings({"HERMES_CRON_SCRIPT_TIMEOUT": text})
    assert settings.script_timeout_seconds == 3600
    (said,) = settings.ignored
    assert said.startswith(f"HERMES_CRON_SCRIPT_TIMEOUT: {text!r} is not a number of seconds")
    assert read_settings({"HERMES_CRON_SCRIPT_TIMEOUT": "5"}).ignored == ()


def test_a_misspelt_variable_is_found_with_the_likely_name() -> None:
    given = dict.fromkeys(
        ["HERMES_CELERY_NAMESAPCE", "HERMES_CRON_MAX_WORKER", "HERMES_CRON_RUN_ID", "HOME",
         "HERMES_CELERY_APP", "HERMES_CELERY_GRACE", "HERMES_CELERY_XYZZY"], "1",
    )  # fmt: skip
    assert unknown_variables(given) == {
        "HERMES_CELERY_NAMESAPCE": "HERMES_CELERY_NAMESPACE",
        "HERMES_CELERY_XYZZY": "",
        "HERMES_CRON_MAX_WORKER": "HERMES_CRON_MAX_WORKERS",
    }


@pytest.mark.parametrize("variable", VARIABLES.values(), ids=lambda variable: variable.name)
def test_every_default_is_accepted_as_a_value(variable: Variable) -> None:
    given = read_settings({variable.name: variable.default})
    assert replace(given, is_namespace_given=False) == read_settings({})


def test_every_variable_that_the_code_names_is_in_the_table() -> None:
    known = {variable.name for variable in (*VARIABLES.values(), *ELSEWHERE)}
    package = Path(hermes_celery.__file__).parent
    sources = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    named = set(re.findall(r"[\"'](HERMES_[A-Z_]+[A-Z])[\"']", sources))
    of_a_run = set(Session().variables())
    assert named - of_a_run <= known
    assert {name for name in known if name.startswith("HERMES_")} <= named
