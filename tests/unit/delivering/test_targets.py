"""`deliver` becomes targets by Hermes' rules, and no token is ever shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.cli.screen import job_details
from hermes_celery.core.job import Origin
from hermes_celery.core.targets import (
    Target,
    UnknownTarget,
    check,
    normalised,
    resolve,
)
from hermes_celery.core.work import HttpCall
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.platform_urls import apprise_url, read_names
from hermes_celery.errors import DeliveryFault, DeliveryRefused, JobError, SettingsError
from hermes_celery.masking.urls import masked, secrets_of, without
from tests.support import a_job, cases

TELEGRAM = {"TELEGRAM_BOT_TOKEN": "123456:abcdefghijklmnopqrstuvwxyz012345678", "HOME": "/x"}


def resolved(deliver: str, env: dict[str, str] | None = None, **names: str) -> list[str]:
    found = resolve(deliver, origin=None, environment=env or {}, names=names)
    return [target.label for target in found]


@pytest.mark.parametrize("case", cases("delivery.targets"), ids=lambda c: str(c["input"]))
def test_targets_match_those_of_hermes(case: dict[str, Any]) -> None:
    job = case["input"]["job"]
    origin = Origin(**job["origin"]) if job.get("origin") else None
    found = resolve(job["deliver"], origin=origin, environment=case["input"]["env"], names={})
    expected = [Target(**target) for target in case["expected"]["targets"]]
    assert found == expected


@pytest.mark.parametrize("case", cases("delivery.normalize"), ids=lambda c: str(c["input"]))
def test_a_stored_deliver_of_any_shape_becomes_one_text(case: dict[str, Any]) -> None:
    assert normalised(case["input"]["deliver"]) == case["expected"]["value"]


def test_names_urls_and_platforms_can_be_mixed_and_duplicates_are_dropped() -> None:
    found = resolved("ops, json://h/secret-token,ops,telegram:1,TELEGRAM:1", ops="json://x/y")
    assert found == ["ops", "json://***", "telegram:1"]


@pytest.mark.parametrize(
    ("part", "chat_id", "thread_id"),
    [
        ("matrix:!r:host", "!r:host", None),
        ("Matrix:!r:host", "!r:host", None),
        ("signal:group:abc", "group:abc", None),
        ("teams:19:abc@thread.tacv2", "19:abc@thread.tacv2", None),
        ("telegram:-100:17", "-100", "17"),
        ("slack:C0123456789:1718.2", "C0123456789", "1718.2"),
        ("discord: 12:34", "12", "34"),
    ],
)
def test_only_platforms_with_threads_end_a_chat_at_a_colon(
    part: str, chat_id: str, thread_id: str | None
) -> None:
    (target,) = resolve(part, origin=None, environment={}, names={})
    assert (target.chat_id, target.thread_id) == (chat_id, thread_id)


def test_an_old_variable_name_is_still_read() -> None:
    assert resolved("qqbot", {"QQ_HOME_CHANNEL": "7"}) == ["qqbot:7"]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("bogus:1", "unknown platform 'bogus'"),
        ("telegrm", "neither a platform nor a name in targets.toml"),
        ("telegram:", "names no chat"),
        ("a b", "is not a target"),
        ("b@example.com", "write a comma as %2C"),
    ],
)
def test_an_invalid_target_is_refused_with_the_reason(part: str, why: str) -> None:
    with pytest.raises(UnknownTarget, match=why):
        check(part, names={"ops": "json://h"})


@pytest.mark.parametrize("part", ["local", "origin", "ALL", "telegram", "slack:C1:17.2", "ops"])
def test_a_valid_target_is_accepted(part: str) -> None:
    check(part, names={"ops": "json://h"})


def test_every_platform_with_variables_gets_a_valid_apprise_url() -> None:
    environment = {
        **TELEGRAM,
        "SLACK_BOT_TOKEN": "xoxb-1234567890-1234567890-abcdefghijklmnopqrstuvwx",
        "MATTERMOST_URL": "https://chat.example.com/sub",
        "MATTERMOST_TOKEN": "abcdefghijklmnopqrstuvwxyz",
        "MATRIX_HOMESERVER": "https://matrix.example.com",
        "MATRIX_ACCESS_TOKEN": "syt_abcdefghijklmnop",
        "EMAIL_ADDRESS": "bot@example.com",
        "EMAIL_PASSWORD": "pass/word:with@all&of=it",
        "EMAIL_SMTP_HOST": "smtp.example.com",
        "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
        "TWILIO_AUTH_TOKEN": "1" * 32,
        "TWILIO_PHONE_NUMBER": "+15551234567",
        "SIGNAL_HTTP_URL": "http://127.0.0.1:8080",
        "SIGNAL_ACCOUNT": "+15551234567",
        "NTFY_TOKEN": "tk_abcdefghijklmnopqrstuvwxyz01",
        "HASS_URL": "http://ha.local:8123",
        "HASS_TOKEN": "ey.abcdefgh",
    }
    chats = {
        "telegram": "-1001234567890", "slack": "C0123456789", "mattermost": "town-square",
        "matrix": "!room:example.com", "email": "to@example.com", "sms": "+15557654321",
        "signal": "+15557654321", "ntfy": "topic", "homeassistant": "notify",
    }  # fmt: skip
    for platform, chat in chats.items():
        url = apprise_url(Target(platform=platform, chat_id=chat, thread_id="17"), environment)
        assert url is not None, platform
        AppriseChannel.check(url)
        assert apprise_url(Target(platform=platform, chat_id=chat), {"NTFY_SERVER_URL": ""}) in (
            None,
            "ntfys://ntfy.sh/topic",
        )


@pytest.mark.parametrize(
    ("platform", "variable"),
    [
        ("mattermost", "MATTERMOST_URL"),
        ("matrix", "MATRIX_HOMESERVER"),
        ("signal", "SIGNAL_HTTP_URL"),
        ("ntfy", "NTFY_SERVER_URL"),
        ("homeassistant", "HASS_URL"),
    ],
)
def test_an_invalid_server_url_is_refused_by_its_variables_name(
    platform: str, variable: str
) -> None:
    environment = {
        **dict.fromkeys(("MATTERMOST_TOKEN", "MATRIX_ACCESS_TOKEN", "SIGNAL_ACCOUNT"), "token"),
        "HASS_TOKEN": "token",
        variable: "https://[::1",
    }
    with pytest.raises(DeliveryRefused, match=f"{variable} must be the http") as error:
        apprise_url(Target(platform=platform, chat_id="x"), environment)
    assert "its host is not a host name or address" in str(error.value)


def test_a_password_with_special_characters_reaches_the_server_unchanged() -> None:
    environment = {
        "EMAIL_ADDRESS": "bot@example.com",
        "EMAIL_PASSWORD": "p&w/d:w@i=h#%2C",
        "EMAIL_SMTP_HOST": "smtp.example.com",
    }
    url = apprise_url(Target(platform="email", chat_id="to@example.com"), environment)
    assert url is not None
    plugin: Any = AppriseChannel(url, timeout_seconds=1)._plugin
    assert (plugin.user, plugin.password) == ("bot@example.com", "p&w/d:w@i=h#%2C")
    assert plugin.smtp_host == "smtp.example.com"


def test_named_targets_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    assert read_names(path) == {}
    path.write_text('ops = "json://h/t"\n', encoding="utf-8")
    assert read_names(path) == {"ops": "json://h/t"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ops = 1", "must be a URL in quotes"),
        ('telegram = "json://secret"', "already has a meaning"),
        ('"a,b" = "json://secret"', "cannot be a name"),
        ("ops = json://secret", "is not valid TOML"),
    ],
)
def test_an_invalid_targets_file_is_refused_without_showing_its_values(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=why) as error:
        read_names(path)
    assert "secret" not in str(error.value)


def book(tmp_path: Path, environment: dict[str, str] | None = None) -> AddressBook:
    return AddressBook(
        environment=environment or {},
        names_path=tmp_path / "targets.toml",
        home=tmp_path,
        files_dir=tmp_path / "output",
    )


@pytest.mark.parametrize(
    "deliver",
    [
        "nosuchscheme://token-that-is-secret",
        "tgram://token-that-is-secret",
        "file://../../etc/passwd",
        "file:///etc/passwd",
        "file://",
        "bogus:1",
    ],
)
def test_a_job_with_an_invalid_target_is_refused_without_showing_tokens(
    tmp_path: Path, deliver: str
) -> None:
    with pytest.raises(JobError) as error:
        book(tmp_path).check(f"local,{deliver}")
    assert "token-that" not in str(error.value)


def test_valid_targets_of_all_kinds_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text('ops = "json://127.0.0.1/x"', encoding="utf-8")
    book(tmp_path).check("ops,telegram:1,all,origin,mailto://u:p@h.example?to=a@b.c,file://a/b.md")


def test_platforms_without_a_home_channel_are_named_and_origin_is_not(tmp_path: Path) -> None:
    found = book(tmp_path, {"SLACK_HOME_CHANNEL": "C1"})
    assert found.open().without_target("origin,telegram,slack,local", None) == ["telegram"]
    assert book(tmp_path).open().without_target("all", None) == ["all"]


def test_urls_of_a_job_are_masked() -> None:
    job = a_job(deliver="slack://tokA/tokB,telegram:1", failure_deliver="json://u:pw@h/x",
                ping="https://hc.example/uuid-uuid")  # fmt: skip
    shown = str(job.as_json())
    for secret in ("tokA", "tokB", "pw", "uuid-uuid"):
        assert secret not in shown
    assert job.as_json()["deliver"] == "slack://***,telegram:1"
    assert job.as_json()["ping"] == "https://hc.example/***"


def test_the_name_of_a_file_target_is_shown() -> None:
    assert masked("local,file://daily.md,json://token@h") == "local,file://daily.md,json://***"
    assert masked("FILE://a.md") == "FILE://a.md"
    # Other schemes that contain the word, and a URL behind a file's name, hide what follows.
    assert masked("x-file://tok files://tok") == "x-file://*** files://***"
    assert masked("file://a;json://tok") == "file://a;json://***"


def test_the_password_in_a_requests_url_is_masked() -> None:
    call = HttpCall(url="https://h/x?password=hunter3&q=1&token=hunter4")
    job = a_job(prompt=None, http=call)
    url = "https://h/x?password=***&q=1&token=***"
    assert job.as_json()["http"]["url"] == url
    assert ("request", f"GET {url}") in job_details(job, zone="UTC")


def test_the_tokens_of_a_url_are_masked_in_an_error() -> None:
    secrets = secrets_of(["json://user:pa%20ssword@host.example/token123"])
    text = "POST host.example/token123 as pa ssword failed: http://other/thing"
    assert without(text, secrets) == "POST ***/*** as *** failed: http://***"
    assert masked("none here") == "none here"


def test_an_invalid_url_is_refused_without_showing_its_token() -> None:
    with pytest.raises(DeliveryRefused) as error:
        AppriseChannel.check("tgram://not-a-token/1")
    assert "not-a-token" not in str(error.value)


class LoggingPlugin:
    """A plugin that logs its URL and fails."""

    def notify(self, **_: object) -> bool:
        logging.getLogger("apprise").warning("POST http://h/token123 gave 502")
        return False


class LogRecorder(logging.Handler):
    """A handler that records the lines of the process's log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_a_plugins_log_becomes_the_masked_error_and_reaches_no_log() -> None:
    channel = AppriseChannel("json://h.example/token123", timeout_seconds=1)
    channel._plugin = LoggingPlugin()
    recorder = LogRecorder()
    logging.getLogger().addHandler(recorder)
    try:
        with pytest.raises(DeliveryFault) as error:
            channel.send("x", title="", files=())
    finally:
        logging.getLogger().removeHandler(recorder)
    assert recorder.lines == []
    assert str(error.value) == "delivery error: POST http://*** gave 502"


def test_an_invalid_targets_file_stops_no_other_target(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text("ops = 1")
    found = book(tmp_path).open().targets("ops,telegram:1", None)
    assert [target.label for target in found] == ["telegram:1"]
