"""Check that this user may use all commands, keys and channels that hermes-celery needs.

Redis does not roll a script back. Without the right to one of its commands, a script would stop
halfway and silently leave a job without its message or index entry. So beat, worker and `doctor`
try every command at start, and refuse to go on with one list of all that is missing.

A server checks permissions before arguments. So each command is tried on a scratch string that
expires by itself; there it is refused for the type, or changes nothing. That needs no right to the
ACL commands, works on Redis 6.2 as on Valkey 9, and leaves nothing behind even without the right to
DEL. The keys themselves are tried with a GET, and a ZREM of a member that does not exist.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec
import redis

from hermes_celery.core.server_address import BrokerNames
from hermes_celery.errors import StoreUnsuitable
from hermes_celery.store.database import Database, wrapped
from hermes_celery.store.keys import Keys

#: Placeholders in probes: the scratch string, a missing key, and the wake-up channel.
_KEY, _NO_KEY, _CHANNEL = "<key>", "<no key>", "<channel>"
_TTL_SECONDS = "60"
_SHA = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"  # of "return 1"

#: Each command with the arguments of its probe: first those of our scripts and Python code.
PROBES: Mapping[str, tuple[str, ...]] = {
    "APPEND": (_KEY, ""),
    "DEL": (_NO_KEY,),
    "EVAL": ("return 1", "0"),
    "EVALSHA": (_SHA, "0"),
    "EXISTS": (_KEY,),
    "EXPIRE": (_KEY, _TTL_SECONDS),
    "GET": (_KEY,),
    "GETRANGE": (_KEY, "0", "0"),
    "HDEL": (_KEY, "f"),
    "HEXISTS": (_KEY, "f"),
    "HGET": (_KEY, "f"),
    "HGETALL": (_KEY,),
    "HINCRBY": (_KEY, "f", "1"),
    "HKEYS": (_KEY,),
    "HLEN": (_KEY,),
    "HMGET": (_KEY, "f"),
    "HSET": (_KEY, "f", "v"),
    "HSETNX": (_KEY, "f", "v"),
    "HSTRLEN": (_KEY, "f"),
    "HVALS": (_KEY,),
    "INCR": (_KEY,),
    "INFO": ("server",),
    "LINDEX": (_KEY, "0"),
    "LLEN": (_KEY,),
    "LPOP": (_KEY,),
    "LPUSH": (_KEY, "v"),
    "LRANGE": (_KEY, "0", "0"),
    "LREM": (_KEY, "0", "v"),
    "LTRIM": (_KEY, "0", "0"),
    "PERSIST": (_NO_KEY,),
    "PEXPIRE": (_KEY, f"{_TTL_SECONDS}000"),
    "PING": (),
    "PTTL": (_KEY,),
    "PUBLISH": (_CHANNEL, "selftest"),
    "PUBSUB NUMSUB": (_CHANNEL,),
    "RENAME": (_NO_KEY, _NO_KEY),
    "RPUSH": (_KEY, "v"),
    "SADD": (_KEY, "m"),
    "SCAN": ("0", "COUNT", "1"),
    "SCARD": (_KEY,),
    "SCRIPT EXISTS": (_SHA,),
    "SCRIPT LOAD": ("return 1",),
    "SET": (_KEY, "x", "EX", _TTL_SECONDS),
    "SETNX": (_KEY, "x"),
    "SMEMBERS": (_KEY,),
    "SPOP": (_KEY,),
    "SRANDMEMBER": (_KEY,),
    "SREM": (_KEY, "m"),
    "STRLEN": (_KEY,),
    "TIME": (),
    "TTL": (_KEY,),
    "TYPE": (_KEY,),
    "ZADD": (_KEY, "0", "m"),
    "ZCARD": (_KEY,),
    "ZCOUNT": (_KEY, "0", "0"),
    "ZLEXCOUNT": (_KEY, "-", "+"),
    "ZMSCORE": (_KEY, "m"),
    "ZRANGE": (_KEY, "0", "0"),
    "ZRANGEBYLEX": (_KEY, "-", "+"),
    "ZRANGEBYSCORE": (_KEY, "0", "0"),
    "ZRANK": (_KEY, "m"),
    "ZREM": (_KEY, "m"),
    "ZREMRANGEBYSCORE": (_KEY, "0", "0"),
    "ZREVRANGE": (_KEY, "0", "0"),
    "ZREVRANGEBYLEX": (_KEY, "+", "-"),
    "ZREVRANGEBYSCORE": (_KEY, "0", "0"),
    "ZREVRANK": (_KEY, "m"),
    "ZSCORE": (_KEY, "m"),
    # Commands of kombu.
    "BRPOP": (_KEY, "0.01"),
    "RPOP": (_KEY,),
    "WATCH": (_KEY,),
    "UNWATCH": (),
    "EXEC": (),
    "MULTI": (),
}
#: Tried by a real subscription, because a pipeline cannot subscribe.
SUBSCRIBING = ("SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE")
#: The names of all commands that a user needs.
COMMANDS = frozenset((*PROBES, *SUBSCRIBING))
#: Commands that would create a key if the scratch string is missing.
_MAKES = frozenset(
    ("APPEND", "HINCRBY", "HSET", "HSETNX", "INCR", "LPUSH", "RPUSH", "SADD", "SETNX", "ZADD")
)
#: An example of each kind of kombu key, with the pattern that allows it.
_KOMBU_KEYS: Mapping[str, str] = {
    "_kombu.binding_deadlines": "_kombu.binding*",
    "selftest.reply.celery.pidbox": "*.celery.pidbox*",
    "celeryev.selftest": "celeryev.*",
}
#: How kombu subscribes, and to which channels (after the prefix of broadcasts). The ACL must
#: contain a subscribed pattern literally.
_KOMBU_CHANNELS: Sequence[tuple[str, str]] = (
    ("PSUBSCRIBE", "celery.pidbox"),
    ("PSUBSCRIBE", "celeryev/worker.*"),
    ("SUBSCRIBE", "celeryev/task.multi"),
)
_COMMAND = re.compile(r"run the '([\w|]+)'")


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """The rights that a user lacks, in the syntax of `ACL SETUSER`."""

    user: str
    #: The server that knows this user, for messages.
    of: str = "the server"
    commands: Sequence[str] = ()
    keys: Sequence[str] = ()
    channels: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.commands or self.keys or self.channels)

    def __str__(self) -> str:
        lacks = [
            f"{what} {', '.join(names)}"
            for what, names in (
                ("run", [command.upper() for command in self.commands]),
                ("use keys", self.keys),
                ("use channels", self.channels),
            )
            if names
        ]
        rule = " ".join((*(_as_rule(name) for name in self.commands), *self.keys, *self.channels))
        return (
            f"{self.of}'s user {self.user!r} may not {' nor '.join(lacks)}, and all of that is "
            f"needed; ask an administrator of {self.of} to run: ACL SETUSER {self.user} {rule}"
        )


def refuse_missing(
    database: Database, *, queues: Iterable[str], names: BrokerNames | None = None
) -> None:
    """Check all rights that beats and workers of this namespace and these queues need.

    `names` are the names of Celery's keys, if they are not the usual ones. Raises StoreUnsuitable
    with a list of all missing rights.
    """
    missing = look_for_missing(database, queues=queues, names=names)
    if missing:
        raise StoreUnsuitable(str(missing))


def look_for_missing(
    database: Database, *, queues: Iterable[str], names: BrokerNames | None = None
) -> Missing:
    """Return the rights that this user lacks. Raises StoreUnavailable."""
    names = names or BrokerNames()
    pool = database.client.connection_pool
    settings = pool.connection_kwargs
    user = str(settings.get("username") or "default")
    with wrapped():
        try:
            commands = _commands(database)
            keys = _keys(database, queues, names)
            channels, subscribing = _channels(database, names, number=settings.get("db") or 0)
        except redis.exceptions.NoPermissionError as error:
            # Refused while connecting: SELECT, or a question to a Sentinel.
            named = _COMMAND.search(str(error))
            command = named[1] if named else "@connection"
            if command.startswith("sentinel") and hasattr(pool, "sentinel_manager"):
                asking = pool.sentinel_manager.sentinel_kwargs.get("username") or "default"
                return Missing(user=str(asking), of="each Sentinel", commands=[command])
            return Missing(user=user, commands=[command])
    return Missing(
        user=user, commands=sorted((*commands, *subscribing)), keys=keys, channels=channels
    )


def _commands(database: Database) -> list[str]:
    scratch = f"{database.keys.prefix}selftest:{secrets.token_hex(8)}"
    known = {_KEY: scratch, _NO_KEY: f"{scratch}:none", _CHANNEL: database.keys.wake}

    def tried(names: Iterable[str]) -> list[str]:
        wanted = list(names)
        probes = [
            (*name.split(), *(known.get(part, part) for part in PROBES[name])) for name in wanted
        ]
        answers = _answers(database, probes)
        return [
            name
            for name, answer in zip(wanted, answers, strict=True)
            if answer is not None and _is_of_command(answer)
        ]

    if tried(["SET"]):
        missing = ["SET", *tried(name for name in PROBES if name not in _MAKES | {"SET"})]
    else:
        missing = tried(PROBES)
    _answers(database, [("DEL", scratch)])
    return missing


def _keys(database: Database, queues: Iterable[str], broker: BrokerNames) -> list[str]:
    """Return the patterns of keys that this user may not read and write."""
    prefix = broker.prefix
    allowing = {
        f"{prefix}{name}": f"~{prefix}*" if prefix else f"~{pattern}"
        for name, pattern in _KOMBU_KEYS.items()
    }
    for name in broker.unacked:
        # One pattern covers names with the same beginning, as the usual names have.
        first = min((one for one in broker.unacked if name.startswith(one)), key=len)
        allowing[f"{prefix}{name}"] = f"~{prefix}*" if prefix else f"~{first}*"
    # Every dispatching script lists the namespace's default queue in its KEYS, used or not.
    for queue in (database.keys.default_queue, *queues):
        is_ours = queue.startswith(database.keys.prefix)
        pattern = database.keys.prefix if is_ours else queue
        if prefix and queue.startswith(prefix):
            pattern = prefix
        allowing[queue] = f"~{pattern}*"
        bare = queue.removeprefix(prefix)
        binding = f"{prefix}*" if prefix else "_kombu.binding*"
        allowing[f"{prefix}_kombu.binding.{bare}"] = f"~{binding}"
    allowing.update(dict.fromkeys(_stored(database.keys), f"~{database.keys.prefix}*"))
    names, nobody = list(allowing), secrets.token_hex(8)
    probes = [probe for name in names for probe in (("GET", name), ("ZREM", name, nobody))]
    answers = _answers(database, probes)
    refused = [
        allowing[name]
        for number, name in enumerate(names)
        if any(
            answer is not None and not _is_of_command(answer)
            for answer in answers[2 * number : 2 * number + 2]
        )
    ]
    return list(dict.fromkeys(refused))


def _stored(keys: Keys) -> list[str]:
    """Return one key of each kind that we store."""
    single = [getattr(keys, field.name) for field in fields(keys) if not field.init]
    of_one: list[Callable[[str], str]] = [
        keys.job, keys.run, keys.active, keys.held, keys.output, keys.stderr, keys.managed,
        keys.group, keys.delivery, keys.incident, keys.troubles, keys.idempotency,
    ]  # fmt: skip
    return [*(name for name in single if name != keys.prefix), *(one("selftest") for one in of_one)]


def _channels(
    database: Database, broker: BrokerNames, *, number: int
) -> tuple[list[str], list[str]]:
    """Return the channels, and the subscribing commands, that this user may not use."""
    before = f"{broker.prefix}{broker.fanout.replace('{db}', str(number))}"
    wanted = [("SUBSCRIBE", database.keys.wake)]
    wanted += [(command, f"{before}{name}") for command, name in _KOMBU_CHANNELS]
    channels, commands = [], []
    for command, channel in wanted:
        for answer, tried in _subscribed(database, command, channel):
            if _is_of_command(answer):
                commands.append(tried)
            else:
                channels.append(f"&{channel}")
    if any(channel.startswith(f"&{before}celeryev/task") for channel in channels):
        channels = [c for c in channels if "celeryev/task" not in c] + [f"&{before}celeryev/*"]
    return list(dict.fromkeys(channels)), list(dict.fromkeys(commands))


def _subscribed(database: Database, command: str, channel: str) -> list[tuple[str, str]]:
    """Subscribe and unsubscribe; return each refusal with its command."""
    subscription = database.client.pubsub()
    refused = []
    for name in (command, command.replace("SUBSCRIBE", "UNSUBSCRIBE")):
        try:
            getattr(subscription, name.lower())(channel)
            subscription.get_message(timeout=1)
        except redis.exceptions.NoPermissionError as error:
            refused.append((str(error), name))
            break
    subscription.close()
    return refused


def _answers(database: Database, commands: Sequence[Sequence[str]]) -> list[str | None]:
    """Run commands in one round trip; return each refusal for lack of permission, else None.

    The connection is closed afterwards, because it may be inside a transaction.
    """
    pool = database.client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_refusal(connection) for _ in commands]
    finally:
        connection.disconnect()
        pool.release(connection)


def _refusal(connection: Any) -> str | None:
    try:
        connection.read_response()
    except redis.exceptions.NoPermissionError as error:
        return str(error)
    except redis.exceptions.ResponseError as error:
        # EXEC wraps a NOPERM. Any other refusal is about arguments, so the command is permitted.
        return str(error) if "NOPERM" in str(error) else None
    return None


def _is_of_command(refusal: str) -> bool:
    """Return whether a refusal is about the command, not about a key or channel."""
    return _COMMAND.search(refusal) is not None


def _as_rule(command: str) -> str:
    return "+" + command.lower().replace(" ", "|")
