"""All records of a namespace, page by page, for `Repairs` to look at.

The indexes say where to look while they can be believed: `jobs`, `live` and `rest` read them, each
page one command. `everything` reads the names of all keys of the namespace (SCAN) instead, for what
no index knows, and then the indexes, for what has no record any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from hermes_celery.core.reconciling import Disagreement, DisagreementKind
from hermes_celery.core.run import is_run_id, job_id_of
from hermes_celery.errors import StoreError, StoreUnavailable
from hermes_celery.store.database import Database
from hermes_celery.store.jobs import has_moved
from hermes_celery.store.repairs import RecordsToCheck, raw_of, text_of
from hermes_celery.store.shared_keys import TYPES

#: Jobs of a page: one script call.
JOBS_PAGE = 250
_PAGE = 200
_SCAN = 500
#: Overdue entries that are looked at first: more than one pass of rescue reads.
_FIRST = 60


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some records to look at."""

    work: RecordsToCheck
    #: Keys by the type that each must have.
    types: dict[str, str] = {}
    #: Ids of incidents and notices that were seen.
    incidents: list[str] = []
    notices: list[str] = []


class Records:
    """The records of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def jobs(self) -> Iterator[Page]:
        """All jobs, as the list of jobs has them."""
        for ids in self._members(self._keys.jobs, size=JOBS_PAGE):
            yield Page(work=RecordsToCheck(jobs=ids, is_listed=True))

    def overdue(self, now_ms: int) -> Page | None:
        """What rescue sees first: entries that nothing stands behind must not fill its view."""
        commands = [
            ("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, _FIRST)
            for key in (self._keys.queued, self._keys.heartbeats)
        ]
        ids: list[str] = []
        for command in commands:
            with _passing_over():
                ids += map(text_of, self._database.call_raw(*command))
        return Page(work=RecordsToCheck(runs=_owned(ids))) if ids else None

    def live(self) -> Iterator[Page]:
        """All runs that wait or run, and deliveries that are under way."""
        for key in (self._keys.queued, self._keys.heartbeats, self._keys.deliveries):
            for ids in self._members(key):
                yield Page(work=RecordsToCheck(runs=_owned(ids)))

    def rest(self, *, shards: int) -> Iterator[Page]:
        """What the other indexes name: due and completed jobs, names, and all runs."""
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
        """Every record that there is, by the names of keys, and then what the indexes name."""
        for names in self._scan():
            yield self._sorted(names)
        for index in self._strays(shards):
            for ids in self._members(index):
                strays = dict.fromkeys(ids, index)
                yield Page(work=RecordsToCheck(jobs=ids, strays=strays))
        yield from self.jobs()
        yield from self.live()
        yield from self.rest(shards=shards)
        for ids in self._members(self._keys.job_runs):
            yield Page(work=RecordsToCheck(runs=_owned(ids), is_history=True))

    def family_of(self, key: str) -> tuple[str, str, str]:
        """The first word of the name of one of our keys, ":", and the rest."""
        return key.removeprefix(self._keys.prefix).partition(":")

    def refill(self, page: Page, *, now_ms: int, mends: bool) -> list[Disagreement]:
        """Find open incidents and notices on their way that their indexes do not name."""
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
                text=f"{text_of(one)!a} is open and was in no index; put in",
                is_mended=mends,
            )
            for one in answer
        ]

    def _strays(self, shards: int) -> list[str]:
        """Due indexes of shards that there are no more, or never were."""
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
        work = RecordsToCheck(jobs=self._staying(dict.fromkeys(jobs)), runs=runs, is_history=True)
        return msgspec.structs.replace(page, work=work)

    def _staying(self, ids: Iterable[str]) -> list[str]:
        """Those that did not move to another namespace: what is left of the others is in no index
        on purpose (`move_job.lua`)."""
        asked = list(ids)
        rows = self._database.hashes(
            [self._keys.job(job_id) for job_id in asked], "moved", "revision"
        )
        return [
            job_id for job_id, row in zip(asked, rows, strict=True)
            if not has_moved(row)
        ]  # fmt: skip

    def _scan(self, *, pattern: str = "", kind: str = "") -> Iterator[list[str]]:
        """The names of our keys; some may come twice."""
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
        """The members of a sorted set, lowest score first; nothing where it is none."""
        with _passing_over():
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
def _passing_over() -> Iterator[None]:
    """Pass over an index that cannot be read; a server that is away is another matter."""
    try:
        yield
    except StoreUnavailable:
        raise
    except StoreError:
        return


def _owned(ids: Iterable[str]) -> dict[str, str]:
    return {run_id: job_id_of(run_id) for run_id in ids}


def _named(entries: Sequence[str]) -> RecordsToCheck:
    """Jobs by their entries in the index of names; of a job with several, one is looked at."""
    found = {entry.rpartition("\0")[2]: entry for entry in entries}
    return RecordsToCheck(jobs=list(found), entries=found)


def _literal(text: str) -> str:
    """A pattern that means this very text."""
    return "".join(f"\\{character}" if character in "*?[]\\^-" else character for character in text)
