"""`fsck`: compare all stored records, and repair those that disagree.

Without `--repair` it only reads. With `--repair` it may run beside beats and workers: each repair
is one script that first compares everything the decision was based on, and changes nothing if any
of it has changed since. It therefore needs neither a lease nor a fencing token, and reports
nothing that a beat or a worker is changing at that moment.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import kept_by_broker, read_settings, with_scope
from hermes_celery.cli.screen import print_json
from hermes_celery.cli.terminal import print_labelled
from hermes_celery.core.counted import counted
from hermes_celery.core.reconciling import Disagreement, DisagreementKind
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.errors import StoreError, StoreUnavailable
from hermes_celery.scheduling.sweep import RecordExaminer
from hermes_celery.store import CheckMode, Database, Page
from hermes_celery.wiring.server import reachable_database, readable_database
from hermes_celery.wiring.watchdogs import make_examiner

#: Most passes over all records with `--repair`. A repair can reveal another disagreement, which the
#: next pass finds; further passes would only undo and redo the same repairs.
_PASSES = 3


class Summary(msgspec.Struct):
    """Counts of the checked records and of the disagreements."""

    jobs: int = 0
    runs: int = 0
    found: int = 0
    mended: int = 0
    left: int = 0


@click.command()
@click.option("--repair", is_flag=True, help="Repair what can be repaired; the rest is reported.")
@json_option
def fsck(repair: bool, as_json: bool) -> None:
    """Check that all stored records agree: jobs, runs and their indexes.

    Prints one line for each disagreement. A repair never deletes an unusable value; it
    moves it to a key `...quarantine:...`. Beats and workers may keep running.
    """
    opened = reachable_database if repair else readable_database
    settings = read_settings()
    database = opened(settings)
    findings, summary = examine(database, kept_by_broker(database, settings), repair=repair)
    if as_json:
        print_json({"findings": [_as_json(one) for one in findings], "summary": summary})
    else:
        for finding in findings:
            _print_finding(finding)
        click.echo(_closing(summary, repair=repair))
    if summary.left:
        raise SystemExit(ExitCode.FAILED)


def examine(
    database: Database, names: BrokerNames, *, repair: bool
) -> tuple[list[Disagreement], Summary]:
    """Check all records once; with `repair`, again until nothing more is repaired."""
    examiner, summary = make_examiner(database, names), Summary()
    found: dict[tuple[str, str], Disagreement] = {}
    for _ in range(_PASSES if repair else 1):
        mode = CheckMode(now_ms=database.now_ms(), mends=repair, is_deep=True)
        once = _pass(examiner, mode, summary)
        left = {(one.subject, one.text) for one in once if not one.is_mended}
        found = {key: one for key, one in found.items() if one.is_mended or key in left} | {
            (one.subject, one.text): one for one in once
        }
        if not any(one.is_mended for one in once):
            break
    findings = list(found.values())
    summary.found = len(findings)
    summary.mended = sum(one.is_mended for one in findings)
    summary.left = summary.found - summary.mended
    return findings, summary


def _pass(examiner: RecordExaminer, mode: CheckMode, summary: Summary) -> list[Disagreement]:
    summary.jobs = summary.runs = 0
    jobs: set[str] = set()
    found = examiner.keys(mode)
    pages = examiner.records.everything(shards=examiner.repairs.shards)
    for page in _shown(pages):
        jobs.update(page.work.jobs)
        summary.runs += len(page.work.runs)
        found += _of_page(examiner, page, mode)
    summary.jobs = len(jobs)
    return found


def _of_page(examiner: RecordExaminer, page: Page, mode: CheckMode) -> list[Disagreement]:
    try:
        return examiner.page(page, mode)
    except StoreUnavailable:
        raise
    except StoreError as error:
        text = f"a page of {counted(len(page.work.jobs), 'job')} could not be checked: {error}"
        return [Disagreement(trouble=DisagreementKind.BROKEN, subject="page", text=text)]


def _shown(pages: Iterator[Page]) -> Iterator[Page]:
    """Yield the pages; on a terminal, show how many records were checked."""
    # Imported here to start fast: rich is slow to import.
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("reading the records")
        records = 0
        for page in pages:
            records += len(page.work.jobs) + len(page.work.runs)
            progress.update(task, description=f"{counted(records, 'record')} checked")
            yield page


def _print_finding(finding: Disagreement) -> None:
    word, color = ("repaired", "yellow") if finding.is_mended else ("wrong", "red")
    text = finding.text.encode("utf-8", "backslashreplace").decode()
    print_labelled(f"{word:<8} ", text, color=color)


def _closing(summary: Summary, *, repair: bool) -> str:
    looked = (
        f"{counted(summary.jobs, 'job')} and "
        f"{counted(summary.runs, 'run entry', 'run entries')} checked"
    )
    if not summary.found:
        return f"{looked}: all agree"
    advice = "" if repair else with_scope("; `hermes-celery fsck --repair` repairs what it can")
    return f"{looked}: {summary.mended:,} repaired, {summary.left:,} left{advice}"


def _as_json(finding: Disagreement) -> dict[str, object]:
    return {
        "trouble": finding.trouble.value,
        "subject": finding.subject.encode("utf-8", "backslashreplace").decode(),
        "job_id": finding.job_id or None,
        "text": finding.text.encode("utf-8", "backslashreplace").decode(),
        "mended": finding.is_mended,
    }
