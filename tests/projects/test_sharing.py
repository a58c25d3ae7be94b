"""Tests two projects on one Redis: each has its own namespace, jobs and leader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed

pytestmark = pytest.mark.system


def test_two_projects_on_one_database_run_beside_each_other(tmp_path: Path) -> None:
    with Bed("shop", tmp_path / "shop") as shop:
        blog = Bed("blog", tmp_path / "blog", server=shop.server)
        try:
            for bed in (shop, blog):
                bed.worker()
                bed.beat()
            shop.await_notes("stock", 3)
            blog.await_notes("digest", 3)
            shop.await_run("stock", lambda run: run.state is RunState.SUCCEEDED)
            blog.await_run("digest", lambda run: run.state is RunState.SUCCEEDED)
            listed = json.loads(shop.hermes("list", "--json").stdout)
            assert {job["name"] for job in listed} == {"stock", "nightly"}
            _assert_app_option_finds_the_project(blog)
            hint = "no jobs in namespace 'hermes'; others on this server are blog, shop: "
            assert hint in shop.command("list").stdout
            lost = shop.command("run", "nightly").stderr
            assert "namespace 'hermes'; others on this server are blog, shop (-N NAME)" in lost
            assert "hermes-celery -N shop doctor" in shop.command("doctor").stdout
            assert (
                "others on this server are blog, shop" in shop.command("-N", "shpo", "list").stdout
            )
            shop.hermes("-A", "shop", "run", "nightly")
            shop.await_notes("report")
        finally:
            blog.end()


def _assert_app_option_finds_the_project(blog: Bed) -> None:
    """Assert that `-A` finds a project in the working directory, as Celery does."""
    listed = blog.command("-A", "blog", "list", "--json")
    assert {job["name"] for job in json.loads(listed.stdout)} == {"digest"}, listed.stderr
    for name in ("blog:app", "blog.app"):
        assert "digest" in blog.command("-A", name, "list").stdout
    missing = blog.command("-A", "blogg", "list")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: --app blogg cannot be imported (ModuleNotFoundError")
    bare = blog.command("-A", "bare", "list")
    assert bare.stderr.startswith("Error: the app of --app bare has no cron: write ")
