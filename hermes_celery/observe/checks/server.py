"""Check the store's server: whether it answers, keeps its data, and has room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hermes_celery.core.readable import readable
from hermes_celery.delivering.overload import NEARLY_FULL, memory_text
from hermes_celery.errors import FormatTooNew, RecordBroken
from hermes_celery.observe.finding import Finding, fail, ok, warn
from hermes_celery.settings import Settings
from hermes_celery.store import CANNOT_SAVE, FORMAT, Database, Formats, QueueLoad, refuse_missing


def check_server(database: Database, settings: Settings, *, address: str) -> Finding:
    """Report which server answers. Raises StoreError if it cannot be used."""
    keys, names = database.keys, settings.broker_names
    queues = names.queues or {keys.default_queue, keys.delivery_queue}
    refuse_missing(database, queues=queues, names=names)
    database.check()
    return ok("server", f"{database.version} at {address}")


def check_format(database: Database) -> Finding:
    """Report whether this program can read the stored format, and which older ones are there."""
    formats = Formats(database)
    try:
        stored = formats.require()
    except FormatTooNew as error:
        return fail("format", str(error))
    except RecordBroken as error:
        return fail("format", f"{error.key} {error.what}; start a beat: its leader quarantines "
                     "the key and writes it again")  # fmt: skip
    text = f"{stored.format} is stored, this program writes {FORMAT}"
    if stored.to is not None:
        text += f"; a migration to {stored.to} is under way"
    older = formats.older_than(FORMAT, now_ms=database.now_ms())
    return ok(
        "format", f"{text}; older programs: {', '.join(map(readable, older))}" if older else text
    )


def check_persistence(database: Database) -> Iterator[Finding]:
    """Report what a crash of the server would lose, and whether it can write to its disk."""
    load = QueueLoad(database)
    if load.keeps_a_log():
        yield ok("persistence", "append-only file is on")
    else:
        yield warn("persistence", "append-only file is off: a crash of the server loses jobs and "
                    "runs since its last snapshot; CONFIG SET appendonly yes")  # fmt: skip
    if load.cannot_save():
        yield fail("disk", CANNOT_SAVE)


def check_memory(database: Database) -> Iterator[Finding]:
    """Report whether the server has memory left, and whether it may evict jobs."""
    load = QueueLoad(database)
    used, most = load.memory()
    if most and used / most > NEARLY_FULL:
        yield fail("memory", memory_text(used, most))
    policy = load.eviction()
    if not policy:
        yield ok("memory", f"{used / 2**20:.2f}M used, nothing is evicted")
    else:
        yield fail("memory", f"maxmemory-policy is {policy}: the server may evict jobs; "
                    "CONFIG SET maxmemory-policy noeviction")  # fmt: skip


def check_neighbours(namespace: str, others: Sequence[str]) -> Iterator[Finding]:
    """Report the other namespaces on this server, which the other checks do not cover."""
    if others:
        yield ok("namespace", f"this is {namespace!r}; others on this server are "
                 f"{', '.join(others)}: hermes-celery -N {others[-1]} doctor")  # fmt: skip
