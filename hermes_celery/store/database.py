"""One namespace on a Redis (6.2+) or Valkey server: its keys, scripts and plain commands.

Redis' exceptions are translated here; no caller sees them.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from typing import Any

import msgspec
import redis

from hermes_celery.errors import (
    LeaseLost,
    RecordBroken,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
    StoreUnsuitable,
)
from hermes_celery.masking.server_urls import without_passwords_in
from hermes_celery.store import lua
from hermes_celery.store.keys import Keys

#: The largest number of shards that is accepted, when read and when set.
MOST_SHARDS = 64
_OLDEST_REDIS = (6, 2)
#: Errors of a sent script after which it is run again.
_RUN_AGAIN = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.NoScriptError,
)
#: Errors of a server that is changing its role, starting, or waiting for others. Inside a script
#: the same word is in the error's text only.
_PASSING = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_PASSING_WORD = re.compile(
    r"\b(READONLY|LOADING|MASTERDOWN|UNBLOCKED|TRYAGAIN|CLUSTERDOWN|NOREPLICAS)\b"
)
#: ACL refusals. Inside a script they lack the word NOPERM: "ACL failure" is the text of Redis 7
#: and Valkey, "user executing" that of Redis 6.
_FORBIDDEN = re.compile(r"\bNOPERM\b|\bACL failure\b|user executing the script can't (run|access)")

#: A script's key, and a script's argument.
Key = str
Arg = str | int | bytes


class ScriptCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a script; keys and arguments are in the order of its header."""

    keys: Sequence[Key]
    args: Sequence[Arg]


def call_of(
    script: str,
    *,
    keys: Mapping[str, Key],
    args: Mapping[str, Arg],
    more_keys: Sequence[Key] = (),
    more_args: Sequence[Arg] = (),
) -> ScriptCall:
    """Return a script call for keys and arguments given by the names in the script's header.

    `more_keys` and `more_args` follow the named ones. Raises TypeError for a missing or unknown
    name.
    """
    key_names, arg_names = lua.names(script)
    return ScriptCall(
        keys=key_names.in_order(keys, more_keys), args=arg_names.in_order(args, more_args)
    )


def or_none(value: Arg | None) -> Arg:
    """Return the value as a script argument; None becomes ""."""
    return "" if value is None else value


def refuse_fenced(answer: object) -> None:
    """Raise LeaseLost when a script's answer, or one in a list of answers, is `fenced`."""
    if answer == "fenced" or (isinstance(answer, list) and "fenced" in answer):
        raise LeaseLost("a younger leader has taken over; this one stops writing")


