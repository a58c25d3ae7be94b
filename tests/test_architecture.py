"""The layers hold: imports point down only, and each outside world has one door."""

from __future__ import annotations

import ast
import re
from collections import Counter
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
        "duty", "broken", "loss",
        "announcing", "delivering", "delivery_plan", "sending", "queue_state", "queue_watch",
        "foreign_workers",
        "overload", "scanner", "preparing", "building", "late", "ahead", "tick", "shard",
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

#: Where modules lie now -> the name that the layers know them by.
MOVED = {
    "celery_app": "errors",
    "celery_app.app": "app",
    "celery_app.beat_entries": "entries",
    "celery_app.broker": "broker",
    "celery_app.building": "building",
    "celery_app.consuming": "consuming",
    "celery_app.declaring": "declaring",
    "celery_app.deliver_task": "delivery_task",
    "celery_app.ended_requests": "ended_requests",
    "celery_app.flower_texts": "telling",
    "celery_app.handing_on": "handing_on",
    "celery_app.inspecting": "inspecting",
    "celery_app.interrupt": "interrupt",
    "celery_app.kept_results": "returned",
    "celery_app.message_channel": "publishing",
    "celery_app.messages": "dispatch",
    "celery_app.project_app": "project_app",
    "celery_app.purging": "purging",
    "celery_app.safe_consumer": "safe_consumer",
    "celery_app.startup": "startup",
    "celery_app.user_code": "user_code",
    "celery_app.user_tasks": "carrying",
    "celery_app.waking": "waking",
    "celery_app.worker_hooks": "tasks",
    "client": "cron",
    "core.built_message": "built",
    "core.declared": "declared",
    "core.field_types": "field_types",
    "core.incidents": "incidents",
    "core.job": "job",
    "core.job_checks": "defining",
    "core.letters": "letters",
    "core.newer_words": "foreign",
    "core.output": "output",
    "core.planning": "planning",
    "core.policy": "policy",
    "core.prompt_scan": "prompt_scan",
    "core.reconciling": "reconciling",
    "core.reconciling_jobs": "reconciling_jobs",
    "core.reconciling_runs": "reconciling_runs",
    "core.run": "run",
    "core.schedule_text": "schedule_text",
    "core.server_address": "address",
    "core.targets": "delivery.targets",
    "core.task_call": "task_call",
    "core.typed_values": "typed_values",
    "core.work": "work",
    "delivering": "delivery",
    "delivering.address_book": "delivery.book",
    "delivering.attachments": "delivery.media",
    "delivering.attempt": "sending",
    "delivering.broken_records": "broken",
    "delivering.channel_apprise": "delivery.apprise_channel",
    "delivering.channel_file": "delivery.file_channel",
    "delivering.channel_hermes": "delivery.hermes_send",
    "delivering.channels": "delivery.channels",
    "delivering.dead_man_switch": "ping",
    "delivering.deliverer": "delivering",
    "delivering.message": "delivery.message",
    "delivering.outbox": "announcing",
    "delivering.overload": "overload",
    "delivering.plan": "delivery_plan",
    "delivering.platform_urls": "delivery.addresses",
    "delivering.queue_watch": "queue_watch",
    "delivering.splitting": "delivery.splitting",
    "delivering.template": "delivery.rendering",
    "delivering.template_child": "delivery.template_child",
    "delivering.watchdog": "scanner",
    "embedded_server": "embedded",
    "events": "log",
    "guards": "errors",
    "guards.answer_limits": "answer_limits",
    "guards.bounded": "bounded",
    "guards.duty": "duty",
    "guards.on_broken": "reporting",
    "interop": "errors",
    "interop.beat_schedule": "beat_schedule",
    "interop.celery_ways": "celery_ways",
    "interop.django_celery_beat": "from_django",
    "interop.hermes.home": "hermes_home",
    "interop.left_behind": "left_behind",
    "interop.redbeat": "from_redbeat",
    "interop.taking_over": "taking_over",
    "observe": "errors",
    "observe.figures": "cli.status",
    "observe.finding": "cli.finding",
    "observe.queues": "cli.queues",
    "process": "errors",
    "process.descriptors": "descriptors",
    "process.disk": "disk",
    "process.last_resort": "last_resort",
    "process.last_resort_child": "last_resort_child",
    "process.parent_death": "parent_death",
    "process.supervisor": "supervisor",
    "running": "errors",
    "running.agent": "runners.agent",
    "running.child_process": "runners.child",
    "running.dotenv_files": "runners.dotenv_files",
    "running.endings": "endings",
    "running.errands": "errands",
    "running.escaping": "escaping",
    "running.heartbeat": "pulse",
    "running.http": "runners.http",
    "running.kinds": "runners",
    "running.live_output": "live",
    "running.orphan_reaper": "runners.reaper",
    "running.overstaying": "overstaying",
    "running.prompt": "prompting",
    "running.runner": "runner",
    "running.script": "runners.script",
    "scheduling": "errors",
    "scheduling.beat": "beat",
    "scheduling.declared_jobs": "managed",
    "scheduling.foreign_workers": "foreign_workers",
    "scheduling.late_messages": "late",
    "scheduling.lease": "lease",
    "scheduling.living_beats": "members",
    "scheduling.look_ahead": "ahead",
    "scheduling.lost_jobs": "loss",
    "scheduling.moving_in": "moving_in",
    "scheduling.planned_runs": "preparing",
    "scheduling.rescue": "rescue",
    "scheduling.resharding": "resharding",
    "scheduling.shard": "shard",
    "scheduling.sweep": "sweep",
    "scheduling.tick": "tick",
    "store.due_index": "store.due",
    "store.health": "store.signs",
    "store.keys": "keys",
    "store.limits": "store.places",
    "store.loss_note": "witness",
    "store.lua": "lua",
    "store.program_signs": "programs",
    "store.queue_health": "queue_state",
    "store.run_queries": "store.records",
    "store.worker_signs": "workers",
    "wiring": "errors",
    "wiring.delivery": "compose_delivery",
    "wiring.parts": "compose",
    "wiring.project": "project",
    "wiring.project_jobs": "compose_project",
    "wiring.server": "compose_store",
}

