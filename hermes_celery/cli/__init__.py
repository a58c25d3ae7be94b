"""The `hermes-celery` command: a thin skin over `client.Client`.

Each command's module is imported only when that command is called, so that every command starts
fast. Errors go to stderr as one sentence that says what to do. The exit codes are in `exit_codes`.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import click
from click.core import ParameterSource

from hermes_celery.cli.commands import ADVICE, COMMANDS, MEANT
from hermes_celery.cli.exit_codes import exit_note
from hermes_celery.errors import HermesCeleryError, JobNotFound, ScriptNotRelative, cut, shown

_LONG_WORD = re.compile(r"[^\s'\"()]{200,}")


class Commands(click.Group):
    """Finds commands in the table `COMMANDS`, which has their help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all command names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"hermes_celery.cli.{module}"), name)
        command.epilog = exit_note(cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve the command name; refuse an unknown one and say what it may mean."""
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {shown(args[0])}.{_hint(args[0])}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn an error of ours into one sentence on stderr and exit code 1.

        An OSError about a file or directory is treated the same: nearly all of those are below the
        home.
        """
        try:
            done = super().invoke(ctx)
            # Flush here: at its own exit, Python would report a write error in its own words.
            sys.stdout.flush()
            return done
        except JobNotFound as error:
            raise _with_scope(f"{error}{_elsewhere()}") from None
        except HermesCeleryError as error:
            raise _with_scope(_text_of(error)) from None
        except click.ClickException as error:
            raise _of_click(error) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader closed the pipe, as `| head` does
            raise _Refused(_refused(error)) from None
        except RecursionError:
            raise _Refused("the given value is nested too deeply to be parsed") from None


def _hint(word: str) -> str:
    """Return what an unknown command may mean: a common word first, then the nearest spelling."""
    if word in ADVICE:
        return f" {ADVICE[word]}"
    meant = [MEANT[word]] if word in MEANT else get_close_matches(word, COMMANDS, n=1)
    return f" Is {meant[0]!r} meant?" if meant else ""


class _Refused(click.ClickException):
    """The error of a refused command, printed as wide as the terminal."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error on stderr; break its lines between words, never inside a command."""
        # Imported here to start fast: only a refusal needs it.
        from hermes_celery.cli.terminal import printable, terminal_width, wrapped

        width = terminal_width(is_error=True) if file is None else None
        for paragraph in printable(f"Error: {self.message}").split("\n"):
            for line in wrapped(paragraph, width=width):
                click.echo(line, file=file, err=file is None)


def _with_scope(text: str) -> click.ClickException:
    # Imported here to start fast: only a refusal needs it.
    from hermes_celery.cli.scope import with_scope

    return _Refused(with_scope(text))


def _of_click(error: click.ClickException) -> click.ClickException:
    """Return the error as it is printed: our own with the scope, click's with long words cut.

    To a usage error, click adds the usage line, and exits with 2.
    """
    if type(error) is click.ClickException:
        return _with_scope(error.message)
    if not isinstance(error, click.UsageError):
        return error
    text = error.format_message()
    if _LONG_WORD.search(text) is None:
        return error
    return click.UsageError(_LONG_WORD.sub(lambda word: cut(word[0]), text), ctx=error.ctx)


def _elsewhere() -> str:
    """Return a hint at the server's other namespaces; "" if there are none."""
    # The command that found no job has already imported all of this.
    from hermes_celery.cli.scope import read_settings as settings_of_command
    from hermes_celery.cli.store_access import other_namespaces

    named, others = settings_of_command().namespace, other_namespaces()
    if not others:
        return ""
    return f". This is namespace {named!r}; others on this server are {', '.join(others)} (-N NAME)"


def _text_of(error: HermesCeleryError) -> str:
    """Return the error's message; one about a script's path names this home's directory."""
    if not isinstance(error, ScriptNotRelative):
        return str(error)
    # The refused command has already imported this.
    from hermes_celery.cli.scope import read_settings as settings_of_command

    return error.text(str(settings_of_command().scripts_dir))


def _refused(error: OSError) -> str:
    if error.filename is None:
        if not _is_output_refused():
            return f"the operating system refuses what is needed: {error.strerror or error}"
        _drop_output()
        return f"the output cannot be written: {error.strerror or error}"
    # Imported here to start fast: only a refusal needs it.
    from hermes_celery.settings import FULL, read_settings

    home = read_settings().home
    is_below = Path(str(error.filename)).is_relative_to(home) and error.filename != str(home)
    advice = "; make room on that disk" if error.errno in FULL else ""
    where = f"; HERMES_HOME is {home}" if is_below else ""
    return f"{error.filename} cannot be used: {error.strerror}{advice}{where}"


def _is_output_refused() -> bool:
    """Return whether stdout takes no output; an error of a write does not name its file.

    What could not be written is still in the buffer. Without a buffer, stdout is taken to be at
    fault.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return isinstance(getattr(sys.stdout, "buffer", None), RawIOBase)


def _drop_output() -> None:
    """Send stdout to the null device, so that Python reports no write error of its own at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _checked_app(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    is_typed = ctx.get_parameter_source("app") is ParameterSource.COMMANDLINE
    if value is not None and not value.strip() and is_typed:
        raise click.BadParameter("the value is empty; name the app: shop or shop.celery:app")
    return value or None


def _checked_namespace(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    # Imported here to start fast: `--help` needs no settings.
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
    help="The namespace whose jobs the command is about; for a project, the name of its Celery "
    "app. Default: HERMES_CELERY_NAMESPACE, else the name of the app, else hermes.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@namespace_option
@click.option(
    "-A",
    "--app",
    metavar="APP",
    envvar="HERMES_CELERY_APP",
    callback=_checked_app,
    help="A project's Celery app, written as for `celery -A`: the command uses its broker, "
    "namespace and tasks. Default: HERMES_CELERY_APP, else no project.",
)
@click.version_option(package_name="hermes-celery", prog_name="hermes-celery")
@click.pass_context
def main(ctx: click.Context, namespace: str | None, app: str | None) -> None:
    """Cron for many machines, on Celery and Redis.

    Name a job by its id or its full name. Times are shown in your zone (HERMES_TIMEZONE, else the
    host's zone); `--json` prints them in UTC. Put `-N shop` or `-A shop` before the command to work
    on the jobs of the project `shop`.
    """
    # Imported here to start fast: this runs only once a command is named.
    from hermes_celery.cli.scope import Scope, about

    about(ctx, Scope(namespace=namespace, app=app))
