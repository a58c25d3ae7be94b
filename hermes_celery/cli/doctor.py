"""`doctor`: run the checks of `observe.checks` and print one line for each.

The checks themselves are in `observe.checks`. This module passes them what they need.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import given_app, kept_by_broker, project, read_settings, with_scope
from hermes_celery.cli.screen import print_json
from hermes_celery.cli.store_access import other_namespaces
from hermes_celery.cli.terminal import print_labelled
from hermes_celery.errors import SettingsError, StoreError, StoreUnavailable
from hermes_celery.masking.server_urls import without_password
from hermes_celery.observe.checks.environment import (
    check_alerts,
    check_files,
    check_variables,
    refusals,
)
from hermes_celery.observe.checks.machine import (
    check_agent,
    check_disk,
    check_of_files,
    check_scripts,
)
from hermes_celery.observe.checks.records import (
    check_declared,
    check_jobs,
    check_left_behind,
    check_letters,
    check_overload,
    check_records,
    check_retries,
)
from hermes_celery.observe.checks.server import (
    check_format,
    check_memory,
    check_neighbours,
    check_persistence,
    check_server,
)
from hermes_celery.observe.checks.workers_and_queues import process_findings
from hermes_celery.observe.figures import read_status
from hermes_celery.observe.finding import Finding, Verdict, fail, ok
from hermes_celery.running.dotenv_files import dotenv
from hermes_celery.settings import Settings, process_environment, redis_url
from hermes_celery.store import Database
from hermes_celery.store.loss_note import LossNote
from hermes_celery.wiring import delivery
from hermes_celery.wiring.client import check_broker
from hermes_celery.wiring.foreign_schedules import orphans_of_others
from hermes_celery.wiring.server import open_database, unreachable

_COLORS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, server, records, workers and files.

    Prints one line per check: ok, warn or fail.
    """
    findings = [msgspec.structs.replace(one, text=with_scope(one.text)) for one in _findings()]
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            label = f"{finding.verdict.value:<5} {finding.check:<11} "
            print_labelled(label, finding.text, color=_COLORS[finding.verdict])
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise SystemExit(ExitCode.FAILED)


def _findings() -> Iterator[Finding]:
    """Yield the findings of all checks; a check comes after those it depends on."""
    try:
        settings = read_settings()
    except SettingsError as error:
        for fault in error.faults:
            yield fail("settings", fault)
        return
    yield ok("settings", f"home {settings.home}, namespace {settings.namespace}")
    yield from check_variables(settings)
    yield from check_files(settings)
    yield from refusals("broker", lambda: check_broker(settings))
    yield check_of_files("alerts", lambda: _alerts(settings))
    yield from _of_the_server(settings)
    yield check_disk(settings.home)
    yield check_of_files("scripts", lambda: check_scripts(settings.scripts_dir))
    yield check_of_files("agent", lambda: _agent(settings))


def _of_the_server(settings: Settings) -> Iterator[Finding]:
    """Yield the findings that need the server, as far as it answers."""
    try:
        database = open_database(settings)
        yield check_server(database, settings, address=without_password(redis_url(settings)))
        yield from _of_the_store(settings, database)
    except StoreUnavailable as error:
        yield fail("server", unreachable(settings, error))
    except StoreError as error:
        yield fail("server", str(error))


def _of_the_store(settings: Settings, database: Database) -> Iterator[Finding]:
    yield check_format(database)
    yield from check_persistence(database)
    yield from check_memory(database)
    yield check_jobs(database, LossNote(settings.state_dir, database))
    yield check_records(database, kept_by_broker(database, settings))
    yield from check_neighbours(settings.namespace, other_namespaces())
    yield from process_findings(read_status(database, app=given_app()))
    yield from check_declared(database)
    yield from check_overload(database)
    yield from check_retries(database)
    yield check_letters(database)
    yield from check_left_behind(lambda: orphans_of_others(settings, app=project()))


def _alerts(settings: Settings) -> Finding:
    return check_alerts(
        settings,
        refuse=lambda: delivery.check_alerts(settings),
        without_target=lambda: delivery.alerts_without_target(settings),
    )


def _agent(settings: Settings) -> Finding:
    # In this order: for an agent, Hermes' `.env` overrides the worker's own variables.
    environment = {**process_environment(), **dotenv(settings.home, profile="")}
    return check_agent(settings, environment)
