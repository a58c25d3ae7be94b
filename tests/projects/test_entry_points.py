"""Tests the entry points for Celery's command line: scheduler `hermes` and command `cron`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import pytest

import hermes_celery
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Yield the shop project without a beat or a worker."""
    with Bed("shop", tmp_path_factory.mktemp("shop")) as bed:
        yield bed


def celery(bed: Bed, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `celery` in the project's folder and wait until it exits."""
    return subprocess.run(
        [Path(sys.executable).with_name("celery"), *arguments], env=bed.environment,
        cwd=Path(__file__).parent / bed.name, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


def cron(bed: Bed, *arguments: str) -> str:
    """Run `celery -A shop cron`, which must succeed, and return its output."""
    done = celery(bed, "-A", "shop", "cron", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_package_has_its_entry_points_and_its_version() -> None:
    found = {
        (point.group, point.name): point.value
        for group in ("celery.beat_schedulers", "celery.commands")
        for point in metadata.entry_points(group=group)
    }
    told = "install the package anew: pip install -e ."
    scheduler = found.get(("celery.beat_schedulers", "hermes"))
    assert scheduler == "hermes_celery.beat:CronScheduler", told
    command = found.get(("celery.commands", "cron"))
    assert command == "hermes_celery.cli.celery_command:cron", told
    assert hermes_celery.__version__ == metadata.version("hermes-celery")
    assert resources.files("hermes_celery").joinpath("py.typed").is_file()


def test_the_celery_subcommands_act_on_the_app_of_the_command_line(bed: Bed) -> None:
    help_ = celery(bed, "--help").stdout
    assert "cron     Manage the jobs and runs of this app's cron (hermes-celery)." in help_
    listed = cron(bed, "--help")
    assert listed.startswith("Usage: celery cron [OPTIONS] COMMAND")
    assert "backfill" in listed
    cron(bed, "add", "every 1h", "--task", "shop.report", "--name", "hourly")
    (job,) = json.loads(cron(bed, "list", "--json"))
    assert (job["name"], job["task"]["name"]) == ("hourly", "shop.report")
    # `hermes-celery` shows the same store.
    (same,) = json.loads(bed.command("-A", "shop", "list", "--json").stdout)
    assert same["id"] == job["id"]
    assert "paused" in cron(bed, "pause", "hourly")
    # The suggested command begins like the command that was typed.
    assert "add one: celery -A shop cron -N other add" in cron(bed, "-N", "other", "list")
    assert "`celery -A shop beat" in cron(bed, "status")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["-A", "shop", "cron", "show", "nope"], 1, "`celery -A shop cron list --all` shows them"),
        (["-A", "shop", "cron", "lst"], 2, "No such command 'lst'"),
        (["-A", "shop", "cron", "list", "-A", "x"], 2, "No such option '-A'"),
        (["-A", "shop", "cron", "-N", "a b", "list"], 2, "'a b' must be 1 to 40 letters"),
        (["-A", "shop", "cron", "up"], 2, "`up` starts our own app, not a project's"),
        (["cron", "list"], 1, "no app is given: write `celery -A APP cron ...`"),
        (["-A", "bare", "cron", "list"], 1, "the app of --app bare has no cron: write `from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_an_error_of_one_sentence(
    bed: Bed, arguments: list[str], code: int, why: str
) -> None:
    bare = bed.place / "library" / "bare.py"
    bare.write_text("from celery import Celery\napp = Celery('bare', broker='memory://')\n")
    done = celery(bed, *arguments)
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


def test_the_help_of_a_command_needs_no_app(bed: Bed) -> None:
    done = celery(bed, "cron", "add", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: celery cron add [OPTIONS] SCHEDULE")


def test_the_scheduler_is_found_by_its_short_name(bed: Bed) -> None:
    bed.worker("-Q", "shop-work")
    bed.celery("beat", "-S", "hermes", "-l", "INFO")
    bed.await_leader()
    bed.await_notes("stock", 2)
    eventually(
        lambda: (
            {"stock", "nightly"} <= {job["name"] for job in json.loads(cron(bed, "list", "--json"))}
        ),
        what="the declared jobs",
    )
