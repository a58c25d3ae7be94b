"""Tests the documented Redis permissions of a project's user, and the errors if one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acl import project_rules, user
from tests.projects.bed import Bed

pytestmark = pytest.mark.system


@pytest.mark.parametrize("prefix", ["", "front:"])
def test_the_documented_permissions_of_a_project_are_enough(tmp_path: Path, prefix: str) -> None:
    with Bed("walled", tmp_path) as bed:
        bed.namespace = "shop"
        with user(bed.server.url, project_rules(prefix=prefix)) as url:
            bed.environment |= {"BROKER": url, "KEYPREFIX": prefix}
            worker, beat = bed.worker("-c", "2"), bed.beat()
            bed.await_notes("tick", 2)
            bed.await_notes("last", 2)
            assert bed.celery("inspect", "ping").wait(30) == 0
            for process in (worker, beat):
                process.terminate()
                assert process.wait(30) == 0
                said = bed.log(process)
                assert "NOPERM" not in said
                assert "no permissions" not in said
                assert "Traceback" not in said


def test_a_project_whose_user_lacks_a_permission_exits_and_names_it(tmp_path: Path) -> None:
    """A key pattern, channel, command or queue is missing; a neighbour has the same prefix."""
    lacking = {
        "~front:*": "front:", "&front:/0.celery.pidbox": "front:", "~celery*": "",
        "+zmscore": "",
    }  # fmt: skip
    with Bed("walled", tmp_path) as bed:
        for missing, prefix in lacking.items():
            rules = [rule for rule in project_rules(prefix=prefix) if rule != missing]
            with user(bed.server.url, rules) as url:
                given = {"BROKER": url, "KEYPREFIX": prefix}
                started = [bed.worker(**given), bed.beat(**given)]
                for process in started:
                    assert process.wait(40) == 1, missing
                    said = bed.log(process)
                    assert "Traceback" not in said
                    (sentence,) = [one for one in said.splitlines() if one.startswith("Error: ")]
                    assert sentence.endswith(missing)
                    assert "of broker_url" in sentence
