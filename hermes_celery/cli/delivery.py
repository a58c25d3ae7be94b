"""`redeliver` and `incidents`: act on deliveries, and list what is wrong."""

from __future__ import annotations

import click

from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import read_settings, with_scope
from hermes_celery.cli.screen import print_json, time_text
from hermes_celery.cli.store_access import messages_for
from hermes_celery.cli.terminal import print_table
from hermes_celery.core.counted import counted
from hermes_celery.core.run import Run
from hermes_celery.core.unknown_words import UNREADABLE
from hermes_celery.errors import RecordBroken, shown
from hermes_celery.settings import default_timezone
from hermes_celery.store import Deliveries, DeliveryPartState, Incidents
from hermes_celery.wiring.server import reachable_database, readable_database

_TO_THE_MINUTE = len("2027-03-28 14:00")
_COLUMNS = ("ID", "COUNT", "FIRST", "LAST", "ACK", "WHAT")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--all", "everywhere", is_flag=True, help="Deliver also to targets already reached.")
def redeliver(run_id: str, everywhere: bool) -> None:
    """Deliver the output of RUN again, to the targets that its job has now.

    Targets that were already reached are left out, unless you give --all. The job does not run
    again.
    """
    # Imported here to start fast: `incidents` and `logs` need none of the delivery code.
    from hermes_celery.wiring.delivery import redeliver as deliver_again

    settings = read_settings()
    deliver_again(settings, run_id, everywhere=everywhere, messages=messages_for(settings))
    click.echo(
        with_scope(f"delivering {run_id} again; `hermes-celery logs {run_id}` shows the result")
    )


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@json_option
@click.pass_context
def incidents(ctx: click.Context, as_json: bool) -> None:
    """List open incidents: failures, late and missed runs, no beat, no workers."""
    if ctx.invoked_subcommand is not None:
        return
    found = Incidents(readable_database(read_settings())).open()
    if as_json:
        print_json([incident.as_json() for incident in found])
        return
    zone = default_timezone()
    print_table(
        _COLUMNS,
        (
            (
                incident.id,
                str(incident.count),
                time_text(incident.first_at, zone=zone)[:_TO_THE_MINUTE],
                time_text(incident.last_at, zone=zone)[:_TO_THE_MINUTE],
                "yes" if incident.acked_at else "-",
                f"{UNREADABLE}: {incident.fault}" if incident.fault else with_scope(incident.text),
            )
            for incident in found
        ),
        empty="no open incidents",
    )


@incidents.command("ack")
@click.argument("incident_id", metavar="ID")
def ack(incident_id: str) -> None:
    """Acknowledge incident ID: no more notices about it until it is over."""
    database = reachable_database(read_settings())
    answer = Incidents(database).ack(incident_id, now_ms=database.now_ms())
    if answer == "gone":
        raise click.ClickException(
            f"no open incident has the id {shown(incident_id)}; `hermes-celery incidents` "
            "lists them"
        )
    if answer == "before":
        click.echo(f"{incident_id} was acknowledged before; nothing was changed")
    else:
        click.echo(f"acknowledged {incident_id}")


def delivery_states(run_id: str) -> list[dict[str, object]]:
    """Return the state of each target of a run, under stable names and without tokens."""
    try:
        states = _states(run_id)
    except RecordBroken as error:
        return [{"state": UNREADABLE, "error": str(error)}]
    return [
        {
            "what": state.part.what.value,
            "target": state.part.label,
            "state": state.state.value,
            "attempts": state.attempts,
            "error": state.error,
        }
        for state in states
    ]


def delivery_lines(run: Run) -> list[str]:
    """Return the state of each target of a run as lines for people; [] without a delivery."""
    try:
        states = _states(run.id)
    except RecordBroken as error:
        return [f"its delivery is {UNREADABLE}: {error}"]
    lines = [
        f"{state.part.what.value} to {state.part.label}: {state.state.value}"
        + (f" after {counted(state.attempts, 'attempt')}: {state.error}" if state.error else "")
        for state in states
    ]
    return [*lines, f"warning: {run.delivery_warning}"] if run.delivery_warning else lines


def _states(run_id: str) -> tuple[DeliveryPartState, ...]:
    return Deliveries(readable_database(read_settings())).get(run_id).parts or ()
