"""Tests that refused declarations and colliding projects are shown by the commands and the log."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from subprocess import Popen

import pytest

from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def end(process: Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


def listed(bed: Bed) -> dict[str, str]:
    found = json.loads(bed.hermes("list", "--json").stdout)
    return {job["name"]: job["state"] for job in found}


def test_a_refused_declaration_is_shown_until_it_is_corrected(tmp_path: Path) -> None:
    with Bed("refused", tmp_path) as bed:
        mended = bed.beat(MENDED="1")
        eventually(lambda: "was good" in listed(bed), what="the first beat's jobs")
        end(mended)
        bed.worker()
        beat = bed.beat(SPOILED="1")
        bed.await_notes("work", 2)
        eventually(lambda: "sunny" in listed(bed), what="the refused declarations")
        for name in ("sunny", "never", "past", "naive"):
            assert listed(bed)[name] == "refused", name
        # The job stored earlier is neither removed nor stopped.
        states = [one["state"] for one in json.loads(bed.hermes("list", "--json").stdout)
                  if one["name"] == "was good"]  # fmt: skip
        assert sorted(states) == ["refused", "scheduled"]
        _assert_shown_everywhere(bed)
        _assert_not_editable_here(bed)
        end(beat)
        bed.beat(MENDED="1")
        eventually(lambda: "sunny" not in listed(bed), what="the corrected declarations")
        assert "refused" not in listed(bed).values()
        assert "elsewhere" not in listed(bed)
        eventually(
            lambda: "is refused" not in bed.hermes("incidents").stdout, what="closed incidents"
        )
        assert "declared" not in bed.hermes("doctor").stdout


def _assert_shown_everywhere(bed: Bed) -> None:
    text = "job 'never' of beat_schedule of app refused is refused: its option 'hermes' is"
    for verb in ("status", "doctor", "incidents"):
        assert text in bed.hermes(verb).stdout, verb
    assert "refused" in bed.hermes("list").stdout
    shown = bed.hermes("show", "never")
    assert shown.returncode == 1
    assert text in shown.stderr
    assert json.loads(bed.hermes("show", "Never", "--json").stdout)["state"] == "refused"
    assert "cron.add in module refused is refused" in bed.hermes("doctor").stdout
    assert "job 'naive' of cron.add in module refused is refused: 2099-12-05T00:00:00 has no" in (
        bed.hermes("show", "naive").stderr
    )
    # A job that may not work is stored anyway.
    for name, why in (
        ("elsewhere", "app 'refused' has no task 'other.work'; check the name"),
        ("too much", "the task refused.work does not take its arguments: work() takes 0"),
    ):
        assert why in bed.hermes("show", name).stdout
        assert f"may not work: {why}" in bed.hermes("doctor").stdout


def _assert_not_editable_here(bed: Bed) -> None:
    edited = bed.hermes("edit", "nightly", "--schedule", "0 3 * * *")
    assert edited.stderr.startswith(
        "Error: job 'nightly' is declared in cron.add in module refused; change it there"
    )
    removed = bed.hermes("remove", "good")
    assert "is declared in beat_schedule of app refused; remove it there" in removed.stderr
    assert (edited.returncode, removed.returncode) == (1, 1)
    for verb in ("pause", "resume", "run"):
        assert bed.hermes(verb, "nightly").returncode == 0
    assert bed.hermes("remove", "--declared", "elsewhere").returncode == 0


def test_two_projects_with_one_name_are_reported_and_remove_no_job(tmp_path: Path) -> None:
    with Bed("shop", tmp_path / "shop") as shop:
        store = Bed("store", tmp_path / "store", server=shop.server)
        store.namespace = "shop"
        try:
            first = store.beat()
            eventually(lambda: "inventory" in listed(store), what="the first project's job")
            second = shop.beat()
            text = "beats of different projects are in namespace 'shop' (shop (module shop); shop "
            eventually(lambda: text in shop.log(second), what="the standby's log line")
            eventually(lambda: text in shop.hermes("doctor").stdout, what="the doctor's line")
            eventually(lambda: text in shop.hermes("incidents").stdout, what="an incident")
            assert text in store.log(first)
            end(first)
            eventually(lambda: "nightly" in listed(shop), what="the second project's jobs")
            again = store.beat()
            eventually(
                lambda: text in store.log(again),
                what="the log line of the first project's new beat",
            )
            end(second)
            eventually(lambda: "inventory" in listed(shop), what="the first project's job again")
        finally:
            store.end()
