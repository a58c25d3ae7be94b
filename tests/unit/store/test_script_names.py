"""Scripts are called with the names in their headers, and the headers match what scripts read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hermes_celery.store
from hermes_celery.store import lua
from hermes_celery.store.database import Arg, call_of

STORE = Path(hermes_celery.store.__file__).parent
#: Scripts that are called with lists: those for batches and those that read whole records.
LISTED = {
    "advance", "forget", "heartbeat", "mend", "move_job", "move_runs", "read_due", "read_job_facts",
    "read_key_facts", "read_run_facts", "read_specs", "refill", "refill_managed",
}  # fmt: skip
NAMED = sorted(
    path.stem
    for path in (STORE / "lua").glob("[a-z]*.lua")
    if not path.stem.startswith("_") and path.stem not in LISTED
)


def test_a_call_has_its_values_in_the_order_of_the_header() -> None:
    args: dict[str, Arg] = {"now_ms": 5, "way": "pause", "note": ""}
    call = call_of("switch", keys={"switch": "k"}, args=args)
    assert (call.keys, call.args) == (("k",), ("pause", 5, ""))


def test_further_arguments_come_after_the_named_ones() -> None:
    call = call_of(
        "defer",
        keys={"due": "d", "term": "t"},
        args={"until_ms": 3, "token": 1, "now_ms": 2},
        more_args=["a", "b"],
    )
    assert (call.keys, call.args) == (("t", "d"), (1, 2, 3, "a", "b"))


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        ({"way": "pause", "now_ms": 1}, "arguments: missing ['note']"),
        ({"way": "pause", "now_ms": 1, "note": "", "by": "me"}, "not in its header ['by']"),
        ({"way": "pause", "now_ms": 1, "nota": ""}, "missing ['note'], not in its header ['nota']"),
    ],
)
def test_a_missing_or_unknown_name_is_refused(args: dict[str, str], fault: str) -> None:
    with pytest.raises(TypeError, match=re.escape(fault)):
        call_of("switch", keys={"switch": "k"}, args=args)


def test_further_arguments_are_refused_if_the_script_reads_none() -> None:
    args: dict[str, Arg] = {"way": "pause", "now_ms": 1, "note": ""}
    with pytest.raises(TypeError, match="allows no further arguments"):
        call_of("switch", keys={"switch": "k"}, args=args, more_args=["x"])


@pytest.mark.parametrize("name", sorted(LISTED))
def test_a_header_without_names_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="does not name its"):
        lua.names(name)


@pytest.mark.parametrize("name", NAMED)
def test_a_header_names_exactly_the_values_that_its_script_reads(name: str) -> None:
    body = re.sub(r"^--.*$", "", lua.source(name), flags=re.MULTILINE)
    for table, names in zip(("KEYS", "ARGV"), lua.names(name), strict=True):
        read = {int(number) for number in re.findall(rf"{table}\[(\d+)\]", body)}
        is_computed = re.search(rf"{table}\[[^\]]*[a-z]", body) is not None
        named = set(range(1, len(names.names) + 1))
        assert len(set(names.names)) == len(named)
        assert read <= named or names.has_more, f"{sorted(read - named)} has no name"
        assert named <= read or is_computed, f"{table} {sorted(named - read)} is not read"


def test_every_script_is_called_by_names_or_with_lists() -> None:
    called: dict[str, set[str]] = {"named": set(), "listed": set()}
    for path in STORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                way = ast.unparse(node.func).split(".")[-1]
                if way in ("run", "run_fenced", "call_of"):
                    called["named"].add(str(node.args[0].value))
                elif way in ("run_listed", "run_many", "run_raw", "begin"):
                    called["listed"].add(str(node.args[0].value))
    assert sorted(called["named"]) == NAMED
    assert called["listed"] >= LISTED
