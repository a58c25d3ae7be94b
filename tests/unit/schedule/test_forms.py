"""In the table of forms, every example parses, has words and has a next instant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.schedule import parse
from hermes_celery.schedule.explaining import explain
from hermes_celery.schedule.forms import FORMS

NOW = datetime(2027, 1, 4, 8, 15, tzinfo=UTC)
EXAMPLES = [one for forms in FORMS.values() for form in forms for one in form.examples]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_a_form_is_a_schedule(example: str) -> None:
    schedule = parse(example, timezone="Europe/Berlin", now=NOW)
    assert schedule.next_after(NOW) is not None
    assert explain(schedule, now=NOW).words


def test_explain_forms_prints_all_forms() -> None:
    printed = CliRunner().invoke(main, ["explain", "--forms"])
    assert printed.exit_code == 0
    lines = [line.strip() for line in printed.output.splitlines()]
    assert [line for line in lines if line in EXAMPLES] == EXAMPLES
    assert [line for line in lines if line in FORMS] == list(FORMS)
