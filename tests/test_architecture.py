"""The layers hold: imports point down only, and each outside world has one door."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hermes_celery"

#: From the bottom up; a module may import its own layer and those below.
LAYERS = {
    "core": (
        "core", "errors", "instant", "schedule", "policy", "job", "defining", "run", "planning",
        "work", "prompt_scan",
        "prompting", "masking", "incidents", "declared", "foreign", "reporting",
        "letters", "reconciling", "built", "reconciling_jobs", "reconciling_runs",
        "schedule_text", "typed_values", "field_types", "task_call"),
    "adapters": (
        "address", "settings", "broker", "project_app", "clock", "keys", "lua",
        "log", "store", "lease",
        "members", "programs", "session",
        "dispatch", "publishing", "user_code", "handing_on", "entries", "interrupt",
        "output", "live", "witness", "embedded", "runners", "pulse", "parent_death", "disk",
        "workers", "consuming", "inspecting", "waking",
        "delivery", "ping", "bounded", "answer_limits", "descriptors",
        "last_resort", "last_resort_child",
    ),
    "use cases": (
        "duty", "broken",
        "announcing", "delivering", "delivery_plan", "sending", "queue_state", "queue_watch",
        "foreign_workers",
        "overload", "scanner", "preparing", "late", "ahead", "tick", "shard",
        "resharding", "rescue", "sweep",
        "escaping", "runner", "overstaying", "telling", "returned", "carrying",
        "safe_consumer",
        "errands", "endings", "ended_requests", "purging",
        "managed", "moving_in", "cron", "hermes_home", "taking_over",
    ),
    "processes": (
        "declaring", "compose_store", "compose", "compose_delivery", "compose_project",
        "delivery_task", "project",
        "beat_schedule", "celery_ways", "from_redbeat", "from_django", "left_behind", "app",
        "tasks", "startup", "beat", "supervisor", "cli", "__init__", "__main__",
    ),
}  # fmt: skip

#: Third-party package (or module) -> the only modules that may import it.
DOORS = {
    "redis": {"store.connecting", "store.database", "store.permissions"},
    "celery": {
        "app",
        "tasks",
        "returned",
        "delivery_task",
        "beat",
        "dispatch",
        "publishing",
        "user_code",
        "entries",
        "compose",
        "compose_delivery",
        "broker",
        "__init__",
        "carrying",
        "escaping",
        "project",
        "project_app",
        "declaring",
        "celery_ways",
        "compose_project",
        "cli",
        "beat_schedule",
        "interrupt",
        "startup",
        "workers",
        "consuming",
        "inspecting",
        "waking",
        "safe_consumer",
        "telling",
        "handing_on",
        "ended_requests",
        "from_redbeat",
        "from_django",
        "purging",
    },
    "kombu": {
        "returned",
        "purging",
        "app",
        "waking",
        "dispatch",
        "publishing",
        "user_code",
        "carrying",
        "safe_consumer",
        "typed_values",
    },
    "billiard": {"tasks", "interrupt", "ended_requests"},
    "croniter": {"schedule"},
    "cron_descriptor": {"schedule"},
    "zoneinfo": {"schedule", "settings", "cli", "hermes_home", "from_redbeat"},
    "click": {"cli", "app"},
    "dotenv": {"runners"},
    "requests": {"runners", "answer_limits"},
    "requests_hardened": {"runners"},
    "rich": {"cli"},
    "apprise": {"delivery"},
    "jinja2": {"delivery"},
    "subprocess": {"runners", "supervisor", "delivery", "last_resort"},
}


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def layer_of(name: str) -> int:
    first = name.split(".")[0]
    for rank, members in enumerate(LAYERS.values()):
        if first in members:
            return rank
    raise AssertionError(f"module {name!r} is in no layer; add it to the layer it belongs to")


def imports_of(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "hermes_celery"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def _ours(imported: str) -> str | None:
    return (
        imported.removeprefix("hermes_celery.") if imported.startswith("hermes_celery.") else None
    )


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_imports_point_down_only(name: str, path: Path) -> None:
    for imported in imports_of(path):
        ours = _ours(imported)
        if ours:
            assert layer_of(ours) <= layer_of(name), f"{name} imports {ours}, which is above it"


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_each_outside_world_has_one_door(name: str, path: Path) -> None:
    for imported in imports_of(path):
        doors = DOORS.get(imported.split(".")[0])
        if doors is not None:
            assert name in doors or name.split(".")[0] in doors, f"{name} imports {imported}"


def test_only_settings_reads_the_environment_and_only_the_clock_the_time() -> None:
    for name, path in modules():
        text = path.read_text(encoding="utf-8")
        if name not in ("settings", "session"):
            assert "os.environ" not in text.replace("`os.environ`", ""), name
            assert "getenv" not in text, name
        if name.split(".")[0] in LAYERS["core"]:
            assert not clock_readings(text), f"{name} reads the clock"


def clock_readings(text: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("now", "utcnow", "today", "time", "monotonic", "time_ns")
        and ast.unparse(node.func.value).split(".")[-1] in ("datetime", "date", "time")
    ]


def test_only_the_store_and_the_lease_run_scripts() -> None:
    for name, path in modules():
        if name.split(".")[0] not in ("store", "lease"):
            assert "database.run(" not in path.read_text(encoding="utf-8"), name


def test_no_script_reads_the_time() -> None:
    for path in (PACKAGE / "lua").glob("*.lua"):
        assert "'TIME'" not in path.read_text(encoding="utf-8"), path.name


def test_the_prefix_of_queues_is_read_once_from_the_settings_and_once_from_the_channel() -> None:
    readers = {
        name
        for name, path in modules()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"""["']global_keyprefix["']""", line)
    }
    assert readers == {"broker", "consuming"}


def test_messages_are_built_as_the_settings_say() -> None:
    # Whoever makes a `Dispatch` by itself forgets the session, the namespace or who listens.
    makers = [
        name
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Dispatch"
    ]
    assert len(makers) == 1, makers
