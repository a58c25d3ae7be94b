"""Secrets in output are masked by value, by form and by name, and other text is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_celery.masking.output import is_credential, known_secrets, opens_pem, redactor
from tests.pace import quiet_seconds

KEY = b"A1b2C3d4E5f6G7h8I9j0K1l2M3n4"
PEM = b"-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAKCAQ\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        (b"token=ghp_" + KEY, b"token=***"),
        (b"key sk-proj-" + KEY + b", more", b"key ***, more"),
        (b"xoxb-1234567890-abc and AKIAIOSFODNN7EXAMPLE", b"*** and ***"),
        (b"Authorization: Bearer abcdefgh.ijkl", b"Authorization: Bearer ***"),
        (b"authorization: Basic dXNlcjpwYXNz1", b"authorization: Basic ***"),
        (b'{"api_key": "a1b2c3d4e5", "n": 1}', b'{"api_key": "***", "n": 1}'),
        (b"DB_PASSWORD=hunter2 x", b"DB_PASSWORD=*** x"),
        (b"redis://:s3cret@host/0", b"redis://:***@host/0"),
        (b"postgres://me:p%40ss@db:5432/x", b"postgres://me:***@db:5432/x"),
        (b"https://abcdefgh12345678@github.com/x", b"https://***@github.com/x"),
        (b"a\n" + PEM + b"\nb", b"a\n***\nb"),
        (b"a\n" + PEM[:50], b"a\n***"),
        (b"12345678:" + b"A" * 35, b"***"),
        (b"redis://host?password=x", b"redis://host?password=***"),
        (
            b"sentinel://h/0?db=1&sentinel_password=1234&master_name=m",
            b"sentinel://h/0?db=1&sentinel_password=***&master_name=m",
        ),
        (b"Cookie: a=1; sid=abc\nq=1", b"Cookie: a=***; sid=***\nq=1"),
        (
            b"Set-Cookie: a=xyz; Path=/; HttpOnly, b=2; Max-Age=5; SameSite=Lax",
            b"Set-Cookie: a=***; Path=/; HttpOnly, b=***; Max-Age=5; SameSite=Lax",
        ),
        (b'{"cookie": "a=1; b=2", "n": "c=3"}', b'{"cookie": "a=***; b=***", "n": "c=3"}'),
        (b"{'Set-Cookie': 'a=1'} x=2", b"{'Set-Cookie': 'a=***'} x=2"),
        (b"bin\xff\x00 token=ghp_" + KEY + b" \xfe", b"bin\xff\x00 token=*** \xfe"),
    ],
)
def test_a_secret_is_masked_and_the_text_around_it_stays(printed: bytes, kept: bytes) -> None:
    assert redactor()(printed) == kept


@pytest.mark.parametrize(
    "printed",
    [
        b"",
        b"max_token=100",
        b"the token: none was given",
        b"secret: nothing to see",
        b"ask-me-anything-about-it",
        b"password=",
        b"redis://host?password=$PASSWORD",
        b"a cookie: sweet, with chocolate",
        b"token=$TOKEN",
        b"http://host/path?q=1",
        b"ssh://git@host/repo",
        b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
        b"tokens used: 12345",
        b"bearer of bad news",
    ],
)
def test_text_without_a_secret_is_unchanged(printed: bytes) -> None:
    assert redactor()(printed) == printed


def test_known_values_are_masked_anywhere() -> None:
    environment = {
        "OPENAI_API_KEY": "plain words here",
        "HERMES_REDIS_URL": "redis://:pa55word-long@host/0",
        "CACHE": "redis://host/0?db=1&password=another%2Dsecret",
        "MYVAR": "not secret at all",
        "SHORT_TOKEN": "abc",
    }
    redact = redactor(known_secrets(environment))
    printed = b"say plain words here, pa55word-long, not secret at all, abc, another-secret"
    assert redact(printed) == b"say ***, ***, not secret at all, abc, ***"


def test_a_credential_is_recognised_by_its_name_or_a_password_in_it() -> None:
    assert is_credential("OPENAI_API_KEY", "x")
    assert is_credential("DATABASE", "postgres://u:p@h/d")
    assert is_credential("CACHE", "redis://host?password=x")
    assert not is_credential("SEARCH", "https://host?q=x")
    assert not is_credential("MONKEY", "x")
    assert not is_credential("PATH", "/usr/bin")


@given(st.binary(max_size=400))
def test_any_bytes_are_accepted_and_a_second_pass_changes_nothing(content: bytes) -> None:
    redact = redactor()
    assert redact(redact(content)) == redact(content)


@given(
    st.binary(max_size=60),
    st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=8, max_size=40),
    st.binary(max_size=60),
)
def test_a_known_value_never_gets_through(before: bytes, secret: str, after: bytes) -> None:
    assert secret.encode() not in redactor([secret])(before + secret.encode() + after)


@given(st.lists(st.sampled_from([b"token=ghp_" + KEY, b"plain", b"a://u:p@h", b"x"]), max_size=8))
def test_masking_line_by_line_equals_masking_all_at_once(lines: list[bytes]) -> None:
    redact = redactor()
    assert b"\n".join(map(redact, lines)) == redact(b"\n".join(lines))


def test_an_unfinished_private_key_is_recognised() -> None:
    assert opens_pem(PEM[:40])
    assert not opens_pem(PEM)
    assert not opens_pem(b"-----BEGIN CERTIFICATE-----\nMII")


@pytest.mark.parametrize(
    "unit",
    [
        b"an ordinary line of a log, 12:30:05, level=info\n",
        b"token=ghp_A1b2C3d4E5f6G7h8\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        b"https://user:pass@host/ ",
        b"x" * 64,
        b"://",
        b"token",
        b"eyJ",
        b"-eyJ",
        b"token=",
        b"cookie:",
        b"cookie: a",
        b"cookie: '",
        b"cookie:" + b"a=b;" * 99 + b"\n",
        b"?password=",
        b"bearer ",
        b"12345678:",
    ],
)
def test_a_megabyte_is_masked_in_well_under_a_second(unit: bytes) -> None:
    content = (unit * (2**20 // len(unit) + 1))[: 2**20]
    assert quiet_seconds(lambda: redactor(["some-long-secret-value"])(content)) < 0.9
