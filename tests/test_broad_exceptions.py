"""Every handler that catches all exceptions is listed with its reason, so no fault stays hidden."""

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


#: Every place that catches all exceptions, with the reason: `module:function`, with `#2` for the
#: second handler of a function.
BROAD = {
    "hermes_celery.scheduling.look_ahead:LookAhead._prepare":
        "the tick meets the same error and reports it",
    "hermes_celery.scheduling.beat:Beat.step":
        "one failed step must not end the beat",
    "hermes_celery.interop.beat_schedule:requests_of":
        "the user's own objects may raise anything; only this entry is refused",
    "hermes_celery.interop.beat_schedule:zone_of":
        "zoneinfo raises many classes; the user wrote the setting",
    "hermes_celery.guards.time_limit:_Call.make":
        "raised again in the thread that waits for the call",
    "hermes_celery.celery_app.message_time_limit:_Call.make":
        "raised again in the thread that waits for the call",
    "hermes_celery.celery_app.user_tasks:_Call._outcome":
        "recorded on the run, raised again for Celery",
    "hermes_celery.celery_app.user_tasks:_Call._outcome#2":
        "the same for a BaseException",
    "hermes_celery.interop.beat_schedule:_needs_cleanup":
        "a result backend that cannot be created fails the tasks, not the beat",
    "hermes_celery.cli.up:_RunDisplay.show":
        "a display error must not stop the processes",
    "hermes_celery.delivering.channel_apprise:AppriseChannel.send":
        "a plugin may raise anything",
    "hermes_celery.delivering.template_child:main":
        "a template may raise anything",
    "hermes_celery.celery_app.messages:MessageBuilder.queue":
        "recorded on the occurrence when its message is built",
    "hermes_celery.celery_app.messages:MessageBuilder.message":
        "recorded on the occurrence when its message is built",
    "hermes_celery.guards.contained_duty:Duty.attempt":
        "an unexpected error ends only this duty's turn",
    "hermes_celery.running.ended_by_celery:RunEnder.comes_again":
        "the caller is Celery's own loop, which an exception would end",
    "hermes_celery.celery_app.watched_occurrences:OccurrenceEntry.publish":
        "kept for the caller that reads the result, and raised again",
    "hermes_celery.running.background_writes:BackgroundWrites._do":
        "the remaining writes must still be done",
    "hermes_celery.scheduling.foreign_workers:ForeignWorkers._loop":
        "the thread must survive any error",
    "hermes_celery.scheduling.deferred_messages:built_or_fault":
        "an error in the project's code fails only its own run",
    "hermes_celery.interop.orphaned_entries:_names_of_django":
        "the user's database may fail; only this sentence is missing then",
    "hermes_celery.running.stuck_work:PoolSlotGuard._loop":
        "the thread must survive any error; it checks again later",
    "hermes_celery.scheduling.planned_runs:prepare":
        "one bad job must not stop the others",
    "hermes_celery.celery_app.project_app:_imported":
        "the user's modules may raise anything; raised as a SettingsError",
    "hermes_celery.celery_app.project_app:import_tasks":
        "the user's modules may raise anything",
    "hermes_celery.running.heartbeat:Heartbeats._beat":
        "without this thread every run here is lost",
    "hermes_celery.running.heartbeat:Heartbeats._printed":
        "the heartbeat matters more than the run's live output",
    "hermes_celery.running.heartbeat:Heartbeats._look_for_stuck":
        "the other runs still need their heartbeats",
    "hermes_celery.running.heartbeat:Heartbeats._stop":
        "the other runs still need their heartbeats",
    "hermes_celery.scheduling.run_rescue:_RescuePass._guarded":
        "one bad record must not stop the others",
    "hermes_celery.celery_app.unusable_results:_not_kept":
        "Celery meets the same error next and reports it",
    "hermes_celery.running.runner:Runner.perform":
        "raised again if it is one of Celery's control exceptions",
    "hermes_celery.running.runner:Runner._outcome":
        "one bad run must not stop the worker",
    "hermes_celery.running.runner:Runner._finish":
        "the run's end is recorded without the part that failed",
    "hermes_celery.running.runner:_beside":
        "no side error may keep the run's end from being recorded",
    "hermes_celery.running.http:_Exchange._send":
        "a thread's exception would be lost",
    "hermes_celery.celery_app.safe_consumer:_SafeChannel._brpop_read":
        "one bad message must not end the worker",
    "hermes_celery.celery_app.safe_consumer:_SafeChannel._deliver_fanout_message":
        "one bad broadcast must not end the worker",
    "hermes_celery.celery_app.safe_consumer:_SafeChannel._receive_one":
        "an undecodable message must not end the worker either",
    "hermes_celery.celery_app.safe_consumer:DeadLetters._report_waiting_run":
        "kombu's decoders raise classes of their own, and projects add more",
    "hermes_celery.celery_app.safe_consumer:_delivery_tag":
        "kombu's decoders raise classes of their own, and projects add more",
    "hermes_celery.celery_app.purging:_tell":
        "kombu's decoders raise classes of their own; the other messages are deleted too",
    "hermes_celery.delivering.beat_watchdog:BeatWatchdog._loop":
        "the thread must survive any error",
    "hermes_celery.errors:shown":
        "the user's own class may raise anything; only the message needs its text",
    "hermes_celery.core.schedule_text:_zone_prefix":
        "the user's own function may raise anything; the refusal names it",
    "hermes_celery.delivering.attempt:MessageAttempt.run":
        "the fault is recorded on the delivery",
    "hermes_celery.store.master_watch:_master":
        "the next connection meets the same error and reports it",
    "hermes_celery.store.repairs:_judged":
        "one bad record must not keep the others from being checked",
    "hermes_celery.interop.takeover:_made_or_reason":
        "other people's code may raise anything; the takeover's report names it",
    "hermes_celery.celery_app.flower_texts:tell_revoked":
        "a failed event for monitors must not fail a run",
    "hermes_celery.celery_app.flower_texts:LostRunReporter._tell":
        "a failed event for monitors must not fail a run",
    "hermes_celery.core.typed_values:_typed":
        "each type raises classes of its own, and projects add more",
    "hermes_celery.core.typed_values:_Writer._other":
        "the user's own class may raise anything; its value is refused",
    "hermes_celery.store.worker_signs:Presence._safely":
        "the thread must survive any error",
}  # fmt: skip

