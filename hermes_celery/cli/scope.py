"""The scope of a command: the namespace and the project that it is about.

`-N/--namespace` and `-A/--app` before the command set it. Without them it is the environment's
namespace, else `hermes`. `-A` imports a Celery app as `celery -A` does, with the working directory
on the path, and uses its broker, its namespace and its tasks' queues.

Every command imports this module, also those that need no server (`next`, `explain`). The store
and the composition root are therefore imported only where they are needed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import click

from hermes_celery.celery_app import project_app
from hermes_celery.cli.commands import COMMANDS
from hermes_celery.settings import Settings, default_timezone, process_environment
from hermes_celery.settings import read_settings as settings_of_environment

if TYPE_CHECKING:
    from hermes_celery.celery_app.types import Celery
    from hermes_celery.core.server_address import BrokerNames
    from hermes_celery.store import Database


@dataclass(frozen=True)
class Scope:
    """The options given before the command; nothing is imported until the command needs it."""

    #: None: the namespace of the app or the environment.
    namespace: str | None = None
    #: A project's app, written as for `celery -A`; None: no project.
    app: str | None = None
    #: Whether the command was called as `celery cron ...`, and the app that Celery then found.
    is_below_celery: bool = False
    found: Celery | None = None

    @cached_property
    def project(self) -> Celery | None:
        """The project's app. Raises SettingsError when no app has that name."""
        if self.is_below_celery:
            return project_app.app_found_by_celery(self.found, named=self.app)
        return project_app.find(self.app) if self.app else None

    @cached_property
    def settings(self) -> Settings:
        """The settings of this scope. Raises SettingsError."""
        settings = settings_of_environment()
        if self.namespace is not None:
            settings = replace(settings, namespace=self.namespace, is_namespace_given=True)
        if self.project is None:
            return settings
        # Imported here to start fast: it imports the store.
        from hermes_celery.celery_app.app_settings import app_settings

        self.project.conf.hermes_settings = settings
        return app_settings(self.project)


#: The key in `Context.meta`. `Context.obj` is Celery's own below `celery cron`.
_META = "hermes_celery.scope"


def about(context: click.Context, scope: Scope) -> None:
    """Set the scope of the commands below a context, and whether they print in color."""
    if process_environment().get("NO_COLOR"):
        context.color = False
    context.meta[_META] = scope


def _scope() -> Scope:
    context = click.get_current_context(silent=True)
    found = None if context is None else context.meta.get(_META)
    return found if isinstance(found, Scope) else Scope()


def read_settings() -> Settings:
    """Return the settings of the command's scope. Raises SettingsError."""
    return _scope().settings


def project() -> Celery | None:
    """Return the app of `-A`, or None. Raises SettingsError."""
    return _scope().project


def kept_by_broker(database: Database, settings: Settings) -> BrokerNames:
    """Return the names of the keys that kombu keeps on the server.

    They are known for the app of `-A`, and for our own app otherwise.
    """
    if settings.broker_names.exchanges or settings.is_namespace_given:
        return settings.broker_names
    # Imported here to start fast: it imports the store.
    from hermes_celery.store.shared_keys import own_broker_names

    return own_broker_names(database.keys)


def default_zone() -> str:
    """Return the zone of jobs that name none.

    Raises SettingsError, and JobError when the app's zone is unknown.
    """
    app = project()
    if app is None:
        return default_timezone()
    # Imported here to start fast: it imports the store.
    from hermes_celery.celery_app.app_settings import default_zone as zone_of_project

    return zone_of_project(read_settings(), app)


def given_app() -> str | None:
    """Return the value of `-A`, or None."""
    return _scope().app


#: Matches a command in a sentence, with the namespace that the command itself may name.
_COMMAND = re.compile(r"\bhermes-celery (-N \S+ )?(?=[a-z])")


def with_scope(text: str) -> str:
    """Add the `-A` and `-N` of this command to every command named in a sentence.

    Advice on what to type next is then about the same app and namespace.
    """

    if click.get_current_context(silent=True) is None:
        return text

    def with_options(found: re.Match[str]) -> str:
        if re.match(r"\w+", text[found.end() :])[0] not in COMMANDS:  # type: ignore[index]
            return found[0]
        scope = _scope()
        app = f"-A {shlex.quote(scope.app)} " if scope.app else ""
        named = f"-N {shlex.quote(scope.namespace)} " if scope.namespace else ""
        begin = f"celery {app}cron " if scope.is_below_celery else f"hermes-celery {app}"
        return f"{begin}{found[1] or named}"

    return _COMMAND.sub(with_options, text)
