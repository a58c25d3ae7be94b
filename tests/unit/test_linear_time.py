"""Every function that reads users' text takes linear time.

The bound for a text four times as long: eight times the time of the short text, plus the time of
eight loops over it in Python. That is far above noise, and far below the sixteen times of a
quadratic function. Both sides are measured right after each other as CPU time of this process.
"""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from hermes_celery.core import answers, incidents, prompt_scan, targets
from hermes_celery.core.job import JobRequest
from hermes_celery.core.job_checks import define
from hermes_celery.core.output import OutputCapture, as_text
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.delivering import attachments
from hermes_celery.delivering.outbox import first_state
from hermes_celery.delivering.outgoing_message import Message
from hermes_celery.delivering.splitting import pieces, utf16_length
from hermes_celery.errors import HermesCeleryError
from hermes_celery.events import JsonFormatter, event
from hermes_celery.masking.output import (
    header_secrets,
    is_credential,
    known_secrets,
    opens_pem,
    redact_text,
    redactor,
)
from hermes_celery.masking.server_urls import without_password, without_passwords_in
from hermes_celery.masking.urls import masked, masked_path, secrets_of, without
from hermes_celery.running import prompt
from hermes_celery.running.child_process import ChildEnding, ChildResult
from hermes_celery.running.live_output import LiveOutput
from hermes_celery.running.script import failure, wakes_agent
from hermes_celery.schedule import parse
from tests.support import NOON, a_spec

#: Pieces that are repeated to make a hostile text.
SEEDS = (
    "\n", " ", "\t", "\r", "\r\n", "\0", "a", "a.", "a+a-", "Z_", "0", "1.", "0a", "é", "🜲",
    "\u200d", "\u200d\ufe0f", "\u202e", "\u2028", "/", "/..", "/a", "://", "a://", "a://b@", "@",
    "a@", ":", "a:", ",", "=", "a=", "#", "'", '"', "`", "$", "${", "$KEY", "{{", "{%", "[", "[[",
    "{", "\\", "-", "-- ", "\ud800",
    "MEDIA:", "MEDIA: ", "MEDIA:\n", "\n MEDIA:/x", "MEDIA:/x\n", "[[audio_as_voice]]",
    "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "-----BEGIN A ",
    "sk-", "sk-a ", "token", "token=", "token:", "token: ", "token= token ", "secret:a1",
    "api_key", "bearer ", "bearer\t", "eyJ", "1234567890:", "ghp_",
    "ignore all ", "ignore ", "ignore previous ", "disregard  ", "do  not ", "curl ", "curl -H ",
    "curl -d ", "wget --post-data= ", "cat ", "rm -rf ", "https://$", "-H 'Authorization: token $",
    "hermes gateway ", "Traceback\n", "Script exited with code ", "429 ",
)  # fmt: skip
#: The beginnings of such texts, each of which lets a pattern start to match.
BEGINNINGS = ("", "token=", "a://", "MEDIA:", "curl -H 'Authorization: Bearer $")


class Chat:
    """A channel with Telegram's limit: 4,096 UTF-16 code units per message."""

    seconds = 1.0

    def pieces(self, text: str) -> list[str]:
        return pieces(text, limit=4096, length=utf16_length)

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        raise AssertionError


