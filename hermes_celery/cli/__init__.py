"""The `hermes-celery` command: a thin skin over `client.Client`.

Commands are imported when they are called, so that each starts as fast as it can. Errors go to
stderr as one sentence that says what to do. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import IO, Any

import click
from click.core import ParameterSource

from hermes_celery.cli.commands import COMMANDS
from hermes_celery.errors import HermesCeleryError, JobNotFound


class Commands(click.Group):
    """Finds commands by the table; knows their help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"hermes_celery.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was named; a name that is none is answered with the nearest one."""
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            nearest = get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Is {nearest[0]!r} meant?" if nearest else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our own errors become one sentence on stderr and exit code 1.

        So does a file or directory that the system refuses: nearly all are below the home.
        """
        try:
            done = super().invoke(ctx)
            # What cannot be written is told here, and not as Python ends.
            sys.stdout.flush()
            return done
        except JobNotFound as error:
            raise _repeating(f"{error}{_elsewhere()}") from None
        except HermesCeleryError as error:
            raise _repeating(str(error)) from None
        except click.ClickException as error:
            if type(error) is not click.ClickException:
                raise  # how a command is used
            raise _repeating(error.message) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # `| head` has read enough
            raise _Refused(_refused(error)) from None
        except RecursionError:
            raise _Refused("what was given is nested too deeply to be read") from None


class _Refused(click.ClickException):
    """What is said of a command that was refused, as wide as the terminal."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on stderr; its lines end between words, and not inside of a command."""
        # Only what was refused needs it: `--help` does not.
        from hermes_celery.cli.terminal import printable, terminal_width, wrapped

        width = terminal_width(is_error=True) if file is None else None
        for paragraph in printable(f"Error: {self.message}").split("\n"):
            for line in wrapped(paragraph, width=width):
                click.echo(line, file=file, err=file is None)


def _repeating(text: str) -> click.ClickException:
    # Only what was refused needs it: `--help` does not.
    from hermes_celery.cli.scope import repeating

    return _Refused(repeating(text))


def _elsewhere() -> str:
    """Where else a job may be that is not here; "" where there are no other namespaces."""
    # The command that found no job has imported all of this.
    from hermes_celery.cli.scope import read_settings as settings_of_command
    from hermes_celery.cli.store_access import other_namespaces

    named, others = settings_of_command().namespace, other_namespaces()
    if not others:
        return ""
    return f". This is namespace {named!r}; others on this server are {', '.join(others)} (-N NAME)"


def _refused(error: OSError) -> str:
    if error.filename is None:
        _drop_output()
        return f"the output cannot be written: {error.strerror or error}"
    # Only what was refused needs it: `--help` does not.
    from hermes_celery.settings import read_settings

    home = read_settings().home
    advice = f"; HERMES_HOME is {home}" if str(error.filename).startswith(str(home)) else ""
    return f"{error.filename} cannot be used: {error.strerror}{advice}"


def _drop_output() -> None:
    """Let Python find nothing to write when it ends: it would say so in words of its own."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _checked_app(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    is_typed = ctx.get_parameter_source("app") is ParameterSource.COMMANDLINE
    if value is not None and not value.strip() and is_typed:
        raise click.BadParameter("it is empty; name the app, such as shop or shop.celery:app")
    return value or None


def _checked_namespace(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    # Only a given name is checked: `--help` needs no settings.
    from hermes_celery.settings import checked_namespace

    try:
        return checked_namespace(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


namespace_option = click.option(
    "-N",
    "--namespace",
    metavar="NAME",
    callback=_checked_namespace,
    help="Whose jobs: a project's app name. Default: HERMES_CELERY_NAMESPACE, the app's, hermes.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@namespace_option
@click.option(
    "-A",
    "--app",
    metavar="APP",
    envvar="HERMES_CELERY_APP",
    callback=_checked_app,
    help="The Celery app of a project, as `celery -A` takes it: its broker, namespace and tasks.",
)
@click.version_option(package_name="hermes-celery", prog_name="hermes-celery")
@click.pass_context
def main(ctx: click.Context, namespace: str | None, app: str | None) -> None:
    """Cron for many machines, on Celery and Redis.

    Jobs are named by their id or their whole name. Times are shown in your zone (HERMES_TIMEZONE,
    else the host's); `--json` gives them in UTC. `-N shop` and `-A shop`, before the command, are
    about the jobs of the project `shop`.
    """
    # Once a command was named: `--help` needs no settings.
    from hermes_celery.cli.scope import Scope, about

    about(ctx, Scope(namespace=namespace, app=app))
