"""The page "Move from celery beat" is followed, with RedBeat's entries and a dump of Django's.

More is checked than the page prints: the imported entries are jobs, and the schedule runs.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from hermes_celery.store import Jobs, Runs
from tests.docs.page import ROOT, blocks
from tests.docs.reader import Reader
from tests.projects.test_moving_here import put_redbeat_keys
from tests.support import eventually

PAGE = (ROOT / "docs/how-to/from-celery-beat.md").read_text(encoding="utf-8")
DATA = ROOT / "tests/data"
#: Commands that exit with 1 if they report something, after they have done the rest.
_MAY_REFUSE = ("import redbeat", "import django-celery-beat", "doctor")


@pytest.fixture
def reader() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory(prefix="hc-") as place:
        reader = Reader(Path(place), "docs/how-to/from-celery-beat.md", text=PAGE)
        try:
            yield reader
        finally:
            reader.end()


@pytest.mark.pages
@pytest.mark.system
def test_the_page_is_followed_word_by_word(reader: Reader) -> None:
    database = reader.database("shop")
    put_redbeat_keys(database)
    shutil.copy(DATA / "django-celery-beat/2.9.0.json", reader.home / "beat.json")
    for block in blocks(PAGE):
        reader.follow(block)
    reader.look_back()
    printed = reader.printed
    refused = {command: code for command, code in reader.codes.items() if code}
    assert all(any(part in command for part in _MAY_REFUSE) for command in refused), refused
    assert set(refused.values()) <= {1}

    assert "count stock" in printed["hermes-celery -A shop list"]
    assert "nightly report" in printed["hermes-celery -A shop list"]
    doctor = printed["hermes-celery -A shop doctor"]
    assert not re.search(r"^fail +(server|beat|workers?|queues?|records)\b", doctor, re.MULTILINE)
    assert "entries of RedBeat" in doctor
    assert "succeeded" in printed['hermes-celery -A shop runs "nightly report"']
    assert "9 imported" in printed["hermes-celery -A shop import redbeat"]
    assert "11 imported" in printed["hermes-celery -A shop import django-celery-beat beat.json"]
    stock = Jobs(database).find("count stock")
    eventually(
        lambda: [
            run
            for run in Runs(database).latest(job_id=stock.id, limit=10)
            if run.state is RunState.SUCCEEDED
        ],
        what="the schedule runs by itself",
    )
    database.close()
    # Tasks that only the imported jobs know are the worker's to complain of, in Celery's words.
    assert not re.search(r'File ".*/hermes_celery/', reader.logs())