def _logged(text: str) -> None:
    logger = logging.Logger("test")
    handler = logging.Handler()
    handler.setFormatter(JsonFormatter())
    handler.handle = lambda record: bool(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    event(logger, "some.event", text=text)


def _captured(text: str) -> None:
    capture, content = OutputCapture(20_000), text.encode(errors="replace")
    for start in range(0, len(content), 100):
        capture.write(content[start : start + 100])
    capture.content()


def _live(text: str) -> None:
    live = LiveOutput()
    live.mask_with(redactor())
    live.write(text.encode(errors="replace"))
    live.take()


def _failed(text: str) -> None:
    content = text.encode(errors="replace")
    failure(ChildResult(ending=ChildEnding.EXITED, exit_code=1, stdout=content, stderr=content))


def _defined(text: str) -> None:
    request = JobRequest(schedule="every 1h", prompt="p", script=text, deliver=text, name="n")
    define(request, job_id="a" * 12, now=NOON, default_timezone="UTC")


def _resolved(text: str) -> None:
    for target in targets.resolve(text, origin=None, environment={}, names={}):
        _ = target.label
    for part in targets.parts_of(text)[:3]:
        with suppress(targets.UnknownTarget):
            targets.check(part, names={})


def _delivered(text: str) -> None:
    outcome = Outcome(state=RunState.SUCCEEDED, output=text.encode(errors="replace"))
    first_state(a_spec(deliver="telegram"), outcome)


def _in_bytes(function: Callable[[bytes], object]) -> Callable[[str], object]:
    return lambda text: function(text.encode(errors="replace"))


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "media lines": lambda text: attachments.extract(text, allowed=()),
    "splitting": lambda text: pieces(text, limit=4096, length=utf16_length),
    "splitting finely": lambda text: pieces(text, limit=20),
    "a message's pieces": lambda text: Message(title="t", text=text).pieces(Chat()),
    "masking": _in_bytes(redactor()),
    "masking known values": _in_bytes(redactor(["a-known-secret", "aaaaaaaaaaaaaaaa"])),
    "masking text": lambda text: redact_text(redactor(), text),
    "opens_pem": _in_bytes(opens_pem),
    "is_credential": lambda text: is_credential(text, text),
    "header_secrets": lambda text: header_secrets({"Cookie": text, "Authorization": text}),
    "without_password": without_password,
    "without_passwords_in": without_passwords_in,
    "known_secrets": lambda text: known_secrets({"A": text, "TOKEN": text}),
    "masked": masked,
    "without": lambda text: without(text, secrets_of(["json://user:password@host/path"])),
    "masked_path": lambda text: masked_path("http://host/" + text),
    "secrets_of": lambda text: secrets_of([text]),
    "signature": incidents.signature,
    "signature of a script": lambda text: incidents.signature(f"Script exited with code 1\n{text}"),
    "failure_line": lambda text: incidents.failure_line("n", text, is_agent=False),
    "failure_summary": lambda text: answers.failure_summary("n", text),
    "check_prompt": prompt_scan.check_prompt,
    "checked_assembled": prompt_scan.checked_assembled,
    "assembled": lambda text: prompt.assembled(
        "p",
        collected=prompt.CollectedData(text=text),
        contexts=[prompt.ContextOutput(reference="r", text=text)],
        skills=[prompt.Skill(name="s", content=text)],
    ),
    "is_silent": answers.is_silent,
    "first_state": _delivered,
    "as_text": _in_bytes(as_text),
    "capture": _captured,
    "live output": _live,
    "log event": _logged,
    "targets": _resolved,
    "wake gate": wakes_agent,
    "failure": _failed,
    "define": _defined,
    "schedule": lambda text: parse(text, now=NOON),
}


def walk(text: str) -> None:
    """Loop over a text: the unit of every bound."""
    for _ in text:
        pass


def seconds(function: Callable[[str], object], text: str, *, runs: int = 3) -> float:
    """Return the least CPU time of several calls, since noise only adds time."""
    best = float("inf")
    for _ in range(runs):
        begun = time.process_time()
        with suppress(HermesCeleryError, ValueError):
            function(text)
        best = min(best, time.process_time() - begun)
    return best


def quadratic(
    function: Callable[[str], object],
    *,
    size: int,
    seeds: Sequence[str] = SEEDS,
    beginnings: Sequence[str] = BEGINNINGS,
) -> list[str]:
    """Return the texts for which four times the length breaks the bound."""
    slow = []
    gc.collect()
    for beginning in beginnings:
        for seed in seeds:
            text = beginning + seed * (size // len(seed))
            longer = beginning + seed * (4 * size // len(seed))
            bound = 8 * (seconds(function, text) + seconds(walk, text))
            if seconds(function, longer, runs=1) > bound and seconds(function, longer) > bound:
                slow.append(f"{beginning!r} and then {seed!r} repeated")
    return slow


# CPU time is compared; this limit is for a test that hangs, also on a busy machine.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_four_times_the_text_takes_at_most_eight_times_as_long(name: str) -> None:
    assert quadratic(FUNCTIONS[name], size=16_384) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_four_times_a_large_text_takes_at_most_eight_times_as_long(name: str) -> None:
    assert quadratic(FUNCTIONS[name], size=250_000, beginnings=[""]) == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("planted", "seed"),
    [
        # An earlier pattern of this project: each blank line is tried as the start of a match.
        (lambda text: re.findall(r"(?m)^\s*MEDIA:", text), "\n"),
        # A name that may end anywhere, followed by a character that the text does not have.
        (lambda text: re.search(r"\$\w*KEY\w*'", text), "KEY"),
        # The rest of the text is counted again for each piece.
        (lambda text: [sum(map(ord, text[i:])) for i in range(0, len(text), 64)], "a"),
    ],
)
def test_a_quadratic_function_is_detected(planted: Callable[[str], object], seed: str) -> None:
    beginnings = ("", BEGINNINGS[-1])
    assert quadratic(planted, size=8_192, seeds=[seed], beginnings=beginnings) != []


def test_an_invalid_ping_url_is_masked_entirely() -> None:
    # An earlier version may have stored a job with such a URL.
    assert masked_path("https://[::1/secret") == "***"
