"""The leader's comparison of all stored records, in small steps, all the time.

A step checks the records that rescue would read first, a page of jobs, a page of runs that wait or
run, and every fifth time a page of everything else. There is one step a second, or twenty while
something is wrong or a new leader begins. So 10,000 jobs are checked within a minute, and after a
fault 5,000 jobs a second. Each of the three kinds of pages starts over at most every ten seconds. A
step costs about six commands and 1 ms of the server's time with thousands of jobs.

A leader's first round over the jobs, and every tenth one after it, also compares the sets of the
jobs that projects declare with the definitions of all jobs.

After an index was quarantined, all records are read at the faster rate until each of them was
checked: see `IndexRefill`.

Faults are repaired where that is safe, and reported: a job that had stopped for no reason as one
kind of incident, everything else as another. A step does not raise for a fault of one record.

A repair that finds a job's record missing leaves a note in the same atomic step, and so does a tick
that takes a job off the schedule. These jobs are reported from the notes. Each step begins with the
notes that another process left, or that the server refused to report.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import Trouble, TroubleKind, incident_id
from hermes_celery.core.readable import readable
from hermes_celery.core.reconciling import Disagreement, DisagreementKind
from hermes_celery.core.untold_jobs import UntoldJob
from hermes_celery.errors import HermesCeleryError, StoreError, StoreUnavailable
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.instant import to_ms
from hermes_celery.store import (
    CheckMode,
    Page,
    Records,
    RecordsToCheck,
    Repairs,
    SharedKeys,
    SweepNote,
    SweepNotes,
)

if TYPE_CHECKING:
    from hermes_celery.core.incidents import ReportsTroubles
    from hermes_celery.core.job import JobSpec
    from hermes_celery.store import Incidents, Jobs

_log = logging.getLogger(__name__)

EVERY_MS = 10_000
#: Milliseconds until all records are read again if some could not be repaired.
REFILL_AGAIN_MS = 60_000
#: Incidents that one round reports one by one, and lines that one step logs.
_MOST_REPORTED, _MOST_LOGGED = 20, 20
_MOST_KNOWN = 10_000
#: A finding that was absent for this long is reported again: it was repaired in between.
_KNOWN_MS = 600_000
#: The number of the round over records that neither stop a job nor hide a run, and how often it
#: gets a step.
_REST, _REST_EVERY_STEPS = 2, 5
#: In how many rounds over the jobs one checks the sets of declared jobs: it takes twice as long.
_MANAGED_EVERY_ROUNDS = 10
#: The sweep's incidents that belong to no single job begin with this. They end when a round finds
#: nothing, but not before this time has passed, so that people see them.
_SUBJECT = "stored:"
_OVER_MS = 300_000
#: Characters to replace in incident ids, which are part of keys, messages and commands.
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9{}:._@-]")
_LONGEST = 200


class PageRound(msgspec.Struct):
    """Reads the pages of one kind of record, one after the other, again and again."""

    make: Callable[[], Iterator[Page]]
    pages: Iterator[Page] | None = None
    began_ms: int = 0

    def is_resting(self, now_ms: int) -> bool:
        """Return whether the last round has ended and the next one is not due."""
        return self.pages is None and now_ms - self.began_ms < EVERY_MS

    def next(self, now_ms: int) -> Page | None:
        """Return the next page; None at the end of a round, and between two rounds."""
        if self.is_resting(now_ms):
            return None
        pages = self.pages
        if pages is None:
            pages, self.began_ms = self.make(), now_ms
        # A generator that has raised behaves as if it were exhausted, so it is dropped first.
        self.pages = None
        page = next(pages, None)
        if page is not None:
            self.pages = pages
        return page


class IndexRefill:
    """Reads all records once for each mark that a quarantined index has left.

    The leader that has read all records notes the mark as done, after the last page. If it dies, or
    its server is unreachable, the next leader does it all again.
    """

    def __init__(self, notes: SweepNotes, make: Callable[[], Iterator[Page]]) -> None:
        self._notes = notes
        self._make = make
        self._pages: Iterator[Page] | None = None
        self._mark = ""
        #: The last mark that was done; None: not read from the store yet.
        self._done: str | None = None
        self._is_whole = True
        self._not_before_ms = 0

    @property
    def is_going(self) -> bool:
        """True while there are more records to read."""
        return self._pages is not None

    def forget(self) -> None:
        """Start over from the stored marks."""
        self._pages, self._done, self._not_before_ms = None, None, 0

    def begin(self, now_ms: int) -> None:
        """Start reading if a mark asks for it. Raises StoreError."""
        if self._pages is not None or now_ms < self._not_before_ms:
            return
        if self._done is None:
            self._done = self._notes.refilled()
        mark = self._notes.refill_asked()
        if mark != self._done:
            self._mark, self._pages, self._is_whole = mark, self._make(), True

    def next(self) -> Page | None:
        """Return the next page; None after the last one."""
        return next(self._pages, None) if self._pages is not None else None

    def miss(self) -> None:
        """Note that a record could not be read or repaired: all is read again later."""
        self._is_whole = False

    def end(self, now_ms: int) -> None:
        """End after the last page; note the mark as done if nothing was missed.

        Raises StoreError.
        """
        self._pages = None
        self._not_before_ms = now_ms + REFILL_AGAIN_MS
        if self._is_whole:
            self._notes.note_refilled(self._mark)
            self._done, self._not_before_ms = self._mark, 0


class RecordExaminer:
    """Checks and repairs pages of records, for the sweep and for other callers."""

    def __init__(self, *, repairs: Repairs, shared: SharedKeys, records: Records) -> None:
        self.repairs = repairs
        self.shared = shared
        self.records = records

    def keys(self, mode: CheckMode) -> list[Disagreement]:
        """Check the keys that all jobs share."""
        return self.shared.check(mode, shards=self.repairs.count_shards())

    def page(self, page: Page, mode: CheckMode) -> list[Disagreement]:
        """Check a page of records."""
        return [one for look in self.looks(page, mode) for one in look()]

    def looks(self, page: Page, mode: CheckMode) -> list[Callable[[], list[Disagreement]]]:
        """Return the checks of a page, in order. If one fails, the findings of the others stand."""
        return [
            lambda: self.shared.check_types(page.types, mode) if page.types else [],
            lambda: self.repairs.check(page.work, mode),
            lambda: self.records.refill(page, now_ms=mode.now_ms, mends=mode.mends),
            lambda: self._managed(page, mode),
        ]

    def _managed(self, page: Page, mode: CheckMode) -> list[Disagreement]:
        """Check the sets of the jobs that projects declare, from the records of these jobs."""
        declared = self.records.declared(page)
        new = dict.fromkeys(declared.keys() - (page.managed or {}).keys(), "set")
        found = self.shared.check_types(new, mode)
        return found + self.records.refill_managed(page, declared, mends=mode.mends)


class Sweep:
    """The leader's sweep. A tick or a worker also calls it for a job whose key is broken."""

    def __init__(
        self,
        examiner: RecordExaminer,
        *,
        jobs: Jobs,
        incidents: Incidents,
        reporter: ReportsTroubles,
        notes: SweepNotes,
        declared_name: Callable[[str, int], str] = lambda job_id, now_ms: "",
    ) -> None:
        """Take the collaborators.

        `declared_name` returns the name under which a living beat declares a job id; "" if none.
        """
        self._declared_name = declared_name
        self._examiner = examiner
        self._jobs = jobs
        self._incidents = incidents
        self._reporter = reporter
        self._notes = notes
        records, repairs = examiner.records, examiner.repairs
        self._rounds = [
            PageRound(self._pages_of_jobs),
            PageRound(records.live),
            PageRound(lambda: records.rest(shards=repairs.shards)),
        ]
        self._refill = IndexRefill(notes, lambda: records.everything(shards=repairs.shards))
        self._token: int | None = None
        self._steps = 0
        #: Ended rounds over the jobs.
        self._job_rounds = 0
        #: Rounds that go on to their end without a pause.
        self._hurried: set[int] = set()
        self._note = SweepNote()
        self._reported = 0
        #: Reported findings that were not repaired, and when each was last found.
        self._known: dict[tuple[str, str], int] = {}
        self._refused = RateLimitedLog()

    def step(self, token: int, now_ms: int) -> bool:
        """Do one step; return whether the next one should follow without a pause.

        Raises LeaseLost when a newer leader has taken over, and StoreUnavailable.
        """
        if token != self._token:
            self._token = token
            self._start_over()
        self._report_notes(now_ms)
        try:
            found = self._look(CheckMode(now_ms=now_ms, token=token))
        except HermesCeleryError:
            # Otherwise the page that was being checked would be skipped.
            self._refill.forget()
            raise
        self._count_and_report(found, now_ms)
        if any(finding.is_mended for finding in found):
            self._hurry()
        return bool(self._hurried) or self._refill.is_going

    def _look(self, mode: CheckMode) -> list[Disagreement]:
        found: list[Disagreement] = []
        if self._rounds[0].pages is None and not self._rounds[0].is_resting(mode.now_ms):
            found += self._guarded(lambda: self._examiner.keys(mode))
        with _logged():
            self._refill.begin(mode.now_ms)
        if self._refill.is_going:
            # An index was lost, so its entries are derived from the definitions.
            mode = msgspec.structs.replace(mode, is_deep=True)
        for page in self._pages(mode.now_ms):
            once = [one for look in self._examiner.looks(page, mode) for one in self._guarded(look)]
            if any(finding.ops and not finding.is_mended for finding in once):
                self._refill.miss()
            found += once
        return found

    def taken_off(self, *, now_ms: int) -> None:
        """Report the jobs that a tick took off the schedule, because they cannot be planned.

        The tick stores a note each time, so a job is reported again if it happens again. If the
        server refuses the report, a later step makes it. Raises StoreUnavailable.
        """
        self._report_notes(now_ms)

    def put_off(self, job_id: str, error: str, *, now_ms: int) -> None:
        """Report a job that a tick put off, although the job itself is not at fault.

        The same job is reported once, however often it is put off. Raises StoreUnavailable.
        """
        finding = Disagreement(
            trouble=DisagreementKind.BROKEN,
            subject=job_id,
            job_id=job_id,
            text=f"job {job_id} was put off: {error}",
        )
        self._report_new([finding], now_ms)

    def gone(self, job_id: str, *, now_ms: int) -> None:
        """Report a job that a tick found without its record, unless the job was removed meanwhile.

        Raises StoreUnavailable.
        """
        repairs = self._examiner.repairs
        self._report_new(
            self._guarded(lambda: repairs.job(job_id, now_ms=now_ms, token=None)), now_ms
        )

    def broken(self, job_id: str, key: str, *, now_ms: int) -> list[Disagreement]:
        """Repair a key that a script found broken, and its job ("" for none).

        Not fenced: every repair compares the facts it was decided from. Raises StoreUnavailable.
        """
        mode = CheckMode(now_ms=now_ms, is_deep=True)
        found = self._guarded(lambda: self._check_key(key, mode))
        if job_id:
            found += self._guarded(
                lambda: self._examiner.repairs.job(job_id, now_ms=now_ms, token=None)
            )
        self._report_new(found, now_ms)
        return found

    def _check_key(self, key: str, mode: CheckMode) -> list[Disagreement]:
        examiner = self._examiner
        family, _, rest = examiner.records.family_of(key)
        if family == "run":
            work = RecordsToCheck(runs={rest: rest[:12]})
            return examiner.repairs.check(work, mode)
        if family in ("job", "active", "held"):
            return []
        kind = examiner.shared.type_of(key)
        found = examiner.shared.check_types({key: kind}, mode) if kind else []
        return found or examiner.keys(mode)

    def _pages_of_jobs(self) -> Iterator[Page]:
        records, is_plain = self._examiner.records, self._job_rounds % _MANAGED_EVERY_ROUNDS
        return records.jobs() if is_plain else records.jobs_and_managed()

    def _start_over(self) -> None:
        self._job_rounds = 0
        for one in self._rounds:
            one.pages, one.began_ms = None, 0
        self._refill.forget()
        self._note = SweepNote()
        self._hurry()

    def _hurry(self) -> None:
        """Start a round over all jobs and all queued and running runs now, without a pause."""
        self._hurried = {0, 1}
        for number in self._hurried:
            if self._rounds[number].pages is None:
                self._rounds[number].began_ms = 0

    def _pages(self, now_ms: int) -> Iterator[Page]:
        first = self._examiner.records.overdue(now_ms)
        if first is not None:
            yield first
        if self._refill.is_going:
            yield from self._refill_pages(now_ms)
        else:
            yield from self._round_pages(now_ms)

    def _refill_pages(self, now_ms: int) -> Iterator[Page]:
        page = self._refill.next()
        if page is not None:
            yield page
            return
        with _logged():
            self._refill.end(now_ms)

    def _round_pages(self, now_ms: int) -> Iterator[Page]:
        self._steps += 1
        for number, one in enumerate(self._rounds):
            if number == _REST and self._steps % _REST_EVERY_STEPS:
                continue
            was_reading = not one.is_resting(now_ms)
            page = one.next(now_ms)
            if page is not None:
                self._note.jobs += len(page.work.jobs) if number == 0 else 0
                yield page
            elif was_reading:
                self._hurried.discard(number)
                if number == 0:
                    self._end_round(now_ms)

    def _guarded(self, look: Callable[[], list[Disagreement]]) -> list[Disagreement]:
        with _logged():
            return look()
        self._refill.miss()
        return []

    def _end_round(self, now_ms: int) -> None:
        self._job_rounds += 1
        note, self._note = self._note, SweepNote()
        note.ended_ms = now_ms
        with _logged():
            self._notes.write(note)
        self._reported = 0
        if not note.mended and not note.left:
            mine = f"{TroubleKind.BROKEN.value}-{_SUBJECT}"
            over = [
                one
                for one in self._incidents.of_job("")
                if one.id.startswith(mine) and to_ms(one.last_at) <= now_ms - _OVER_MS
            ]
            self._reporter.over(over, "all stored records agree again", now_ms=now_ms)

    def _count_and_report(self, found: Sequence[Disagreement], now_ms: int) -> None:
        self._note.mended += sum(finding.is_mended for finding in found)
        self._note.left += sum(not finding.is_mended for finding in found)
        self._note.stopped += sum(finding.trouble is DisagreementKind.STOPPED for finding in found)
        self._report_new(found, now_ms)

    def _report_new(self, found: Sequence[Disagreement], now_ms: int) -> None:
        """Report new findings; those that the server refuses are found and reported again.

        Raises StoreUnavailable.
        """
        new = [one for one in found if one.is_mended or not self._is_known(one, now_ms)]
        self._log_all(new)
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        gone = [one for one in new if one.is_job_gone and one.job_id]
        if any(one.is_mended for one in gone):
            self._report_notes(now_ms)
        self._report_refused([one for one in gone if not one.is_mended], now_ms)
        self._report_others([one for one in new if one not in gone], now_ms)

    def _report_refused(self, gone: Sequence[Disagreement], now_ms: int) -> None:
        """Report vanished jobs whose repair the server refused, so that no note was left."""
        for finding in gone[: max(_MOST_REPORTED - self._reported, 0)]:
            if self._report_note(UntoldJob(job_id=finding.job_id, text=finding.text), now_ms):
                self._reported += 1
                self._remember([finding], now_ms)

    def _report_others(self, new: Sequence[Disagreement], now_ms: int) -> None:
        ghosts = [one for one in new if one.trouble is DisagreementKind.GHOST]
        if ghosts:
            text = f"leftover entries were removed ({len(ghosts)})"
            if self._incident("ghosts", f"{text}, for example: {ghosts[0].text}", "", now_ms):
                self._remember(ghosts, now_ms)
        # Stopped jobs come first: there may be more findings than the limit allows.
        rest = [one for one in new if one.trouble is not DisagreementKind.GHOST]
        for finding in sorted(rest, key=lambda one: one.trouble is not DisagreementKind.STOPPED):
            if self._reported >= _MOST_REPORTED:
                is_told = self._report_many(finding.text, now_ms)
            else:
                is_told = self._incident(
                    finding.subject, finding.text, finding.job_id, now_ms, kind=_kind(finding)
                )
                self._reported += is_told
            self._remember([finding] if is_told else [], now_ms)

    def _report_many(self, text: str, now_ms: int) -> bool:
        return self._incident("many", f"{text}; there are more faults", "", now_ms)

    def _is_known(self, finding: Disagreement, now_ms: int) -> bool:
        """Return whether a finding was reported and is still there; note that it is."""
        what = finding.subject, finding.text
        if now_ms - self._known.get(what, -_KNOWN_MS) >= _KNOWN_MS:
            return False
        self._known[what] = now_ms
        return True

    def _remember(self, told: Sequence[Disagreement], now_ms: int) -> None:
        """Remember unrepaired findings that were reported, so that each is reported once."""
        self._known |= {(one.subject, one.text): now_ms for one in told if not one.is_mended}

    def _report_notes(self, now_ms: int) -> None:
        """Report the jobs that stored notes name, and delete the notes of reported jobs.

        Raises StoreUnavailable.
        """
        done: list[str] = []
        with _logged():
            notes = self._notes.untold()
            for note in notes:
                if self._reported >= _MOST_REPORTED:
                    left = [one for one in notes if one.job_id not in done]
                    count = sum(one.is_gone for one in notes)
                    done += self._report_together(left, now_ms, count=count)
                    break
                if self._report_note(note, now_ms):
                    self._reported += 1
                    done.append(note.job_id)
            self._notes.forget_untold(done)

    def _report_together(self, left: Sequence[UntoldJob], now_ms: int, *, count: int) -> list[str]:
        """Report jobs in one incident of each kind; return the ids of the reported ones.

        `count` is the number of vanished jobs, including those that were reported one by one.
        """
        done: list[str] = []
        gone = [note.job_id for note in left if note.is_gone]
        if gone and self._try_report(lambda: self._report_many_gone(count, now_ms), now_ms):
            done += gone
        off = [note for note in left if not note.is_gone]
        if off and self._report_many(readable(off[0].text), now_ms):
            done += [note.job_id for note in off]
        return done

    def _report_note(self, note: UntoldJob, now_ms: int) -> bool:
        if note.is_gone:
            return self._try_report(lambda: self._report_gone(note, now_ms), now_ms)
        return self._incident(note.job_id, readable(note.text), note.job_id, now_ms)

    def _try_report(self, tell: Callable[[], None], now_ms: int) -> bool:
        """Make a report; return whether the server took it.

        Callers try again every second. A refusal is logged once a minute.
        """
        try:
            tell()
        except StoreUnavailable:
            raise
        except StoreError as error:
            if self._refused.may_say(now_ms / 1000):
                event(_log, "repair.untold", level=logging.ERROR, why=error)
            return False
        return True

    def _report_gone(self, note: UntoldJob, now_ms: int) -> None:
        """Report a job whose record vanished; a declared job is stored again by the beat."""
        job_id, text = note.job_id, readable(note.text)
        name = self._declared_name(job_id, now_ms)
        if name:
            text = (
                f"Cron '{name}': {text}; the job is declared, so the beat stores it again, but its "
                f"pause and its counts are lost → hermes-celery show {job_id}"
            )
            trouble = Trouble(
                kind=TroubleKind.BROKEN, subject=f"job:{job_id}", text=text, job_name=name
            )
        else:
            trouble = self._gone_for_good(job_id, text, removed=readable(note.name))
        self._reporter.tell(trouble, now_ms=now_ms)

    def _gone_for_good(self, job_id: str, text: str, *, removed: str) -> Trouble:
        name = self._jobs.name_left_by(job_id) or removed
        mine = incident_id(TroubleKind.GONE, job_id)
        text = (
            f"Cron '{name or job_id}' is gone: {text}, and hermes-celery did not delete it; the "
            "job does not run any more: add it again, or give it up with "
            f"`hermes-celery incidents ack {mine}`"
        )
        return Trouble(kind=TroubleKind.GONE, subject=job_id, text=text, job_name=name)

    def _report_many_gone(self, count: int, now_ms: int) -> None:
        mine = incident_id(TroubleKind.GONE, "more")
        text = (
            f"the records of many jobs are gone, {count} in one check; the beat's log names them "
            "(repair.mended); jobs that are not declared do not run any more: restore a copy of "
            "the server's data, add them again, or give them up with "
            f"`hermes-celery incidents ack {mine}`"
        )
        self._reporter.tell(
            Trouble(kind=TroubleKind.GONE, subject="more", text=text), now_ms=now_ms
        )

    def _incident(
        self,
        subject: str,
        text: str,
        job_id: str,
        now_ms: int,
        *,
        kind: TroubleKind = TroubleKind.BROKEN,
    ) -> bool:
        """Report one trouble as an incident; return False if the server refuses it."""
        spec = self._spec(job_id) if job_id else None
        if spec is not None:
            trouble = Trouble.of_job(spec, kind, _advised(f"Cron '{spec.name}': {text}"))
        else:
            trouble = Trouble(kind=kind, subject=stored_subject(subject), text=_advised(text))

        def tell() -> None:
            self._reporter.tell(trouble, now_ms=now_ms)

        return self._try_report(tell, now_ms)

    def _log_all(self, found: Sequence[Disagreement]) -> None:
        for finding in found[:_MOST_LOGGED]:
            name = "repair.mended" if finding.is_mended else "repair.found"
            event(_log, name, level=logging.WARNING, what=finding.text, sort=finding.trouble.value)
        if len(found) > _MOST_LOGGED:
            event(_log, "repair.more", level=logging.WARNING, count=len(found) - _MOST_LOGGED)

    def _spec(self, job_id: str) -> JobSpec | None:
        with _logged():
            return self._jobs.specs([job_id]).get(job_id)
        return None


def stored_subject(what: str) -> str:
    """Return the subject of the incident about a record: a key, or the id of an unreadable job."""
    return f"{_SUBJECT}{_NOT_PLAIN.sub('_', what)[:_LONGEST]}"


def _advised(text: str) -> str:
    return f"{text.encode('utf-8', 'backslashreplace').decode()} → hermes-celery fsck"


@contextmanager
def _logged() -> Iterator[None]:
    """Log a refusal of the server and go on; an unreachable server still raises."""
    try:
        yield
    except StoreUnavailable:
        raise
    except StoreError as error:
        event(_log, "repair.failed", level=logging.ERROR, why=error)


def _kind(finding: Disagreement) -> TroubleKind:
    return (
        TroubleKind.STOPPED if finding.trouble is DisagreementKind.STOPPED else TroubleKind.BROKEN
    )
