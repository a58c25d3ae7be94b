"""The Django example beyond its README: rows and jobs agree also where a transaction is undone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects.bed import Server

pytestmark = [pytest.mark.pages, pytest.mark.system]

PROJECT = Path(__file__).parents[2] / "examples" / "django-project"
_CODE = """
import json
from django.core.exceptions import ValidationError
from django.db import transaction
from django.test import Client
from mysite.celery import cron
from newsletters.models import Newsletter

def jobs():
    return {job.name: job.spec.schedule for job in cron.client.find_jobs(name="newsletter")}

def undone():
    try:
        with transaction.atomic():
            Newsletter.objects.create(subject="Never", schedule="daily at 9am")
            raise RuntimeError
    except RuntimeError:
        return jobs()

def refused():
    try:
        Newsletter(subject="Never", schedule="60 * * * *").full_clean()
    except ValidationError as error:
        return error.message_dict

said = {"undone": undone(), "refused": refused()}
weekly = Newsletter.objects.create(subject="Weekly", schedule="0 9 * * 1")
said["made"] = jobs()
weekly.schedule = "0 12 * * 5"
weekly.save()
said["changed"] = jobs()
said["page"] = Client().get("/newsletters/").json()["newsletters"]
weekly.delete()
said["deleted"] = jobs()
print(json.dumps(said))
"""


def test_rows_and_jobs_agree_also_where_a_transaction_is_undone(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project)
    server = Server(tmp_path / "server")
    server.start()
    try:
        manage(project, server, "migrate")
        said = json.loads(manage(project, server, "shell", "-v", "0", "-c", _CODE))
    finally:
        server.end()

    assert said["undone"] == {}
    assert "minute 60 is outside 0-59" in said["refused"]["schedule"][0]
    assert list(said["made"].values()) == ["0 9 * * 1"]
    assert list(said["changed"].values()) == ["0 12 * * 5"]
    assert said["made"].keys() == said["changed"].keys()
    (shown,) = said["page"]
    assert shown["next"][11:].startswith("12:00:00+0")
    assert (shown["subject"], shown["sent"]) == ("Weekly", 0)
    assert said["deleted"] == {}


def manage(project: Path, server: Server, *arguments: str) -> str:
    """Run a command of `manage.py` to its end, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=project, env={**os.environ, "REDIS_URL": server.url}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
