"""Read what `reconciling` judges, and write its repairs.

One script call reads some hundred jobs or runs, and returns only those that may be inconsistent.
Another call repairs one job or run: it compares everything that the decision was based on, and
changes nothing if any of that has changed. So repairs need no lock. They may run beside ticks,
claims and finishes, and a person may repair beside a leading beat. A beat still passes its fencing
token, because it must stop writing when it no longer leads.

Values that are not UTF-8 are kept unchanged (surrogate escapes), from reading to repair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from hermes_celery.core.job import JobSpec, is_job_id
from hermes_celery.core.reconciling import (
    Disagreement,
    DisagreementKind,
    Fact,
    KeyRole,
    MendDeadlines,
    MendVerb,
    MendWrite,
    WrongType,
)
from hermes_celery.core.reconciling_jobs import FAR_MS, JobFacts, judge_job, name_entry, wants_spec
from hermes_celery.core.reconciling_runs import RunFacts, judge_run
from hermes_celery.errors import StoreError, StoreUnavailable, error_text
from hermes_celery.store.database import Arg, Database, ScriptCall, or_none, refuse_fenced, shard_of
from hermes_celery.store.fencing import Actor
from hermes_celery.store.job_records import spec_from_json
from hermes_celery.store.keys import Keys

#: Jobs and runs per script call: about 1 ms of the server's time.
_JOBS, _RUNS = 250, 200
#: The same for a call that returns every job or run.
_ALL = 100
#: Definitions per call: one may have 256 KiB.
_SPECS = 50
#: Rounds of one check. A repair can make another one possible: after a dead entry is removed, the
#: held run behind it can be pushed.
_ROUNDS = 4
#: How many latest runs are checked for a job that lost its set of active runs.
_LATEST = 50
#: The largest possible number of shards.
_MOST_SHARDS = 64
_JOB_ROLES = (KeyRole.JOB, KeyRole.DUE, KeyRole.STRAY, KeyRole.ACTIVE, KeyRole.HELD, KeyRole.JOBS,
              KeyRole.NAMES, KeyRole.COMPLETED, KeyRole.SWEEP)  # fmt: skip
_RUN_ROLES = (KeyRole.RUN, KeyRole.ACTIVE, KeyRole.HELD, KeyRole.QUEUED, KeyRole.HEARTBEATS,
              KeyRole.DELIVERIES, KeyRole.RUNS, KeyRole.JOB_RUNS, KeyRole.DELIVERY)  # fmt: skip
#: Redis commands, and `UNHOLD` and `NOTE`, which `mend.lua` implements itself.
_COMMANDS = {
    MendVerb.SET: "HSET",
    MendVerb.CLEAR: "HDEL",
    MendVerb.ENTER: "ZADD",
    MendVerb.LEAVE: "ZREM",
    MendVerb.QUARANTINE: "RENAME",
    MendVerb.UNHOLD: "UNHOLD",
    MendVerb.REPLACE: "SET",
    MendVerb.EXPIRE: "PEXPIRE",
    MendVerb.NOTE: "NOTE",
}
_JOB_FIELDS = ("state", "next_ms", "revision", "completed", "paused_ms", "last_run_ms",
               "failures", "pause_after", "spent_tokens", "spent_cost")  # fmt: skip
_RUN_FIELDS = ("state", "queued_ms", "started_ms", "finished_ms", "attempt", "expires_ms",
               "exit_code", "output_bytes", "tokens", "cost_usd", "job_name", "delivery",
               "trigger", "hop", "handed_hop", "retry_ms", "patience_ms", "pushes",
               "on_queue_ms", "handed_on", "unpushed")  # fmt: skip
_F = TypeVar("_F", JobFacts, RunFacts)


class CheckMode(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a check."""

    now_ms: int
    #: The leader's fencing token; None when a person checks or repairs.
    token: int | None = None
    #: Whether to repair, or only to report.
    mends: bool = True
    #: Whether to read definitions and names too.
    is_deep: bool = False
    #: Whether the index of completed jobs was lost and is filled again.
    fills_completed: bool = False


class RecordsToCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs and runs to check."""

    jobs: Sequence[str] = ()
    #: Run id to the id of its job.
    runs: Mapping[str, str] = {}
    #: Job id to the foreign due index that has it.
    strays: Mapping[str, str] = {}
    #: Job id to its entry in the index of names.
    entries: Mapping[str, str] = {}
    #: Whether the jobs come from the index of jobs.
    is_listed: bool = False
    #: Whether the runs come from the history, where most have ended.
    is_history: bool = False


class SeenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job, a run or a key as it was read before its repair."""

    #: `job`, `run` or `key`.
    kind: str
    #: Its keys, in the order in which `_facts.lua` reads them.
    keys: Mapping[KeyRole, str]
    #: The further arguments with which the facts are read.
    args: Sequence[str]
    digest: str


class _Seen(msgspec.Struct, Generic[_F]):
    """The facts of one job or run, their digest, and the findings."""

    facts: _F
    digest: str
    findings: list[Disagreement]


class _Outcome(msgspec.Struct):
    """The result of one round of repairs."""

    findings: list[Disagreement]
    moved: list[str]
    mended: list[str]


class Repairs:
    """Checks the jobs and runs of one namespace, and repairs them."""

    def __init__(
        self,
        database: Database,
        *,
        redeliver_after_ms: int = 60_000,
        heartbeat_timeout_ms: int = 15_000,
    ) -> None:
        self._database = database
        self._keys = database.keys
        self._redeliver_after_ms = redeliver_after_ms
        self._heartbeat_timeout_ms = heartbeat_timeout_ms
        self._shards = 1

    def job(self, job_id: str, *, now_ms: int, token: int | None) -> list[Disagreement]:
        """Check one job and its latest runs, and repair them at once.

        Raises LeaseLost when a younger leader's token is known.
        """
        self.count_shards()
        mode = CheckMode(now_ms=now_ms, token=token, is_deep=True)
        return self.check(RecordsToCheck(jobs=[job_id], runs=self._latest_runs([job_id])), mode)

    def count_shards(self) -> int:
        """Read the number of shards of the due index again; 1 if it is invalid."""
        self._database.forget_shards()
        try:
            count = self._database.shards
        except StoreUnavailable:
            raise
        except (StoreError, ValueError):
            count = 1
        self._shards = count if 1 <= count <= _MOST_SHARDS else 1
        return self._shards

    @property
    def shards(self) -> int:
        """The number of shards as it was last read."""
        return self._shards

    def check(self, work: RecordsToCheck, mode: CheckMode) -> list[Disagreement]:
        """Check jobs and runs, and all active and held runs of these jobs.

        Returns the findings, each with whether it was repaired. A record that changes meanwhile is
        not a finding. Raises LeaseLost when a younger leader's token is known.
        """
        if work.entries and not mode.is_deep:
            mode = msgspec.structs.replace(mode, is_deep=True)
        found: dict[tuple[str, str], Disagreement] = {}
        jobs, runs, is_history = list(work.jobs), dict(work.runs), work.is_history
        for _ in range(_ROUNDS if mode.mends else 1):
            seen = self._read_jobs(jobs, work, mode)
            outcome = self._repaired(seen, mode, "job")
            runs |= _under_way([one.facts for one in seen])
            seen_runs = self._read_runs(runs, mode, is_all=mode.is_deep or not is_history)
            run_outcome = self._repaired(seen_runs, mode, "run")
            for finding in (*outcome.findings, *run_outcome.findings):
                key = (finding.subject, finding.text)
                found[key] = max(found.get(key, finding), finding, key=lambda one: one.is_mended)
            touched = [runs[run_id] for run_id in run_outcome.mended]
            jobs = list(dict.fromkeys([*outcome.moved, *outcome.mended, *touched]))
            runs = {run_id: runs[run_id] for run_id in run_outcome.moved}
            runs |= self._latest_runs(_without_runs(outcome.findings))
            is_history = False
            if not jobs and not runs:
                break
        return list(found.values())

    def _at(self, mode: CheckMode) -> MendDeadlines:
        return MendDeadlines(
            now_ms=mode.now_ms,
            redeliver_ms=mode.now_ms + self._redeliver_after_ms,
            heartbeat_ms=mode.now_ms + self._heartbeat_timeout_ms,
        )

    def _read_jobs(
        self, ids: Sequence[str], work: RecordsToCheck, mode: CheckMode
    ) -> list[_Seen[JobFacts]]:
        seen: list[_Seen[JobFacts]] = []
        step = _ALL if mode.is_deep else _JOBS
        for start in range(0, len(ids), step):
            seen += self._read_jobs_once(ids[start : start + step], work, mode)
        return seen

    def _read_jobs_once(
        self, ids: Sequence[str], work: RecordsToCheck, mode: CheckMode
    ) -> list[_Seen[JobFacts]]:
        specs = specs_of(self._database, ids) if mode.is_deep else {}
        entries = {job_id: name_entry(spec) for job_id, spec in specs.items() if spec}
        keys: list[bytes] = [raw_of(key) for key in self._job_indexes()]
        few = b"listed" if work.is_listed else b"some"
        far_ms = mode.now_ms + FAR_MS
        args: list[bytes] = [b"all" if mode.is_deep else few, b"%d" % far_ms]
        for job_id in ids:
            keys += map(raw_of, self._job_keys(job_id, work.strays.get(job_id, ""))[:5])
            args += map(raw_of, (job_id, entries.get(job_id, ""), work.entries.get(job_id, "")))
        answers = self._database.run_raw("read_job_facts", keys=keys, args=args)
        found = []
        for job_id, answer in zip(ids, answers, strict=True):
            if answer:
                facts = _job_facts(
                    job_id,
                    answer[1:],
                    entry=entries.get(job_id, ""),
                    found=work.entries.get(job_id, ""),
                    stray_index=work.strays.get(job_id, ""),
                )
                found.append((text_of(answer[0]), facts))
        if not mode.is_deep:
            specs = specs_of(
                self._database,
                [facts.id for _, facts in found if wants_spec(facts, now_ms=mode.now_ms)],
            )
        return [
            _Seen(facts=facts, digest=digest, findings=self._judged_job(facts, specs, mode))
            for digest, facts in found
        ]

    def _judged_job(
        self, facts: JobFacts, specs: Mapping[str, JobSpec | None], mode: CheckMode
    ) -> list[Disagreement]:
        def judged() -> list[Disagreement]:
            found = judge_job(
                facts,
                at=self._at(mode),
                spec=specs.get(facts.id),
                fills_completed=mode.fills_completed,
            )
            if mode.is_deep and facts.kind == "hash" and specs.get(facts.id) is None:
                text = f"job {facts.id} is unreadable: remove it and add it again"
                found.append(
                    Disagreement(
                        trouble=DisagreementKind.BROKEN,
                        subject=facts.id,
                        job_id=facts.id,
                        text=text,
                    )
                )
            return found

        return _judged(judged, facts.id, facts.id)

    def _read_runs(
        self, owners: Mapping[str, str], mode: CheckMode, *, is_all: bool
    ) -> list[_Seen[RunFacts]]:
        seen: list[_Seen[RunFacts]] = []
        ids, step = list(owners), _ALL if is_all else _RUNS
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            keys: list[bytes] = [raw_of(key) for key in self._run_indexes()]
            args: list[bytes] = [b"all" if is_all else b"some", *map(raw_of, part)]
            for run_id in part:
                own = self._run_keys(run_id, owners[run_id])
                keys += map(raw_of, (*own[:3], own[8]))
            answers = self._database.run_raw("read_run_facts", keys=keys, args=args)
            for run_id, answer in zip(part, answers, strict=True):
                if answer:
                    facts = _run_facts(run_id, owners[run_id], answer[1:])
                    wrong = self._judged_run(facts, mode)
                    seen.append(_Seen(facts=facts, digest=text_of(answer[0]), findings=wrong))
        return seen

    def _judged_run(self, facts: RunFacts, mode: CheckMode) -> list[Disagreement]:
        return _judged(lambda: judge_run(facts, at=self._at(mode)), facts.id, facts.job_id)

    def _repaired(self, seen: Sequence[_Seen[_F]], mode: CheckMode, kind: str) -> _Outcome:
        """Repair what can be repaired; report the rest."""
        outcome = _Outcome(findings=[], moved=[], mended=[])
        wrong = [one for one in seen if one.findings]
        mendable = [one for one in wrong if mode.mends and any(f.ops for f in one.findings)]
        answers = self._database.run_many(
            "mend", [self._mend_call(one, mode, kind) for one in mendable]
        )
        refuse_fenced(answers)
        words = {one.facts.id: answer for one, answer in zip(mendable, answers, strict=True)}
        for one in wrong:
            word = words.get(one.facts.id)
            if word == "moved":
                outcome.moved.append(one.facts.id)
                continue
            if word == "ok":
                outcome.mended.append(one.facts.id)
            outcome.findings += [
                msgspec.structs.replace(f, is_mended=word == "ok" and bool(f.ops))
                for f in one.findings
            ]
        return outcome

    def _mend_call(self, one: _Seen[_F], mode: CheckMode, kind: str) -> ScriptCall:
        facts = one.facts
        if isinstance(facts, JobFacts):
            names, roles = self._job_keys(facts.id, facts.stray_index), _JOB_ROLES
            names += [self._keys.sweep]
            args = [facts.id, facts.entry, facts.found]
        else:
            names, roles = self._run_keys(facts.id, facts.job_id), _RUN_ROLES
            args = [facts.id]
        keys = dict(zip(roles, names, strict=True))
        seen = SeenRecord(kind=kind, keys=keys, args=args, digest=one.digest)
        ops = [op for finding in one.findings for op in finding.ops]
        actor = Actor(now_ms=mode.now_ms, token=mode.token)
        return mend_call(seen, ops, keys=self._keys, actor=actor)

    def _latest_runs(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the latest runs of some jobs; none if the index of runs by job is unreadable."""
        found: dict[str, str] = {}
        for job_id in ids:
            last, first = f"[{job_id}.", f"[{job_id}-"
            with suppress(StoreError):
                found |= dict.fromkeys(
                    self._database.call(
                        "ZREVRANGEBYLEX", self._keys.job_runs, last, first, "LIMIT", 0, _LATEST
                    ),
                    job_id,
                )
        return found

    def _job_keys(self, job_id: str, stray: str = "") -> list[str]:
        keys = self._keys
        shard = shard_of(job_id, shards=self._shards) if is_job_id(job_id) else 0
        home = keys.due_of(shard)
        own = [keys.job(job_id), home, stray or home, keys.active(job_id), keys.held(job_id)]
        return [*own, *self._job_indexes()]

    def _job_indexes(self) -> list[str]:
        return [self._keys.jobs, self._keys.names, self._keys.completed]

    def _run_keys(self, run_id: str, job_id: str) -> list[str]:
        keys = self._keys
        own = [keys.run(run_id), keys.active(job_id), keys.held(job_id)]
        return [*own, *self._run_indexes(), keys.delivery(run_id)]

    def _run_indexes(self) -> list[str]:
        keys = self._keys
        return [keys.queued, keys.heartbeats, keys.deliveries, keys.runs, keys.job_runs]


def mend_call(
    seen: SeenRecord, ops: Sequence[MendWrite], *, keys: Keys, actor: Actor
) -> ScriptCall:
    """Return one call of `mend.lua`."""
    moved = [op.role for op in ops if op.verb is MendVerb.QUARANTINE]
    places = {role: number for number, role in enumerate(seen.keys, start=1)}
    new = {role: len(places) + number for number, role in enumerate(moved, start=1)}
    script_keys = [keys.term, *seen.keys.values()]
    script_keys += [keys.quarantine(seen.keys[role], at_ms=actor.now_ms) for role in moved]
    args: list[Arg] = [or_none(actor.token), seen.kind, seen.digest, len(seen.args)]
    args += map(raw_of, seen.args)
    # Notes come first: a full server then refuses the call before anything else is written.
    for op in sorted(ops, key=lambda op: op.verb is not MendVerb.NOTE):
        is_move = op.verb is MendVerb.QUARANTINE
        values: list[str | int] = [new[op.role]] if is_move else [*op.args]
        args += (len(values), _COMMANDS[op.verb], places[op.role])
        args += [value if isinstance(value, int) else raw_of(value) for value in values]
    # Keys are sent as bytes, so that names that are not UTF-8 work too.
    return ScriptCall(keys=[raw_of(key) for key in script_keys], args=args)  # type: ignore[misc]


def specs_of(database: Database, ids: Sequence[str]) -> dict[str, JobSpec | None]:
    """Return definitions by job id; None for a missing or unreadable one."""
    specs: dict[str, JobSpec | None] = {}
    for start in range(0, len(ids), _SPECS):
        part = ids[start : start + _SPECS]
        keys = [raw_of(database.keys.job(job_id)) for job_id in part]
        texts = database.run_raw("read_specs", keys=keys, args=[])
        for job_id, text in zip(part, texts, strict=True):
            specs[job_id] = _spec(job_id, text)
    return specs


def fact_of(raw: bytes) -> Fact:
    """Return one fact from the form in which `_facts.lua` writes it."""
    if not raw:
        return None
    return WrongType.TYPE if raw == b"!" else text_of(raw[1:])


def text_of(raw: bytes) -> str:
    """Decode bytes so that `raw_of` returns the same bytes again."""
    return raw.decode("utf-8", "surrogateescape")


def raw_of(text: str) -> bytes:
    """Return the original bytes of a text from `text_of`."""
    return text.encode("utf-8", "surrogateescape")


def _job_facts(
    job_id: str, row: Sequence[bytes], *, entry: str, found: str, stray_index: str
) -> JobFacts:
    size = len(_JOB_FIELDS)
    spec, due, stray, listed, completed, named, misnamed = map(fact_of, row[1 + size : 8 + size])
    rest = [text_of(value) for value in row[8 + size :]]
    active_kind, held_kind, count = rest[0], rest[1], int(rest[2])
    active, held = rest[3 : 3 + 2 * count], rest[3 + 2 * count :]
    return JobFacts(
        id=job_id,
        kind=text_of(row[0]),
        fields=dict(zip(_JOB_FIELDS, map(fact_of, row[1 : 1 + size]), strict=True)),
        spec_bytes=spec,
        due=due,
        stray=stray,
        listed=listed,
        completed=completed,
        entry=entry,
        found=found,
        named=named,
        misnamed=misnamed,
        active_kind=active_kind,
        held_kind=held_kind,
        active=dict(zip(active[::2], active[1::2], strict=True)),
        held=tuple(held),
        stray_index=stray_index,
    )


def _run_facts(run_id: str, job_id: str, row: Sequence[bytes]) -> RunFacts:
    size = len(_RUN_FIELDS)
    active_kind, word, count, *places, delivery_kind = row[1 + size :]
    held, queued, heartbeat, delivery_due, recorded, by_job = map(fact_of, places)
    return RunFacts(
        id=run_id,
        job_id=job_id,
        kind=text_of(row[0]),
        fields=dict(zip(_RUN_FIELDS, map(fact_of, row[1 : 1 + size]), strict=True)),
        active_kind=text_of(active_kind),
        word=fact_of(word),
        active_count=int(count),
        held=held,
        queued=queued,
        heartbeat=heartbeat,
        delivery_due=delivery_due,
        recorded=recorded,
        by_job=by_job,
        delivery_kind=text_of(delivery_kind),
    )


def _spec(job_id: str, text: bytes | None) -> JobSpec | None:
    try:
        return spec_from_json(job_id, text_of(text or b""))
    except (StoreError, UnicodeError):
        return None


def _judged(
    judge: Callable[[], list[Disagreement]], subject: str, job_id: str
) -> list[Disagreement]:
    try:
        return judge()
    except Exception as error:  # noqa: BLE001 - one record must not prevent the check of the others
        text = f"{subject} could not be checked: {error_text(error)}"
        return [
            Disagreement(trouble=DisagreementKind.BROKEN, subject=subject, job_id=job_id, text=text)
        ]


def _under_way(facts: Sequence[JobFacts]) -> dict[str, str]:
    """Return the active and held runs of these jobs, each with its job."""
    return {run_id: one.id for one in facts for run_id in (*one.active, *one.held) if run_id}


def _without_runs(findings: Sequence[Disagreement]) -> list[str]:
    """Return the jobs whose set of active or held runs was moved to quarantine."""
    return [
        finding.subject
        for finding in findings
        if finding.is_mended
        and any(op.verb is MendVerb.QUARANTINE and op.role is not KeyRole.JOB for op in finding.ops)
    ]