class Database:
    """One Redis or Valkey server, one namespace.

    Every method raises StoreUnavailable when the server cannot be reached and StoreError when it
    refuses (out of memory, read-only, no permission).
    """

    def __init__(self, client: redis.Redis, *, keys: Keys | None = None) -> None:
        self.client: Any = client
        self.keys = keys or Keys()
        self._scripts: dict[str, Any] = {}
        #: Queues that this process has already recorded in the store.
        self.noted_queues: set[str] = set()

    def run(
        self,
        script: str,
        *,
        keys: Mapping[str, Key],
        args: Mapping[str, Arg],
        more_keys: Sequence[Key] = (),
        more_args: Sequence[Arg] = (),
    ) -> Any:
        """Run one script, with names as for `call_of`, and return its answer.

        Raises RecordBroken when one of its keys has a wrong type or value; nothing was written
        then.
        """
        key_names, arg_names = lua.names(script)
        return self.run_listed(
            script,
            keys=key_names.in_order(keys, more_keys),
            args=arg_names.in_order(args, more_args),
        )

    def run_fenced(
        self,
        script: str,
        *,
        keys: Mapping[str, Key],
        args: Mapping[str, Arg],
        more_args: Sequence[Arg] = (),
    ) -> str:
        """Run one script that compares the fencing token first, and return its one-word answer.

        Raises LeaseLost when a younger leader's token is known, and RecordBroken as `run` does.
        """
        answer = self.run(script, keys=keys, args=args, more_args=more_args)
        refuse_fenced(answer)
        return str(answer)

    def run_listed(self, script: str, *, keys: Sequence[Key], args: Sequence[Arg]) -> Any:
        """Run one script with keys and arguments in the order of its header; else as `run`."""
        registered = self._script(script)
        with wrapped():
            answer = registered(keys=keys, args=args)
        if is_broken(answer):
            raise broken(answer)
        return answer

    def begin(
        self, script: str, *, keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Callable[[], Any]:
        """Send one script without waiting, and return a function that waits for its answer.

        Call that function exactly once: until then it holds the connection. When the connection
        fails, or the server does not know the script yet, that function runs it again, as
        `run_listed` does.
        """
        again = partial(self.run_listed, script, keys=keys, args=args)
        with wrapped():
            pool = self.client.connection_pool
            connection = pool.get_connection()
            try:
                connection.send_command("EVALSHA", _digest(script), len(keys), *keys, *args)
            except _RUN_AGAIN:
                pool.release(connection)
                return again

        def answer() -> Any:
            with wrapped():
                try:
                    found = connection.read_response()
                except _RUN_AGAIN:
                    return again()
                finally:
                    pool.release(connection)
            if is_broken(found):
                raise broken(found)
            return found

        return answer

    def run_raw(
        self, script: str, *, keys: Sequence[str | bytes], args: Sequence[str | int | bytes]
    ) -> Any:
        """Run one script and return its answer as bytes, which need not be valid UTF-8."""
        command = ("EVALSHA", _digest(script), len(keys), *keys, *args)
        with wrapped():
            try:
                return self.client.execute_command(*command, NEVER_DECODE=True)
            except redis.exceptions.NoScriptError:
                self.client.script_load(lua.source(script))
                return self.client.execute_command(*command, NEVER_DECODE=True)

    def call_raw(self, *command: str | int | bytes) -> Any:
        """Run one plain command and return its answer as bytes, or nested lists of bytes."""
        with wrapped():
            return self.client.execute_command(*command, NEVER_DECODE=True)

    def run_many(self, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run one script many times in one round trip. Each call is atomic, the whole is not.

        Returns the answers in order. A call that the server refused has a StoreError in its place;
        a call with a broken key has a RecordBroken.
        """
        if not calls:
            return []
        registered = self._script(script)
        with wrapped():
            answers = self._evaluated(registered.sha, calls)
            missing = [i for i, answer in enumerate(answers) if _is_unknown_script(answer)]
            if missing:
                self.client.script_load(registered.script)
                again = self._evaluated(registered.sha, [calls[i] for i in missing])
                for i, answer in zip(missing, again, strict=True):
                    answers[i] = answer
        return [_as_value(answer) for answer in answers]

    def call_many(self, commands: Sequence[Sequence[str | int | bytes]]) -> list[Any]:
        """Run plain commands in one round trip and return their answers.

        A command that the server refused, for example for a key of the wrong type, has a StoreError
        in its place; the others still run.
        """
        return self._piped(commands)

    def call_each(
        self, commands: Sequence[Sequence[str | int | bytes]], *, decoded: bool = True
    ) -> list[Any]:
        """Run plain commands in one round trip; the answer of a refused command is None."""
        if not commands:
            return []
        options = {} if decoded else {"NEVER_DECODE": True}
        with wrapped(), self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command, **options)
            answers = pipe.execute(raise_on_error=False)
        return [None if isinstance(answer, Exception) else answer for answer in answers]

    def call(self, *command: str | int | bytes) -> Any:
        """Run one plain command and return its answer.

        Raises RecordBroken when its key has the wrong type.
        """
        with wrapped(key=str(command[1]) if len(command) > 1 else ""):
            return self.client.execute_command(*command)

    def raw(self, *command: str | int) -> bytes | None:
        """Run one plain command and return its answer as bytes.

        Raises RecordBroken when its key has the wrong type.
        """
        with wrapped(key=str(command[1])):
            answer = self.client.execute_command(*command, NEVER_DECODE=True)
        return answer if answer is None else bytes(answer)

    def raw_many(self, commands: Sequence[Sequence[str | int]]) -> list[Any]:
        """Run plain commands in one round trip and return bytes; refusals as in `call_many`."""
        answers = self._piped(commands, NEVER_DECODE=True)
        return [one if isinstance(one, StoreError) else bytes(one) for one in answers]

    def hashes(self, keys: Sequence[str], *fields: str) -> list[dict[str, str] | RecordBroken]:
        """Read many hashes, or only `fields` of them, in one round trip; a missing hash is empty.

        A key of another type has a RecordBroken in its place.
        """
        if fields:
            answers = self._piped([("HMGET", key, *fields) for key in keys])
        else:
            answers = self._piped([("HGETALL", key) for key in keys])
        return [_record(answer, fields) for answer in answers]

    def hash(self, key: str, *fields: str) -> dict[str, str]:
        """Read one hash, or only `fields` of it.

        Raises RecordBroken when the key has another type.
        """
        (record,) = self.hashes([key], *fields)
        if isinstance(record, RecordBroken):
            raise record
        return record

    def _piped(self, commands: Sequence[Sequence[str | int | bytes]], **options: Any) -> list[Any]:
        """Return the answers in order; a refused command has its StoreError in its place."""
        if not commands:
            return []
        with wrapped(), self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command, **options)
            answers = list(pipe.execute(raise_on_error=False))
        return [
            self._trouble(answer, command) if isinstance(answer, Exception) else answer
            for answer, command in zip(answers, commands, strict=True)
        ]

    def _trouble(self, error: Exception, command: Sequence[str | int | bytes]) -> StoreError:
        """Return our exception for a command that the server refused."""
        if not str(error).startswith("WRONGTYPE"):
            return _translated(error)
        key = str(command[1])
        with wrapped():
            found = self.client.execute_command("TYPE", key)
        return RecordBroken(key, f"is a {found}, which {command[0]!s} cannot read")

    @cached_property
    def shards(self) -> int:
        """The number of shards of the due index; read once.

        When the stored number is invalid or above 64, this is the number of shards that ever had a
        leader: every job lies in one of those.
        """
        text = self.shards_as_stored
        count = int(text) if text.isdecimal() and len(text) <= 2 else 0
        return count if 1 <= count <= MOST_SHARDS else self._shards_ever_led()

    @cached_property
    def shards_as_stored(self) -> str:
        """The stored number of shards as text; "1" when absent, "" when unreadable."""
        try:
            text = self.call("GET", self.keys.shards)
        except RecordBroken:
            return ""
        return "1" if text is None else str(text)

    def shards_fault(self) -> RecordBroken | None:
        """Return what is wrong with the stored number of shards, or None."""
        if self.shards_as_stored == str(self.shards):
            return None
        found = repr(self.shards_as_stored[:20]) if self.shards_as_stored else "not a string"
        return RecordBroken(
            self.keys.shards,
            f"is {found}, not a number from 1 to {MOST_SHARDS}; {self.shards} is used instead",
        )

    def _shards_ever_led(self) -> int:
        terms = [("EXISTS", self.keys.term_of(shard)) for shard in range(MOST_SHARDS)]
        led = [shard for shard, found in enumerate(self._piped(terms)) if found == 1]
        return max(led, default=0) + 1

    def forget_shards(self) -> None:
        """Forget the cached number of shards; it is read again at its next use."""
        self.__dict__.pop("shards", None)
        self.__dict__.pop("shards_as_stored", None)

    def due_key(self, job_id: str) -> str:
        """Return the key of the due index shard that holds this job."""
        return self.keys.due_of(shard_of(job_id, shards=self.shards))

    def _script(self, name: str) -> Any:
        registered = self._scripts.get(name)
        if registered is None:
            registered = self._scripts[name] = self.client.register_script(lua.source(name))
        return registered

    def _evaluated(self, digest: str, calls: Sequence[ScriptCall]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(digest, len(call.keys), *call.keys, *call.args)
            return list(pipe.execute(raise_on_error=False))

    def ping(self) -> None:
        """Send PING. Raises StoreUnavailable when the server does not answer."""
        self.call("PING")

    def now_ms(self) -> int:
        """Return the server's time, Unix milliseconds."""
        seconds, microseconds = self.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    @cached_property
    def version(self) -> str:
        """The server's name and version, for display."""
        info = self.call("INFO", "server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info.get('redis_version', '?')}"

    @property
    def address(self) -> str:
        """The server and database number as a URL without login."""
        pool = self.client.connection_pool
        given = pool.connection_kwargs
        number = given.get("db") or 0
        if self._sentinels is not None:
            asked = (one.connection_pool.connection_kwargs for one in self._sentinels.sentinels)
            known = sorted(f"{one.get('host')}:{one.get('port')}" for one in asked)
            return f"sentinel://{','.join(known)}/{number}?master_name={pool.service_name}"
        if given.get("path"):
            return f"unix://{given['path']}?db={number}"
        host = str(given.get("host"))
        # All spellings of the local machine count as one address.
        host = "127.0.0.1" if host in ("localhost", "::1") else host
        return f"redis://{host}:{given.get('port')}/{number}"

    def check(self) -> None:
        """Refuse an unusable server: too old, a replica, part of a cluster, or without Lua scripts.

        Raises StoreUnavailable or StoreUnsuitable.
        """
        info = self.call("INFO")
        number = str(info.get("valkey_version") or info.get("redis_version") or "0")
        if tuple(int(part) for part in re.findall(r"\d+", number)[:2]) < _OLDEST_REDIS:
            raise StoreUnsuitable(
                f"the server is {self.version}; hermes-celery needs Redis 6.2 or Valkey 7.2, or "
                "newer. Upgrade it, or use the embedded Valkey of `hermes-celery up`"
            )
        _check_role(info, is_changing=self._sentinels is not None)
        try:
            with wrapped():
                self.client.eval("return redis.call('TTL', KEYS[1])", 1, self.keys.lease)
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise StoreUnsuitable(
                f"the server does not run Lua scripts ({error}); allow EVAL and EVALSHA for this "
                "user (ACL +@scripting), or use another server"
            ) from None

    def close(self) -> None:
        """Close all connections."""
        self.client.close()
        if self._sentinels is not None:
            self._sentinels.close()

    @property
    def _sentinels(self) -> Any:
        """The client of the Sentinels; None when the server's address is fixed."""
        return getattr(self.client.connection_pool, "sentinel_manager", None)


def shard_of(job_id: str, *, shards: int) -> int:
    """Return the shard of a job, from the last four hex digits of its id.

    Job ids are random or digests, so jobs spread evenly. An invalid id belongs to shard 0.
    """
    if shards == 1:
        return 0
    try:
        return int(job_id[-4:], 16) % shards
    except ValueError:
        return 0


def is_broken(answer: object) -> bool:
    """Return whether a script's answer reports a broken key."""
    return isinstance(answer, list) and len(answer) == 3 and answer[0] == "broken"


def broken(answer: Sequence[Any]) -> RecordBroken:
    """Return a script's `broken` answer as an exception."""
    return RecordBroken(str(answer[1]), str(answer[2]))


def _as_value(answer: Any) -> Any:
    if isinstance(answer, Exception):
        return _of_answer(answer)
    return broken(answer) if is_broken(answer) else answer


def scored(answer: Sequence[Any]) -> list[tuple[str, float]]:
    """Return a WITHSCORES answer as pairs, from its RESP2 or RESP3 shape."""
    if answer and isinstance(answer[0], (list, tuple)):
        return [(str(member), float(score)) for member, score in answer]
    members, scores = answer[::2], answer[1::2]
    return [(str(m), float(score)) for m, score in zip(members, scores, strict=True)]


def _translated(error: Exception) -> StoreError:
    """Translate an error that the server answered into our exception.

    Raises StoreUnavailable, if the error means that.
    """
    try:
        with wrapped():
            raise error
    except StoreUnavailable:
        raise
    except StoreError as ours:
        return ours


def _record(answer: Any, fields: Sequence[str]) -> dict[str, str] | RecordBroken:
    """Return the answer of HGETALL, or of HMGET for `fields`, as a dict."""
    if isinstance(answer, RecordBroken):
        return answer
    if isinstance(answer, StoreError):
        raise answer
    if isinstance(answer, dict):
        return answer
    if not fields:
        return dict(zip(answer[::2], answer[1::2], strict=True))
    found = zip(fields, answer, strict=True)
    return {name: value for name, value in found if value is not None}


def whole(score: float) -> int:
    """Return a score as whole milliseconds; 0 for one beyond 2**53, such as `-inf`."""
    return int(score) if abs(score) < 2.0**53 else 0


@contextmanager
def wrapped(*, key: str = "") -> Iterator[None]:
    """Translate Redis' exceptions into ours, without passwords.

    `key` is the only key of the command; a RecordBroken names it.
    """
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if isinstance(error, redis.exceptions.AuthenticationError):
            raise StoreUnsuitable(
                f"{_text(error).rstrip('.')}; give its user and password, before the @ of its URL"
            ) from error
        if _is_certificates(error):
            raise StoreUnsuitable(_text(error)) from error
        if "AuthenticationError" in str(error):
            # redis-py puts the errors of all Sentinels into one text.
            raise StoreUnsuitable(
                "a Sentinel refuses the login; give it with sentinel_username and "
                "sentinel_password in HERMES_REDIS_URL, or in a project with "
                'broker_transport_options = {"sentinel_kwargs": {"username": ..., "password": ...}}'
            ) from error
        raise StoreUnavailable(_text(error)) from error
    except redis.exceptions.RedisError as error:
        if key and str(error).startswith("WRONGTYPE"):
            raise RecordBroken(key, "has the wrong type") from error
        raise _of_answer(error) from error


def _is_certificates(error: Exception) -> bool:
    """Return whether TLS failed permanently, so that a retry would not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        cause = cause.__cause__ or cause.__context__
    return False


def _check_role(info: Mapping[str, Any], *, is_changing: bool) -> None:
    """Refuse a replica, and a server of a cluster, which holds only part of the keys.

    With Sentinels (`is_changing`) a replica means that a failover is under way: StoreUnavailable.
    """
    if is_changing and str(info.get("role")) == "slave":
        raise StoreUnavailable("the Sentinels name a replica, as they do during a failover")
    if str(info.get("role")) == "slave":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        raise StoreUnsuitable(
            f"it is a replica of {primary} and takes no writes; name the primary, or promote it"
        )
    if str(info.get("cluster_enabled", "0")) == "1":
        raise StoreUnsuitable(
            "it is part of a cluster, where neither Celery's queues nor our scripts work; use a "
            "single server (cluster-enabled no)"
        )


CANNOT_SAVE = (
    "the server cannot save to its disk, so it takes no writes: make room on that disk, then it "
    "accepts writes again by itself"
)
#: Refusals that the operator must fix: a part of the server's text, and what to do about it.
_MEANINGS = (
    ("MISCONF", CANNOT_SAVE),
    ("when used memory > 'maxmemory'", "the server has no memory left for new data: raise its "
                                       "maxmemory, or keep fewer runs (HERMES_CELERY_KEEP_RUNS)"),
)  # fmt: skip


def _of_answer(error: Exception) -> StoreError:
    """Return our exception for a server's refusal: StoreUnavailable when it will pass."""
    text = _text(error)
    for mark, meaning in _MEANINGS:
        if mark in text:
            return StoreError(f"{meaning} ({text})")
    if isinstance(error, redis.exceptions.NoPermissionError) or _FORBIDDEN.search(text):
        return StoreForbidden(text)
    is_passing = isinstance(error, _PASSING) or _PASSING_WORD.search(text) is not None
    return StoreUnavailable(text) if is_passing else StoreError(text)


@cache
def _digest(script: str) -> str:
    return hashlib.sha1(lua.source(script).encode(), usedforsecurity=False).hexdigest()


def _is_unknown_script(answer: object) -> bool:
    """Return whether the server does not know the script yet, for example after a restart."""
    return isinstance(answer, redis.exceptions.NoScriptError)


def _text(error: Exception) -> str:
    return without_passwords_in(str(error)) or type(error).__name__
