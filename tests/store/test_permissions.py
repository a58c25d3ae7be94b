"""Tests that all missing rights of a Redis user are named at start, and no key is left behind."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from hermes_celery.core.server_address import BrokerNames
from hermes_celery.errors import StoreUnsuitable
from hermes_celery.store import Database, connect, refuse_missing
from hermes_celery.store.keys import Keys
from hermes_celery.store.permissions import COMMANDS, PROBES, Missing, look_for_missing
from tests.acl import documented_rules, user

PACKAGE = Path(__file__).parents[2] / "hermes_celery"


def as_rule(command: str) -> str:
    return "+" + command.lower().replace(" ", "|")


@contextmanager
def database_of(
    url: str, namespace: str, *, without: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> Iterator[Database]:
    """Yield a namespace as a user with all documented rules but some."""
    rules = [rule for rule in documented_rules(namespace) if rule not in without]
    with user(url, [*rules, *extra]) as its_url:
        database = Database(connect(its_url), keys=Keys(namespace=namespace))
        yield database
        database.close()


def missing(database: Database) -> Missing:
    keys = database.keys
    return look_for_missing(database, queues=[keys.default_queue, keys.delivery_queue])


def leftovers(database: Database) -> list[str]:
    return list(database.call("KEYS", f"{database.keys.prefix}*"))


def test_the_documented_rules_suffice_and_match_the_table(
    valkey_url: str, valkey: Database, namespace: str
) -> None:
    with database_of(valkey_url, namespace) as database:
        assert not missing(database)
        refuse_missing(database, queues=[namespace])
        database.check()
    assert leftovers(valkey) == []
    rules = {rule for rule in documented_rules(namespace) if rule.startswith("+")}
    assert rules == {as_rule(command) for command in COMMANDS}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_missing_command_is_named(
    valkey_url: str, valkey: Database, namespace: str, command: str
) -> None:
    with database_of(valkey_url, namespace, without=(as_rule(command),)) as database:
        found = missing(database)
        assert (found.commands, found.keys, found.channels) == ([command], [], [])
        with pytest.raises(StoreUnsuitable, match=f"may not run {command},") as error:
            refuse_missing(database, queues=[namespace])
    assert str(error.value).endswith(as_rule(command))
    # Without DEL the scratch string expires by itself.
    left = leftovers(valkey)
    assert bool(left) == (command == "DEL")
    for key in left:
        assert 0 < valkey.call("TTL", key) <= 60


def test_all_missing_rights_are_named_at_once(
    valkey_url: str, valkey: Database, namespace: str
) -> None:
    lost = ("+hvals", "+zadd", "+set", "~_kombu.binding*", "&/0.celery.pidbox")
    with database_of(valkey_url, namespace, without=lost) as database:
        with pytest.raises(StoreUnsuitable) as error:
            refuse_missing(database, queues=[namespace])
        name = database.client.connection_pool.connection_kwargs["username"]
    text = str(error.value)
    # Without SET, a probe of ZADD would leave a key; ZADD is named once SET is allowed.
    assert "may not run HVALS, SET nor use keys ~_kombu.binding* nor use channels" in text
    assert text.endswith(f"ACL SETUSER {name} +hvals +set ~_kombu.binding* &/0.celery.pidbox")
    assert leftovers(valkey) == []


@pytest.mark.parametrize(
    "pattern",
    ["~{N}:*", "~N*", "~_kombu.binding*", "~unacked*", "~*.celery.pidbox*", "~celeryev.*"],
)
def test_forbidden_keys_are_named(valkey_url: str, namespace: str, pattern: str) -> None:
    pattern = pattern.replace("N", namespace)
    with database_of(valkey_url, namespace, without=(pattern,)) as database:
        found = missing(database)
    assert (found.commands, found.keys) == ([], [pattern])


def test_custom_broker_key_names_are_named_and_suffice_when_allowed(
    valkey_url: str, namespace: str
) -> None:
    names = BrokerNames(unacked=["mine", "idx", "mtx"])
    with database_of(valkey_url, namespace) as database:
        found = look_for_missing(database, queues=[namespace], names=names)
    assert found.keys == ["~mine*", "~idx*", "~mtx*"]
    with database_of(valkey_url, namespace, extra=tuple(found.keys)) as database:
        refuse_missing(database, queues=[namespace], names=names)


def test_a_key_that_may_only_be_read_counts_as_forbidden(
    valkey_url: str, valkey: Database, namespace: str
) -> None:
    if valkey.version.startswith("Redis 6"):
        pytest.skip("Redis 6.2 has no read-only key rules")
    pattern = f"~{{{namespace}}}:*"
    extra = (f"%R{pattern}",)
    with database_of(valkey_url, namespace, without=(pattern,), extra=extra) as database:
        assert missing(database).keys == [pattern]


@pytest.mark.parametrize(
    "channel", ["&{N}:wake", "&/0.celery.pidbox", "&/0.celeryev/worker.*", "&/0.celeryev/*"]
)
def test_forbidden_channels_are_named(valkey_url: str, namespace: str, channel: str) -> None:
    channel = channel.replace("N", namespace)
    with database_of(valkey_url, namespace, without=(channel,)) as database:
        found = missing(database)
    assert (found.commands, found.channels) == ([], [channel])


def test_a_further_queue_is_checked(valkey_url: str, namespace: str) -> None:
    with database_of(valkey_url, namespace) as database:
        found = look_for_missing(database, queues=[namespace, "gpu"])
    assert found.keys == ["~gpu*"]


def test_every_probe_has_a_valid_number_of_arguments(valkey: Database) -> None:
    """A server checks the number first: a probe that fails there would prove nothing."""
    for command, arguments in PROBES.items():
        filled = [valkey.keys.prefix + "probe" if "<" in part else part for part in arguments]
        pipe = valkey.client.pipeline(transaction=False)
        if command in ("EXEC", "MULTI", "WATCH", "UNWATCH"):
            continue  # redis-py sends these itself
        pipe.execute_command(*command.split(), *filled)
        (answer,) = pipe.execute(raise_on_error=False)
        if isinstance(answer, redis.exceptions.ResponseError):
            assert "wrong number of arguments" not in str(answer), command
            assert "unknown command" not in str(answer), command
    for key in leftovers(valkey):
        valkey.call("DEL", key)


def test_the_table_names_every_command_in_our_sources(valkey: Database) -> None:
    known = {str(name).upper() for name in valkey.client.execute_command("COMMAND")}
    used = set()
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        used |= set(re.findall(r"['\"]([A-Z]{3,})['\"]", code))
    for path in PACKAGE.rglob("*.py"):
        if path.stem != "permissions":
            used |= constants(path)
    # `client.pubsub()` sends nothing. Redis 6 lists POST, only to reject browsers.
    used = (used & known) - {"PUBSUB", "POST"}
    assert len(used) > 50
    assert used <= {command.split()[0] for command in COMMANDS}


def constants(path: Path) -> set[str]:
    """Return the strings in a module that may be commands, and redis-py methods that are."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    methods = {
        node.func.attr.upper()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value).endswith(("client", "pipe", "subscription"))
    }
    return {text for text in found | methods if re.fullmatch(r"[A-Z]{3,}", text)}
