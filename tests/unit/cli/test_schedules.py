"""The commands `hermes-celery next` and `hermes-celery explain`."""

from __future__ import annotations

import json

import pytest
from click import Command
from click.testing import CliRunner, Result

from hermes_celery.cli.schedules import explain_command, next_command


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_TIMEZONE", "America/New_York")


def run(command: Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def lines(command: Command, *arguments: str) -> list[str]:
    result = run(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_next_prints_five_instants_with_their_offset() -> None:
    assert lines(next_command, "0 9 * * 1-5", "--tz", "Europe/Berlin", "--from", "2027-03-25") == [
        "2027-03-25T09:00:00+01:00",
        "2027-03-26T09:00:00+01:00",
        "2027-03-29T09:00:00+02:00",
        "2027-03-30T09:00:00+02:00",
        "2027-03-31T09:00:00+02:00",
    ]


def test_next_without_a_zone_uses_the_zone_of_the_settings() -> None:
    assert lines(next_command, "@daily", "--from", "2027-01-01T12:00", "-n", "1") == [
        "2027-01-02T00:00:00-05:00"
    ]


def test_next_as_json_is_a_list_in_the_given_zone() -> None:
    arguments = ["CRON_TZ=Asia/Tokyo 0 9 * * *", "--from", "2027-01-01T00:00Z", "-n", "2", "--json"]

    [tokyo] = lines(next_command, *arguments)
    [berlin] = lines(next_command, *arguments, "--tz", "Europe/Berlin")

    assert json.loads(tokyo) == ["2027-01-02T09:00:00+09:00", "2027-01-03T09:00:00+09:00"]
    assert json.loads(berlin) == ["2027-01-02T01:00:00+01:00", "2027-01-03T01:00:00+01:00"]


def test_next_until_includes_the_end() -> None:
    found = lines(
        next_command,
        *("0 */2 * * *", "--tz", "UTC"),
        *("--from", "2027-01-01T00:00", "--until", "2027-01-01T20:00"),
    )

    assert len(found) == 10
    assert found[-1] == "2027-01-01T20:00:00+00:00"


def test_next_counts_a_delay_from_the_given_time() -> None:
    arguments = ("in 45m", "--tz", "UTC", "--from", "2027-01-01T00:00")

    assert lines(next_command, *arguments) == ["2027-01-01T00:45:00+00:00"]


def test_next_reports_a_schedule_without_further_instants() -> None:
    result = run(next_command, "2020-01-01T00:00", "--tz", "UTC", "--from", "2027-01-01")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "has no instant in that time" in result.stderr
    [as_json] = lines(next_command, "2020-01-01", "--from", "2027-01-01", "--json")
    assert as_json == "[]"


@pytest.mark.parametrize("command", [next_command, explain_command])
@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ["60 * * * *"],
            "'60 * * * *': minute 60 is outside 0-59 (fields: minute hour day month weekday)",
        ),
        (["0 9 * * *", "--tz", "Mars/Base"], "'Mars/Base' is not a time zone"),
        (["0 9 * * *", "--from", "soon"], "'soon' is not an ISO time"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_1(
    command: Command, arguments: list[str], fault: str
) -> None:
    result = run(command, *arguments)

    assert result.exit_code == 1
    assert fault in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [[], ["@daily", "-n", "0"], ["@daily", "--unknown"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(next_command, *arguments).exit_code == 2


def test_an_invalid_default_zone_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERMES_TIMEZONE", "Mars/Base")

    result = run(next_command, "@daily")

    assert result.exit_code == 1
    assert "HERMES_TIMEZONE" in result.stderr


def test_explain_prints_description_normal_form_instants_and_warnings() -> None:
    found = lines(
        explain_command, "daily at 2:30", "--tz", "Europe/Berlin", "--from", "2027-03-26T12:00"
    )

    assert found[0] == "At 02:30."
    assert found[1] == "Normal form: 30 2 * * *  (Europe/Berlin)"
    assert [line.rstrip() for line in found[2:5]] == [
        "Next in the job's zone, Europe/Berlin  Next in your zone, America/New_York",
        "Sat 2027-03-27 02:30:00+01:00          Fri 2027-03-26 21:30:00-04:00",
        "Sun 2027-03-28 03:00:00+02:00          Sat 2027-03-27 21:00:00-04:00",
    ]
    assert found[8:] == [
        "Warning: 02:30 does not exist on 2027-03-28 in Europe/Berlin: runs at 03:00",
        "Warning: 02:30 comes twice on 2027-10-31 in Europe/Berlin: runs at the first only "
        "(at +02:00)",
    ]


def test_explain_shows_one_column_if_both_zones_are_the_same() -> None:
    found = lines(explain_command, "0 9 * * *", "--from", "2027-01-01")

    assert found[2].rstrip() == "Next, America/New_York"


def test_help_names_the_grammars() -> None:
    assert "every monday 9am" in run(next_command, "--help").output
