"""Read all records of a namespace page by page, for `Repairs` to check.

`jobs`, `live` and `rest` trust the indexes and read them, one command for each page. `everything`
reads the names of all keys of the namespace (SCAN), to find records that are in no index, and then
the indexes, to find entries without a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from hermes_celery.core.counted import counted
from hermes_celery.core.reconciling import Disagreement, DisagreementKind, fact_text
from hermes_celery.core.run import is_run_id, job_id_of
from hermes_celery.errors import StoreError, StoreUnavailable
from hermes_celery.store.database import Database
from hermes_celery.store.jobs import has_moved
from hermes_celery.store.repairs import RecordsToCheck, raw_of, specs_of, text_of
from hermes_celery.store.shared_keys import TYPES

#: Jobs per page: one script call.
JOBS_PAGE = 250
_PAGE = 200
_SCAN = 500
#: Overdue entries that are checked first: more than one pass of rescue reads.
_FIRST = 60
#: Jobs that one finding names.
_NAMED = 3


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some records to check."""

    work: RecordsToCheck
    #: Keys, each with the type that it must have.
    types: dict[str, str] = {}
    #: Ids of the incidents and notices on this page.
    incidents: list[str] = []
    notices: list[str] = []
    #: The sets of declared jobs that were read for earlier pages, by key; None: do not check them.
    managed: dict[str, set[str]] | None = None


