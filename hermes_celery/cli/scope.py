"""What `-N/--namespace` and `-A/--app` before a verb mean: whose jobs the verb is about.

Without them it is the environment's namespace, `hermes` where that names none. `-A` imports a
Celery app as `celery -A` does, with the working directory on the path, and takes its broker, its
namespace and its tasks' queues.

It is read before every verb, also those that ask no server (`next`, `explain`): the store and the
composition root are imported by what needs them.
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
    """What was given before the verb; nothing is imported before a verb asks for it."""

    #: None: as the app or the environment says.
    namespace: str | None = None
    #: As `celery -A` takes it; None: no project's.
    app: str | None = None
    #: Whether the verb stands below Celery's own command line, and the app that this has found.
    is_below_celery: bool = False
    found: Celery | None = None

    @cached_property
    def project(self) -> Celery | None:
        """The project's app. Raises SettingsError where there is none of that name."""
        if self.is_below_celery:
            return project_app.app_found_by_celery(self.found, named=self.app)
        return project_app.find(self.app) if self.app else None

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises SettingsError."""
        settings = settings_of_environment()
        if self.namespace is not None:
            settings = replace(settings, namespace=self.namespace, is_namespace_given=True)
        if self.project is None:
            return settings
        # It imports the store, which a verb without -A may not need.
        from hermes_celery.celery_app.app_settings import app_settings

        self.project.conf.hermes_settings = settings
        return app_settings(self.project)


#: Not `Context.obj`, which is Celery's where a verb stands below its command line.
_META = "hermes_celery.scope"


def about(context: click.Context, scope: Scope) -> None:
    """Say what the verbs below a context are about, and whether they print in colors."""
    if process_environment().get("NO_COLOR"):
        context.color = False
    context.meta[_META] = scope


def _scope() -> Scope:
    context = click.get_current_context(silent=True)
    found = None if context is None else context.meta.get(_META)
    return found if isinstance(found, Scope) else Scope()


def read_settings() -> Settings:
    """The settings of what the command is about. Raises SettingsError."""
    return _scope().settings


def project() -> Celery | None:
    """The app of `-A`. Raises SettingsError."""
    return _scope().project


def kept_by_broker(database: Database, settings: Settings) -> BrokerNames:
    """What kombu keeps on the server: for the app of `-A`, else for ours; else nothing is known."""
    if settings.broker_names.exchanges or settings.is_namespace_given:
        return settings.broker_names
    # The store is slow to import, and most commands have it anyhow.
    from hermes_celery.store.shared_keys import own_broker_names

    return own_broker_names(database.keys)


def default_zone() -> str:
    """The zone of jobs that name none. Raises SettingsError, and JobError of the app's."""
    app = project()
    if app is None:
        return default_timezone()
    # As above.
    from hermes_celery.celery_app.app_settings import default_zone as zone_of_project

    return zone_of_project(read_settings(), app)


def given_app() -> str | None:
    """What `-A` was given."""
    return _scope().app


#: A command among the words of a sentence, and the namespace that it names itself.
_COMMAND = re.compile(r"\bhermes-celery (-N \S+ )?(?=[a-z])")


def repeating(text: str) -> str:
    """A sentence whose commands begin with the `-A` and `-N` that this one was given.

    What tells somebody what to type next is about the same app and namespace.
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