_BROAD_NAMES = {"Exception", "BaseException"}


def caught_by(handler: ast.ExceptHandler) -> set[str]:
    """Return the class names behind `except`; a bare `except` catches BaseException."""
    if handler.type is None:
        return {"BaseException"}
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind).split(".")[-1] for kind in kinds}


def suppressed_by(call: ast.Call) -> set[str]:
    """Return the class names in `suppress(...)`, however its module is imported."""
    if ast.unparse(call.func).split(".")[-1] != "suppress":
        return set()
    return {ast.unparse(kind).split(".")[-1] for kind in call.args}


def leaves_early(block: list[ast.stmt]) -> bool:
    """Return whether a `finally` drops an exception with `return`, `break` or `continue`."""
    inner = (ast.Return, ast.Break, ast.Continue)
    return any(isinstance(node, inner) for part in block for node in ast.walk(part))


def broad_in(tree: ast.AST, module: str) -> Counter[str]:
    """Count the handlers of each function in a module that catch all exceptions."""
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


def test_each_handler_of_all_exceptions_is_listed_with_its_reason() -> None:
    found: set[str] = set()
    for name, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= numbered(broad_in(tree, f"hermes_celery.{name}"))
    assert found - set(BROAD) == set(), "list it in BROAD with its reason, or catch less"
    assert set(BROAD) - found == set(), "the handler is gone: take it out of BROAD"
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
def test_each_way_to_catch_all_exceptions_is_found(text: str) -> None:
    assert broad_in(ast.parse(text), "m").total() == 1
    assert not broad_in(ast.parse("try: ...\nexcept OSError: ...\nsuppress(OSError)"), "m")
