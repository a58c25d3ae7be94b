"""The text of a message: its template, its pieces, its files and its reports of failures."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_celery.core.incidents import (
    Incident,
    TroubleKind,
    failure_line,
    incident_id,
    is_telling,
    is_worth_telling,
    recovery,
    signature,
)
from hermes_celery.core.job import Job
from hermes_celery.core.run import DeliveryState, Outcome, Run, RunState
from hermes_celery.delivering import template as rendering
from hermes_celery.delivering.attachments import allowed_dirs, extract
from hermes_celery.delivering.deliverer import wait_seconds
from hermes_celery.delivering.outbox import first_state
from hermes_celery.delivering.outgoing_message import Message, message_of
from hermes_celery.delivering.splitting import pieces, utf16_length
from hermes_celery.delivering.template import check_template, render, wrapped
from hermes_celery.errors import JobError
from tests.support import NOON, a_job, a_spec, cases, replaced

RUN = Run(
    id="aaaaaaaaaaaa-20260622T120000Z",
    job_id="aaaaaaaaaaaa",
    job_name="n",
    due_at=NOON,
    queued_at=NOON,
    state=RunState.SUCCEEDED,
)


@pytest.mark.parametrize("case", cases("delivery.wrap"), ids=lambda c: str(c["input"]))
def test_header_and_footer_match_those_of_hermes(case: dict[str, Any]) -> None:
    record = case["input"]["job"]
    job = a_job(name=record["name"])
    job = replaced(job, spec=replaced(job.spec, id=record["id"]))
    wrap = case["input"]["config.cron"].get("wrap_response", True)
    rendered = render(job, RUN, case["input"]["content"], wrap=wrap)
    assert [rendered.text] == case["expected"]["sent"]


def templated(template: str) -> Job:
    return a_job(name="disks", template=template)


def test_a_template_can_use_job_run_and_output() -> None:
    rendered = render(templated("{{ job.name }} {{ run.state }}: {{ output|upper }}"), RUN, "ok",
                      wrap=True)  # fmt: skip
    assert (rendered.text, rendered.warning) == ("disks succeeded: OK", None)


@pytest.mark.parametrize(
    "template",
    [
        "{{ nothing.here }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}",
        "{{ job.update({'a': 1}) }}",
    ],
)
def test_a_template_that_fails_falls_back_to_the_plain_text_with_a_warning(template: str) -> None:
    rendered = render(templated(template), RUN, "plain", wrap=True)
    assert rendered.text == "plain"
    assert "the template failed" in (rendered.warning or "")


HOSTILE = [
    "{{ 'x'|center(10**9) }}",
    "{% set x = ['x' * 10**6] * 10**4 %}{{ x|join }}",
    "{{ (output * 10**6)|indent(10**6) }}",
    "{{ 9**(9**9) }}",
    "{{ 7 ** (10**8) % 3 }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
    "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x * 9 %}{% endfor %}",
    "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "{{ 'a'|" + "|".join(["upper"] * 5_000) + " }}",
    "{% for i in range(99999) %}" * 50 + "{% endfor %}" * 50,
    "{{ output|wordwrap(1)|replace('p', 'p' * 10**6)|replace('p', 'p' * 10**6) }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "x" * 5_000_000,
]


@pytest.mark.parametrize("template", HOSTILE, ids=lambda text: text[:40])
def test_a_hostile_template_is_stopped_and_the_plain_text_sent(template: str) -> None:
    # Rendered in this process, most of these would run for ever or use up the machine's memory.
    rendered = render(templated(template), RUN, "plain", wrap=True)
    assert rendered.text == "plain"
    assert "the template failed" in (rendered.warning or "")


def test_the_warning_names_the_limit_that_a_template_exceeded() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    # The limit is 5 s of CPU time, or 20 s of wall-clock time on a busy machine.
    assert "it took " in (render(templated(loop), RUN, "o", wrap=True).warning or "")
    memory = render(templated("{{ 'x' * 10**9 }}"), RUN, "o", wrap=True)
    assert "MemoryError" in (memory.warning or "")


def test_a_template_that_exceeds_the_wall_clock_limit_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendering, "RENDER_SECONDS", 0.0)
    rendered = render(templated("fine"), RUN, "plain", wrap=True)
    assert (rendered.text, "longer than 0 s" in (rendered.warning or "")) == ("plain", True)


def test_an_invalid_template_is_refused_with_its_line() -> None:
    with pytest.raises(JobError, match="line 2"):
        check_template("fine\n{% if %}")


@pytest.mark.parametrize("template", ["x" * 100_001, "{{ " + "(" * 40_000, "{%" * 40_000])
def test_a_too_long_or_too_deep_template_is_refused(template: str) -> None:
    with pytest.raises(JobError, match="the template is not valid: "):
        check_template(template)


def test_a_large_template_within_the_limits_is_rendered() -> None:
    template = "{% for i in range(20000) %}{{ i * 2 }} {{ output|upper }}\n{% endfor %}"
    rendered = render(templated(template), RUN, "row", wrap=True)
    assert rendered.warning is None
    assert rendered.text.count("ROW") == 20_000


def test_a_text_is_cut_at_line_ends() -> None:
    assert pieces("one\ntwo\nthree", limit=8) == ["one\ntwo", "three"]
    assert pieces("one two three", limit=8) == ["one two", "three"]
    assert pieces("x" * 20, limit=8) == ["x" * 8, "x" * 8, "xxxx"]
    assert pieces("short", limit=8) == ["short"]
    assert pieces("", limit=8) == []


@given(st.text(alphabet="ab\n 🜲", max_size=400), st.integers(2, 60))
def test_pieces_fit_the_limit_and_lose_only_white_space(text: str, limit: int) -> None:
    found = pieces(text, limit=limit, length=utf16_length)
    assert all(piece and utf16_length(piece) <= limit for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


class Narrow:
    """A channel that takes ten characters per message."""

    seconds = 1.0

    def pieces(self, text: str) -> list[str]:
        return pieces(text, limit=10)

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        raise AssertionError


def test_a_message_of_too_many_pieces_is_cut_and_names_the_command_for_the_rest() -> None:
    message = Message(title="t", text="word word\n" * 50, more_at="hermes-celery logs R")
    found = message.pieces(Narrow())
    assert len(found) == 20
    assert found[-1] == "[... 31 more messages: hermes-celery logs R]"


def test_only_files_in_allowed_directories_are_sent(tmp_path: Path) -> None:
    home = tmp_path / "home"
    good = home / "cache" / "images" / "a chart.png"
    good.parent.mkdir(parents=True)
    good.write_bytes(b"x")
    (home / ".env").write_text("TOKEN=x")
    link = good.parent / "link.png"
    link.symlink_to(home / ".env")
    more = tmp_path / "more"
    more.mkdir()
    (more / "b.pdf").write_bytes(b"x")
    allowed = allowed_dirs(home, {"HERMES_MEDIA_ALLOW_DIRS": str(more)})
    text = (
        f"see\nMEDIA:{good}\nMEDIA: `{more}/b.pdf`\nMEDIA:{home}/.env\nMEDIA:{link}\n"
        f"MEDIA:{good.parent}/none.png\nMEDIA:relative.png\nMEDIA:{good.parent}\nend"
    )
    found = extract(text, allowed=allowed)
    assert found.files == (good, more / "b.pdf")
    assert found.text.split() == ["see", "end"]
    assert [why.rpartition(": ")[2] for why in found.refused] == [
        "its directory is not allowed (HERMES_MEDIA_ALLOW_DIRS names more)",
        "its directory is not allowed (HERMES_MEDIA_ALLOW_DIRS names more)",
        "there is no such file on the machine that delivers",
        "its path is not absolute",
        "it is not a file",
    ]


def test_an_unsent_file_is_noted_in_the_message_and_on_the_run(tmp_path: Path) -> None:
    message = message_of(
        a_job(), RUN, "hi\nMEDIA:/etc/passwd", wrap=False,
        attachments=lambda text: extract(text, allowed=(tmp_path,)),
    )  # fmt: skip
    assert message.files == ()
    assert "'/etc/passwd' was not sent" in message.text
    assert len(message.warnings) == 1


def test_a_text_that_only_mentions_media_is_unchanged() -> None:
    assert extract("use MEDIA:<path> lines", allowed=()).text == "use MEDIA:<path> lines"


@pytest.mark.parametrize("case", cases("run.failure_summary"), ids=lambda c: str(c["input"]))
def test_a_failure_is_reported_in_hermes_line(case: dict[str, Any]) -> None:
    job = case["input"]["job"]
    assert (
        failure_line(job["name"], case["input"]["error"], is_agent=True)
        == case["expected"]["message"]
    )


def test_a_script_that_timed_out_is_not_blamed_on_a_provider() -> None:
    told = failure_line("n", "Script timed out after 900s: /x", is_agent=False)
    assert told == "⚠️ Cron 'n' failed: Script timed out after 900s: /x"


@pytest.mark.parametrize("case", cases("run.outcome"), ids=lambda c: str(c["input"]))
def test_an_outcome_is_delivered_if_hermes_delivers_it(case: dict[str, Any]) -> None:
    returned = case["input"]["run_job_returns"]
    if returned is None:
        pytest.skip("Hermes delivers nothing when the run raises; we deliver the failure")
    has_succeeded, _, response, error = returned
    state = RunState.SUCCEEDED if has_succeeded else RunState.FAILED
    outcome = Outcome(state=state, output=response.encode(), error=error)
    is_delivered = first_state(a_spec(deliver="telegram"), outcome) is DeliveryState.PENDING
    assert is_delivered == bool(case["expected"]["delivered"])


def test_a_job_without_a_target_still_delivers_its_failures() -> None:
    spec = a_spec()
    said = Outcome(state=RunState.SUCCEEDED, output=b"x")
    assert first_state(spec, said) is DeliveryState.NONE
    for state in (RunState.FAILED, RunState.TIMED_OUT, RunState.LOST):
        assert first_state(spec, Outcome(state=state)) is DeliveryState.PENDING
    assert first_state(spec, Outcome(state=RunState.CANCELLED)) is DeliveryState.NONE
    silent = Outcome(state=RunState.SUCCEEDED, output=b"x", silent=True)
    assert first_state(a_spec(deliver="telegram"), silent) is DeliveryState.SILENT


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("timeout after 31.2 s on 10.0.0.7", "timeout after 4 s on 10.0.0.99"),
        ("no such file: /tmp/a/b1.txt", "no such file: /tmp/a/c2.txt"),
        ("run 0b54ad3e-3b0c-4d0e-9f39-8e6d5c3b1a90 gone at 2026-06-22T12:00:00Z",
         "run 9c54ad3e-3b0c-4d0e-9f39-8e6d5c3b1a91 gone at 2026-06-23T12:00:01Z"),
        ("HTTP 500\nbody 1", "HTTP 500\nbody 2"),
        ("Script exited with code 1\nstderr:\nat 12:01 disk full",
         "Script exited with code 1\nstderr:\nat 12:02 disk full"),
    ],
)  # fmt: skip
def test_failures_of_one_kind_share_a_signature(one: str, other: str) -> None:
    assert signature(one) == signature(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("connection refused", "connection reset"),
        ("Script exited with code 1\nstderr:\ndisk full",
         "Script exited with code 1\nstderr:\nno route to host"),
    ],
)  # fmt: skip
def test_failures_of_two_kinds_have_different_signatures(one: str, other: str) -> None:
    assert signature(one) != signature(other)
    assert incident_id(TroubleKind.FAILURE, "a", error=one) != incident_id(
        TroubleKind.FAILURE, "a", error=other
    )


def test_an_incident_is_reported_at_once_then_less_and_less_often() -> None:
    assert [n for n in range(1, 1001) if is_telling(n)] == [1, 3, 10, 30, 100, 300, 1000]
    told = 0
    tellings = []
    for count in range(1, 101):
        if is_worth_telling(count, told=told, is_acked=False):
            tellings.append(count)
            told = count
    assert tellings == [1, 3, 10, 30, 100]
    assert is_worth_telling(12, told=3, is_acked=False)
    assert not is_worth_telling(1, told=0, is_acked=True)


def test_a_recovery_names_the_incidents_that_ended() -> None:
    incident = Incident(
        id="i", kind=TroubleKind.FAILURE, job_id="a", job_name="n", text="t", count=2, told=1,
        first_at=NOON, last_at=NOON + timedelta(hours=1),
    )  # fmt: skip
    late = replaced(incident, kind=TroubleKind.LATE, count=1)
    assert recovery([incident, late]) == (
        "✅ Cron 'n' works again; it failed 2 times, was late once since 2026-06-22 12:00 UTC"
    )


def test_the_waits_between_attempts_grow_up_to_an_hour() -> None:
    waits = [wait_seconds(attempt, first=10, jitter=1) for attempt in range(1, 12)]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    assert wait_seconds(1, first=10, jitter=0) == 5
    assert wait_seconds(1, first=10, jitter=1, slow_down=True) == 40


def test_wrapping_names_the_job_twice() -> None:
    assert wrapped(a_job(name="x"), "o").count("x") >= 2