#: Third-party package (or module) -> the only modules that may import it.
DOORS = {
    "redis": {"store.connecting", "store.database", "store.permissions"},
    "celery": {
        "app",
        "building",
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
        (
            before(
                ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
            ),
            path,
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def before(name: str) -> str:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        found = MOVED.get(".".join(parts[:count]))
        if found is not None:
            return ".".join([found, *parts[count:]])
    return name


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
        before(imported.removeprefix("hermes_celery."))
        if imported.startswith("hermes_celery.")
        else None
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
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        assert "'TIME'" not in path.read_text(encoding="utf-8"), path.name


def test_the_prefix_of_queues_is_read_once_from_the_settings_and_once_from_the_channel() -> None:
    readers = {
        name
        for name, path in modules()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"""["']global_keyprefix["']""", line)
    }
    assert readers == {"broker", "consuming"}


def test_only_the_masking_hides_secrets() -> None:
    hiders = {
        name.split(".")[0]
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and (node.value in ("***", b"***") or "://***" in str(node.value))
    }
    assert hiders == {"masking"}


def test_messages_are_built_as_the_settings_say() -> None:
    # Whoever makes a `Dispatch` by itself forgets the session, the namespace or who listens.
    makers = [
        name
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Dispatch"
    ]
    assert len(makers) == 1, makers


#: Every place that catches whatever may be raised, and why it may: `module:function`, with `#2` for
#: the second one of a function.
BROAD = {
    "hermes_celery.ahead:Ahead._prepare":
        "the tick meets it again, and tells of it",
    "hermes_celery.beat:Beat.step":
        "the beat goes on, whatever a step ran into",
    "hermes_celery.beat_schedule:requests_of":
        "objects of the user's own; costs this entry",
    "hermes_celery.beat_schedule:zone_of":
        "zoneinfo raises many; the setting is the user's",
    "hermes_celery.bounded:_Call.make":
        "raised again where it is waited for",
    "hermes_celery.building:_Call.make":
        "raised again where it is waited for",
    "hermes_celery.carrying:_Call._outcome":
        "recorded on the run, raised again for Celery",
    "hermes_celery.carrying:_Call._outcome#2":
        "the same for what is no Exception",
    "hermes_celery.celery_ways:_needs_cleanup":
        "a backend that cannot be made fails the tasks, not the beat",
    "hermes_celery.cli.up:_watch":
        "what is shown matters less than what runs",
    "hermes_celery.delivery.apprise_channel:AppriseChannel.send":
        "a plugin may raise whatever it likes",
    "hermes_celery.delivery.template_child:main":
        "a template may raise whatever it likes",
    "hermes_celery.dispatch:Dispatch.queue":
        "told of the occurrence, when it is built",
    "hermes_celery.dispatch:Dispatch.message":
        "told of the occurrence, when it is built",
    "hermes_celery.duty:Duty.attempt":
        "what nobody foresaw ends this duty's turn only",
    "hermes_celery.endings:Endings.comes_again":
        "who calls is Celery's own loop",
    "hermes_celery.entries:Occurring.publish":
        "kept for who asks how it went, and raised again",
    "hermes_celery.errands:Errands._do":
        "the others are still to be done",
    "hermes_celery.foreign_workers:ForeignWorkers._loop":
        "the thread must outlive what it ran into",
    "hermes_celery.late:built_of":
        "the project's own code costs its own run only",
    "hermes_celery.left_behind:_names_of_django":
        "a database of the user's; costs this sentence",
    "hermes_celery.overstaying:SlotGuard._loop":
        "the thread must outlive what it ran into; it looks again",
    "hermes_celery.preparing:prepare":
        "one bad job must not stop the others",
    "hermes_celery.project_app:_imported":
        "the user's modules may raise anything; told as a SettingsError",
    "hermes_celery.project_app:import_tasks":
        "the user's modules may raise anything",
    "hermes_celery.pulse:Pulse._beat":
        "without this thread every run here is lost",
    "hermes_celery.pulse:Pulse._printed":
        "its heartbeat matters more than what it prints",
    "hermes_celery.pulse:Pulse._look_for_stuck":
        "the others still want their heartbeats",
    "hermes_celery.pulse:Pulse._stop":
        "the others still want their heartbeats",
    "hermes_celery.rescue:_Pass._guarded":
        "one bad record must not stop the others",
    "hermes_celery.returned:_not_kept":
        "Celery itself meets it next, and says what it is",
    "hermes_celery.runner:Runner.perform":
        "raised again where it is Celery's",
    "hermes_celery.runner:Runner._outcome":
        "one bad run must not stop the worker",
    "hermes_celery.runner:Runner._finish":
        "the end is recorded, without what failed",
    "hermes_celery.runner:_beside":
        "whatever it is, it must not cost the run's end",
    "hermes_celery.runners.http:_Exchange._send":
        "a thread's exception would be lost",
    "hermes_celery.safe_consumer:_SafeChannel._brpop_read":
        "one bad message must not end the worker",
    "hermes_celery.safe_consumer:_SafeChannel._deliver_fanout_message":
        "one bad broadcast must not end the worker",
    "hermes_celery.scanner:BeatWatch._loop":
        "the thread must outlive what it ran into",
    "hermes_celery.schedule_text:_shown":
        "the user's own class; only for the message",
    "hermes_celery.schedule_text:_zone_prefix":
        "the user's own function; told in the refusal",
    "hermes_celery.sending:MessageSender.run":
        "a delivery's fault is recorded on it",
    "hermes_celery.store.master_watch:_master":
        "whatever is wrong, who connects next says so",
    "hermes_celery.store.repairs:_judged":
        "one record must not keep the others from being looked at",
    "hermes_celery.taking_over:_made_or_reason":
        "what others wrote may raise anything; told there",
    "hermes_celery.telling:tell_revoked":
        "what monitors hear costs no run",
    "hermes_celery.telling:LossTeller._tell":
        "what monitors hear costs no run",
    "hermes_celery.typed_values:_typed":
        "each type raises its own; projects add theirs",
    "hermes_celery.typed_values:_Writer._other":
        "the user's own class may do anything; it is refused",
    "hermes_celery.workers:Presence._safely":
        "the thread must outlive what it ran into",
}  # fmt: skip

_BROAD_NAMES = {"Exception", "BaseException"}


def caught_by(handler: ast.ExceptHandler) -> set[str]:
    """The names behind `except`; a bare one catches all."""
    if handler.type is None:
        return {"BaseException"}
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind).split(".")[-1] for kind in kinds}


