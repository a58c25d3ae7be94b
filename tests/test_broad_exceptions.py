"""What catches everything is listed with its reason: nothing stops in silence."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hermes_celery"


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


#: Every place that catches whatever may be raised, and why it may: `module:function`, with `#2` for
#: the second one of a function.
BROAD = {
    "hermes_celery.scheduling.look_ahead:LookAhead._prepare":
        "the tick meets it again, and tells of it",
    "hermes_celery.scheduling.beat:Beat.step":
        "the beat goes on, whatever a step ran into",
    "hermes_celery.interop.beat_schedule:requests_of":
        "objects of the user's own; costs this entry",
    "hermes_celery.interop.beat_schedule:zone_of":
        "zoneinfo raises many; the setting is the user's",
    "hermes_celery.guards.time_limit:_Call.make":
        "raised again where it is waited for",
    "hermes_celery.celery_app.message_time_limit:_Call.make":
        "raised again where it is waited for",
    "hermes_celery.celery_app.user_tasks:_Call._outcome":
        "recorded on the run, raised again for Celery",
    "hermes_celery.celery_app.user_tasks:_Call._outcome#2":
        "the same for what is no Exception",
    "hermes_celery.interop.beat_schedule:_needs_cleanup":
        "a backend that cannot be made fails the tasks, not the beat",
    "hermes_celery.cli.up:_watch":
        "what is shown matters less than what runs",
    "hermes_celery.delivering.channel_apprise:AppriseChannel.send":
        "a plugin may raise whatever it likes",
    "hermes_celery.delivering.template_child:main":
        "a template may raise whatever it likes",
    "hermes_celery.celery_app.messages:MessageBuilder.queue":
        "told of the occurrence, when it is built",
    "hermes_celery.celery_app.messages:MessageBuilder.message":
        "told of the occurrence, when it is built",
    "hermes_celery.guards.contained_duty:Duty.attempt":
        "what nobody foresaw ends this duty's turn only",
    "hermes_celery.running.ended_by_celery:RunEnder.comes_again":
        "who calls is Celery's own loop",
    "hermes_celery.celery_app.watched_occurrences:OccurrenceEntry.publish":
        "kept for who asks how it went, and raised again",
    "hermes_celery.running.background_writes:BackgroundWrites._do":
        "the others are still to be done",
    "hermes_celery.scheduling.foreign_workers:ForeignWorkers._loop":
        "the thread must outlive what it ran into",
    "hermes_celery.scheduling.deferred_messages:built_or_fault":
        "the project's own code costs its own run only",
    "hermes_celery.interop.orphaned_entries:_names_of_django":
        "a database of the user's; costs this sentence",
    "hermes_celery.running.stuck_work:PoolSlotGuard._loop":
        "the thread must outlive what it ran into; it looks again",
    "hermes_celery.scheduling.planned_runs:prepare":
        "one bad job must not stop the others",
    "hermes_celery.celery_app.project_app:_imported":
        "the user's modules may raise anything; told as a SettingsError",
    "hermes_celery.celery_app.project_app:import_tasks":
        "the user's modules may raise anything",
    "hermes_celery.running.heartbeat:Heartbeats._beat":
        "without this thread every run here is lost",
    "hermes_celery.running.heartbeat:Heartbeats._printed":
        "its heartbeat matters more than what it prints",
    "hermes_celery.running.heartbeat:Heartbeats._look_for_stuck":
        "the others still want their heartbeats",
    "hermes_celery.running.heartbeat:Heartbeats._stop":
        "the others still want their heartbeats",
    "hermes_celery.scheduling.run_rescue:_RescuePass._guarded":
        "one bad record must not stop the others",
    "hermes_celery.celery_app.unusable_results:_not_kept":
        "Celery itself meets it next, and says what it is",
    "hermes_celery.running.runner:Runner.perform":
        "raised again where it is Celery's",
    "hermes_celery.running.runner:Runner._outcome":
        "one bad run must not stop the worker",
    "hermes_celery.running.runner:Runner._finish":
        "the end is recorded, without what failed",
    "hermes_celery.running.runner:_beside":
        "whatever it is, it must not cost the run's end",
    "hermes_celery.running.http:_Exchange._send":
        "a thread's exception would be lost",
    "hermes_celery.celery_app.safe_consumer:_SafeChannel._brpop_read":
        "one bad message must not end the worker",
    "hermes_celery.celery_app.safe_consumer:_SafeChannel._deliver_fanout_message":
        "one bad broadcast must not end the worker",
    "hermes_celery.celery_app.safe_consumer:_SafeChannel._receive_one":
        "nor may one that cannot be decoded",
    "hermes_celery.celery_app.safe_consumer:DeadLetters._report_waiting_run":
        "kombu's types raise their own; projects add theirs",
    "hermes_celery.celery_app.safe_consumer:_delivery_tag":
        "kombu's types raise their own; projects add theirs",
    "hermes_celery.celery_app.purging:_tell":
        "kombu's types raise their own; the others are deleted too",
    "hermes_celery.delivering.beat_watchdog:BeatWatchdog._loop":
        "the thread must outlive what it ran into",
    "hermes_celery.core.schedule_text:_shown":
        "the user's own class; only for the message",
    "hermes_celery.core.schedule_text:_zone_prefix":
        "the user's own function; told in the refusal",
    "hermes_celery.delivering.attempt:MessageAttempt.run":
        "a delivery's fault is recorded on it",
    "hermes_celery.store.master_watch:_master":
        "whatever is wrong, who connects next says so",
    "hermes_celery.store.repairs:_judged":
        "one record must not keep the others from being looked at",
    "hermes_celery.interop.takeover:_made_or_reason":
        "what others wrote may raise anything; told there",
    "hermes_celery.celery_app.flower_texts:tell_revoked":
        "what monitors hear costs no run",
    "hermes_celery.celery_app.flower_texts:LostRunReporter._tell":
        "what monitors hear costs no run",
    "hermes_celery.core.typed_values:_typed":
        "each type raises its own; projects add theirs",
    "hermes_celery.core.typed_values:_Writer._other":
        "the user's own class may do anything; it is refused",
    "hermes_celery.store.worker_signs:Presence._safely":
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
