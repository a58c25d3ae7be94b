"""Builds the connection to the store's server from the settings, and checks it."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Collection

from hermes_celery.errors import (
    FormatTooNew,
    RecordBroken,
    SettingsError,
    StoreUnavailable,
    StoreUnsuitable,
)
from hermes_celery.events import event
from hermes_celery.settings import Settings, address_of, check_home
from hermes_celery.store import Database, Formats, connect, refuse_missing
from hermes_celery.store.keys import Keys

_log = logging.getLogger(__name__)
#: An error of redis-py: the number of the system's error, the address, and the reason.
_CONNECTING = re.compile(r"Error (-?\d+) connecting to .+\. (.+?)\.?$")


def open_database(settings: Settings) -> Database:
    """Return the store; it connects when first used. Raises StoreUnsuitable or SettingsError."""
    return Database(connect(address_of(settings)), keys=Keys(namespace=settings.namespace))


def reachable_database(settings: Settings, *, queues: Collection[str] | None = None) -> Database:
    """Return the store, checked for reading and writing; with `queues`, also its permissions.

    Raises StoreUnavailable or StoreUnsuitable (among them FormatTooNew), each with what to do.
    """
    database = _serving_database(settings, queues=queues)
    try:
        Formats(database).require()
    except RecordBroken as error:
        # One invalid key stops no program; the leader moves it to quarantine.
        event(_log, "format.broken", level=logging.WARNING, why=error)
    return database


def readable_database(settings: Settings) -> Database:
    """Return the store for reading only; a newer stored format is logged as a warning.

    Raises StoreUnavailable or StoreUnsuitable.
    """
    database = _serving_database(settings, queues=None)
    try:
        Formats(database).require()
    except (FormatTooNew, RecordBroken) as error:
        event(_log, "format.unsure", level=logging.WARNING, why=error)
    return database


def _serving_database(settings: Settings, *, queues: Collection[str] | None) -> Database:
    database = open_database(settings)
    try:
        if queues is not None:
            refuse_missing(database, queues=queues, names=settings.broker_names)
        database.check()
    except StoreUnavailable as error:
        raise StoreUnavailable(unreachable(settings, error)) from None
    except StoreUnsuitable as error:
        address = address_of(settings)
        named = " and ".join(dict.fromkeys((address.named, address.tls_named)))
        of = f", of {named}," if settings.address else ""
        raise StoreUnsuitable(
            f"the server at {address.shown}{of} cannot be used: {error}"
        ) from None
    return database


def unreachable(settings: Settings, error: StoreUnavailable) -> str:
    """Return the message for people when no server answers, with advice."""
    address = address_of(settings)
    if settings.address is not None:
        named = " and ".join(dict.fromkeys((address.named, address.tls_named)))
        advice = f"start it, or correct {named}"
    elif settings.redis_url:
        advice = (
            "start it, or unset HERMES_REDIS_URL to use the embedded Valkey of `hermes-celery up`"
        )
    elif unusable := _unusable_home(settings):
        return unusable
    else:
        advice = _advice_for_embedded(settings, error)
    return f"no Redis at {address.shown} ({_reason(error)}); {advice}"


def went_away(settings: Settings, error: StoreUnavailable) -> str:
    """Return what to say, without advice, when a server that answered before answers no more."""
    return f"the Redis at {address_of(settings).shown} answers no more ({_reason(error)})"


def _reason(error: StoreUnavailable) -> str:
    """Return the reason in an error of redis-py, which repeats the address."""
    return _CONNECTING.sub(r"\2", str(error))


def _unusable_home(settings: Settings) -> str:
    """Return what is wrong with a home that no server of ours can have; "" for a usable one."""
    try:
        check_home(settings)
    except SettingsError as error:
        return str(error)
    return ""


def _advice_for_embedded(settings: Settings, error: StoreUnavailable) -> str:
    refused = _CONNECTING.fullmatch(str(error))
    home = f"the {'default ' if settings.is_default_home else ''}home {settings.home}"
    if refused is None or int(refused[1]) not in (errno.ENOENT, errno.ECONNREFUSED):
        return (
            f"this is the server of `hermes-celery up` on {home}: start it again, or set "
            "HERMES_REDIS_URL to a Redis of yours"
        )
    return (
        f"no server of `hermes-celery up` runs on {home}: if it runs on another home, "
        "`export HERMES_HOME=...` here too; otherwise start `hermes-celery up`, or set "
        "HERMES_REDIS_URL to a Redis of yours"
    )