def suppressed_by(call: ast.Call) -> set[str]:
    """The names in `suppress(...)`, whatever its module is called."""
    if ast.unparse(call.func).split(".")[-1] != "suppress":
        return set()
    return {ast.unparse(kind).split(".")[-1] for kind in call.args}


def leaves_early(block: list[ast.stmt]) -> bool:
    """Whether a `finally` drops what was raised: by `return`, `break` or `continue` in it."""
    inner = (ast.Return, ast.Break, ast.Continue)
    return any(isinstance(node, inner) for part in block for node in ast.walk(part))


def broad_in(tree: ast.AST, module: str) -> Counter[str]:
    """How often each function of a module catches whatever may be raised."""
    found: Counter[str] = Counter()

    def look(node: ast.AST, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            inside = where
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inside = f"{where}.{child.name}".lstrip(".")
            is_broad = (
                (isinstance(child, ast.ExceptHandler) and caught_by(child) & _BROAD_NAMES)
                or (isinstance(child, ast.Call) and suppressed_by(child) & _BROAD_NAMES)
                or (isinstance(child, ast.Try) and leaves_early(child.finalbody))
            )
            if is_broad:
                found[f"{module}:{inside}"] += 1
            look(child, inside)

    look(tree, "")
    return found


def numbered(found: Counter[str]) -> set[str]:
    return {
        place if number == 1 else f"{place}#{number}"
        for place, count in found.items()
        for number in range(1, count + 1)
    }


def test_what_catches_everything_is_listed_with_its_reason() -> None:
    found: set[str] = set()
    for name, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= numbered(broad_in(tree, f"hermes_celery.{name}"))
    assert found - set(BROAD) == set(), "list it in BROAD with its reason, or catch less"
    assert set(BROAD) - found == set(), "it is there no more: take it out of BROAD"
    assert all(len(reason) > 10 for reason in BROAD.values())


@pytest.mark.parametrize(
    "text",
    [
        "try: ...\nexcept: ...",
        "try: ...\nexcept (OSError, Exception): ...",
        "try: ...\nexcept builtins.BaseException as e: raise",
        "with suppress(OSError, Exception): ...",
        "with contextlib.suppress(BaseException): ...",
        "def f():\n try: ...\n finally: return 1",
    ],
)
def test_each_way_to_catch_everything_is_found(text: str) -> None:
    assert broad_in(ast.parse(text), "m").total() == 1
    assert not broad_in(ast.parse("try: ...\nexcept OSError: ...\nsuppress(OSError)"), "m")
