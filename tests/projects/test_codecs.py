"""Tests scripts and deliveries in a project that serialises its messages in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.core.run import DeliveryState, RunState
from tests.projects.bed import Bed

pytestmark = pytest.mark.system


@pytest.mark.parametrize("codec", ["gzip", "pickle", "msgpack", "yaml"])
def test_scripts_and_deliveries_run_with_the_projects_own_serializer(
    tmp_path: Path, codec: str
) -> None:
    if codec == "msgpack":
        pytest.importorskip("msgpack")
    with Bed("packed", tmp_path) as bed:
        bed.environment |= {"CODEC": codec, "C_FORCE_ROOT": "1"}
        script = bed.home / "scripts" / "hi.sh"
        script.write_text("echo said hi\n", encoding="utf-8")
        bed.up("-c", "2")
        bed.await_run("script", lambda run: run.state is RunState.SUCCEEDED)
        bed.await_run("script", lambda run: run.delivery is DeliveryState.DELIVERED)
        (said,) = (bed.home / "cron" / "output").glob("**/said.txt")
        assert "said hi" in said.read_text(encoding="utf-8")
        assert bed.await_notes("task", 2)[0][:3] == ["task", "1", "two"]
        bed.await_run("task", lambda run: run.state is RunState.SUCCEEDED)
