"""Groups and budgets in the proof: find overfull groups and wrong bookings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hermes_celery.core.job import JobSpec
from hermes_celery.core.run import Run, RunState
from hermes_celery.store import Database, connect

#: Tokens that each attempt of a job with a budget uses.
TOKENS = 10


class Crowds:
    """Counts the runs in a job's group whenever one starts, through a connection of its own."""

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._path = path

    @classmethod
    def of(cls, database: Database, url: str, starts: Path) -> Crowds:
        """Open a connection of its own, because the calls of `database` may be counted."""
        return cls(Database(connect(url), keys=database.keys), crowds_path(starts))

    def look(self, spec: JobSpec, *, now_ms: int) -> None:
        """Note the group if it has more runs than its limit."""
        if spec.group_limit is None:
            return
        group = self._database.keys.group(spec.group or spec.id)
        inside = self._database.call("ZCOUNT", group, f"({now_ms}", "+inf")
        if inside > spec.group_limit:
            line = f"{inside} runs in group {spec.group}, which takes {spec.group_limit}\n"
            file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            os.write(file, line.encode())
            os.close(file)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


def crowds_path(starts: Path) -> Path:
    """Return the file in which overfull groups are noted."""
    return starts.with_name(f"{starts.name}-crowds")


def crowds_in(starts: Path) -> list[str]:
    """Return a line for every time that a group was overfull."""
    path = crowds_path(starts)
    return path.read_text().splitlines() if path.exists() else []


def budget_faults(
    runs: Iterable[Run], budgets: Mapping[str, int], stored: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Yield the faults in token budgets.

    `budgets` and `stored` map job ids to budgets and to the hashes in Redis. Every run that
    succeeded is booked once. A job's spent tokens are the sum of its runs' tokens. A job is paused
    if and only if it has spent its whole budget.
    """
    spent = dict.fromkeys(budgets, 0)
    for run in runs:
        if run.job_id not in budgets:
            continue
        spent[run.job_id] += run.tokens or 0
        if run.state is RunState.SUCCEEDED and run.tokens != TOKENS * run.attempt:
            yield f"{run.id} used {TOKENS} tokens an attempt, and {run.tokens} are booked"
    for job_id, budget in budgets.items():
        fields = stored[job_id]
        booked = int(fields.get("spent_tokens", 0))
        if booked != spent[job_id]:
            yield f"{job_id} has {booked} tokens booked, but its runs used {spent[job_id]}"
        is_paused = fields.get("state") == "paused"
        if is_paused != (booked >= budget):
            yield f"{job_id} has spent {booked} of {budget} tokens, but is {fields.get('state')}"