class Records:
    """Reads the records of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def jobs(self) -> Iterator[Page]:
        """Yield all jobs in the index of jobs."""
        for ids in self._members(self._keys.jobs, size=JOBS_PAGE):
            yield Page(work=RecordsToCheck(jobs=ids, is_listed=True))

    def jobs_and_managed(self) -> Iterator[Page]:
        """Yield the same pages, to check the sets of declared jobs as well.

        That reads all definitions, which takes as long as the other checks of the jobs.
        """
        managed: dict[str, set[str]] = {}
        for page in self.jobs():
            yield msgspec.structs.replace(page, managed=managed)

    def overdue(self, now_ms: int) -> Page | None:
        """Return the entries that rescue reads first: dead ones must not crowd out others."""
        commands = [
            ("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, _FIRST)
            for key in (self._keys.queued, self._keys.heartbeats)
        ]
        ids: list[str] = []
        for command in commands:
            with _skipping_unreadable():
                ids += map(text_of, self._database.call_raw(*command))
        return Page(work=RecordsToCheck(runs=_owned(ids))) if ids else None

    def live(self) -> Iterator[Page]:
        """Yield all waiting and running runs, and the deliveries under way."""
        for key in (self._keys.queued, self._keys.heartbeats, self._keys.deliveries):
            for ids in self._members(key):
                yield Page(work=RecordsToCheck(runs=_owned(ids)))

    def rest(self, *, shards: int) -> Iterator[Page]:
        """Yield the entries of the other indexes: due and completed jobs, names, and all runs."""
        for shard in range(shards):
            for ids in self._members(self._keys.due_of(shard)):
                yield Page(work=RecordsToCheck(jobs=ids))
        for ids in self._members(self._keys.completed):
            yield Page(work=RecordsToCheck(jobs=ids))
        for entries in self._members(self._keys.names):
            yield Page(work=_named(entries))
        for ids in self._members(self._keys.runs):
            yield Page(work=RecordsToCheck(runs=_owned(ids), is_history=True))

    def everything(self, *, shards: int) -> Iterator[Page]:
        """Yield every record by the names of the keys, and then the entries of all indexes."""
        for names in self._scan():
            yield self._sorted(names)
        for index in self._strays(shards):
            for ids in self._members(index):
                strays = dict.fromkeys(ids, index)
                yield Page(work=RecordsToCheck(jobs=ids, strays=strays))
        yield from self.jobs_and_managed()
        yield from self.live()
        yield from self.rest(shards=shards)
        for ids in self._members(self._keys.job_runs):
            yield Page(work=RecordsToCheck(runs=_owned(ids), is_history=True))

    def family_of(self, key: str) -> tuple[str, str, str]:
        """Return the first word of a key's name after the prefix, ":", and the rest."""
        return key.removeprefix(self._keys.prefix).partition(":")

    def refill(self, page: Page, *, now_ms: int, mends: bool) -> list[Disagreement]:
        """Find open incidents and undelivered notices that are missing in their indexes."""
        keys = self._keys
        notices = [one for one in page.notices if not is_run_id(one)]
        ids = [*page.incidents, *notices]
        if not ids:
            return []
        names = [*map(keys.incident, page.incidents), *map(keys.delivery, notices)]
        answer = self._database.run_raw(
            "refill",
            keys=[keys.incidents, keys.deliveries, *map(raw_of, names)],
            args=[now_ms, "1" if mends else "", len(page.incidents), *map(raw_of, ids)],
        )
        return [
            Disagreement(
                trouble=DisagreementKind.DISAGREES,
                subject=text_of(one),
                text=f"{text_of(one)!a} is open and was in no index; added to it",
                is_mended=mends,
            )
            for one in answer
        ]

    def declared(self, page: Page) -> dict[str, list[str]]:
        """Return the jobs of a page that projects declare, by the set in which each must be.

        Their own records say which project declares them. An unreadable record is left out.
        """
        ids = page.work.jobs if page.managed is not None else ()
        found: dict[str, list[str]] = {}
        for job_id, spec in specs_of(self._database, ids).items():
            if spec is not None and spec.managed_by is not None:
                found.setdefault(self._keys.managed(spec.managed_by), []).append(job_id)
        return found

    def refill_managed(
        self, page: Page, declared: Mapping[str, Sequence[str]], *, mends: bool
    ) -> list[Disagreement]:
        """Find jobs that are missing in the set of the jobs that their project declares."""
        found = []
        for key, ids in declared.items():
            known = self._set_of(key, {} if page.managed is None else page.managed)
            missing = [job_id for job_id in ids if job_id not in known]
            added = self._refilled(key, missing, mends=mends) if missing else []
            if added:
                jobs = ", ".join(added[:_NAMED]) + (", ..." if added[_NAMED:] else "")
                finding = Disagreement(
                    trouble=DisagreementKind.DISAGREES,
                    subject=key,
                    text=f"key {fact_text(key)} lacked {counted(len(added), 'job')} that its "
                    f"project declared, as their records say ({jobs}); added to it",
                    is_mended=mends,
                )
                found.append(finding)
        return found

    def _set_of(self, key: str, known: dict[str, set[str]]) -> set[str]:
        """Return a set of declared jobs, read once for all pages; empty if it is unreadable."""
        if key not in known:
            known[key] = set()
            with _skipping_unreadable():
                known[key].update(map(text_of, self._database.call_raw("SMEMBERS", raw_of(key))))
        return known[key]

    def _refilled(self, key: str, ids: Sequence[str], *, mends: bool) -> list[str]:
        """Return the jobs that are still missing in a set; with `mends`, add them to it."""
        keys: list[str | bytes] = [self._keys.jobs, raw_of(key)]
        args: list[str | bytes] = ["1" if mends else "", *map(raw_of, ids)]
        return list(map(text_of, self._database.run_raw("refill_managed", keys=keys, args=args)))

    def _strays(self, shards: int) -> list[str]:
        """Return due indexes of shards that no longer exist, or never did."""
        homes = {self._keys.due_of(shard) for shard in range(shards)}
        found = {
            name
            for names in self._scan(pattern=f"{_literal(self._keys.due)}*", kind="zset")
            for name in names
        }
        return sorted(found - homes)

    def _sorted(self, names: Sequence[str]) -> Page:
        jobs: list[str] = []
        runs: dict[str, str] = {}
        page = Page(work=RecordsToCheck(), types={}, incidents=[], notices=[])
        for name in names:
            family, _, rest = self.family_of(name)
            if family in ("job", "active", "held"):
                jobs.append(rest)
            elif family in ("run", "delivery"):
                runs[rest] = job_id_of(rest)
            elif family in TYPES:
                page.types[name] = TYPES[family]
            if family == "incident":
                page.incidents.append(rest)
            elif family == "delivery":
                page.notices.append(rest)
        work = RecordsToCheck(
            jobs=self._without_moved(dict.fromkeys(jobs)), runs=runs, is_history=True
        )
        return msgspec.structs.replace(page, work=work)

    def _without_moved(self, ids: Iterable[str]) -> list[str]:
        """Return the jobs that did not move to another namespace.

        The remainder of a moved job is in no index on purpose (`move_job.lua`).
        """
        asked = list(ids)
        rows = self._database.hashes(
            [self._keys.job(job_id) for job_id in asked], "moved", "revision"
        )
        return [
            job_id for job_id, row in zip(asked, rows, strict=True)
            if not has_moved(row)
        ]  # fmt: skip

    def _scan(self, *, pattern: str = "", kind: str = "") -> Iterator[list[str]]:
        """Yield the names of our keys; a name may come twice."""
        match = pattern or f"{_literal(self._keys.prefix)}*"
        cursor = b"0"
        while True:
            command: tuple[str | int | bytes, ...] = (
                "SCAN",
                cursor,
                "MATCH",
                match,
                "COUNT",
                _SCAN,
            )
            cursor, names = self._database.call_raw(*command, *(("TYPE", kind) if kind else ()))
            cursor = cursor if isinstance(cursor, bytes) else str(cursor).encode()
            if names:
                yield [text_of(name) for name in names]
            if cursor == b"0":
                return

    def _members(self, index: str, *, size: int = _PAGE) -> Iterator[list[str]]:
        """Yield the members of a sorted set, lowest score first; none for a key of another type."""
        with _skipping_unreadable():
            score, member = b"", b""
            while True:
                answer = self._database.run_raw(
                    "page", keys=[index], args=[score, member, size, "up"]
                )
                if not answer or answer[0] == b"broken":
                    return
                yield [text_of(one) for one in answer[::2]]
                score, member = answer[-1], answer[-2]


@contextmanager
def _skipping_unreadable() -> Iterator[None]:
    """Skip an unreadable index; raise StoreUnavailable when the server is unreachable."""
    try:
        yield
    except StoreUnavailable:
        raise
    except StoreError:
        return


def _owned(ids: Iterable[str]) -> dict[str, str]:
    return {run_id: job_id_of(run_id) for run_id in ids}


def _named(entries: Sequence[str]) -> RecordsToCheck:
    """Return the jobs of entries in the index of names; one entry for each job."""
    found = {entry.rpartition("\0")[2]: entry for entry in entries}
    return RecordsToCheck(jobs=list(found), entries=found)


def _literal(text: str) -> str:
    """Return a pattern that matches exactly this text."""
    return "".join(f"\\{character}" if character in "*?[]\\^-" else character for character in text)
