"""A Redis whose time is told: the real Lua scripts over a small key space in memory.

    redis = VirtualRedis(now_us=lambda: clock_us)
    redis.execute("EVALSHA", sha, ...)

It has the commands our scripts use, runs a script in some fifty microseconds (each is compiled
once) and takes TIME and every expiry from `now_us`, so that hours pass in no time. What is not
needed for that it does not have: no connections, no blocking, no persistence, no real eviction.
`tests/contract/store/server/test_virtual_redis.py` shows that it answers as redis-server does.

`watch` sees every write of a script as it happens, for anybody who checks invariants.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lupa import lua51  # type: ignore[import-untyped]  # A compiled module.
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

Watch = Callable[[str, str, Sequence[bytes]], None]
"""Hears of a write before it is done: command, key, the other arguments."""

_WRITES = frozenset({"HSET", "XADD", "SET", "RPUSH", "LPUSH", "PUBLISH"})


@dataclass
class _Kept:
    value: Any
    expires_ms: float | None = None


class _Interpreter:
    """The Lua that all servers of this process share: a script is compiled once."""

    def __init__(self) -> None:
        self.server: VirtualRedis | None = None
        """Whose script runs."""
        self.lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._compiled: dict[bytes, Any] = {}
        names = self.lua.globals()
        names[b"redis"] = self.lua.table_from({b"call": self._call})
        names[b"cjson"] = self.lua.table_from({b"encode": self._encode, b"decode": self._decode})

    def run(
        self, server: VirtualRedis, source: bytes, keys: Sequence[Any], args: Sequence[Any]
    ) -> Any:
        """A script's answer. Raises `ResponseError`."""
        if (script := self._compiled.get(source)) is None:
            wrapped = b"return function(KEYS, ARGV)\n" + source + b"\nend"
            script = self._compiled[source] = self.lua.execute(wrapped)
        tables = [self.lua.table_from([_bytes(part) for part in parts]) for parts in (keys, args)]
        self.server = server
        try:
            answer = script(*tables)
        except lua51.LuaError as error:
            raise ResponseError(str(error)) from error
        return self._from_lua(answer)

    def _call(self, name: bytes, *args: Any) -> Any:
        assert self.server is not None
        parts = [arg if type(arg) is bytes else _bytes(arg) for arg in args]
        return self._to_lua(self.server.command(name.decode(), parts))

    def _to_lua(self, value: Any) -> Any:
        if value is None:
            return False
        if type(value) is list:
            return self.lua.table_from([self._to_lua(part) for part in value])
        return value

    def _from_lua(self, value: Any) -> Any:
        if type(value) is bytes:
            return value
        if lua51.lua_type(value) == "table":
            found = []
            for index in range(1, len(value) + 1):
                if (part := value[index]) is None:
                    break
                found.append(self._from_lua(part))
            return found
        if type(value) is bool:
            return 1 if value else None
        return int(value) if type(value) is float else value

    def _encode(self, value: Any) -> bytes:
        return json.dumps(self._plain(value), separators=(",", ":")).encode()

    def _plain(self, value: Any) -> Any:
        if lua51.lua_type(value) == "table":
            items = dict(value.items())
            if items and set(items) == set(range(1, len(items) + 1)):
                return [self._plain(items[i]) for i in range(1, len(items) + 1)]
            return {_text(key): self._plain(part) for key, part in items.items()}
        return value.decode() if isinstance(value, bytes) else value

    def _decode(self, raw: bytes) -> Any:
        return self._table(json.loads(raw))

    def _table(self, value: Any) -> Any:
        if isinstance(value, dict):
            parts = {key.encode(): self._table(part) for key, part in value.items()}
            return self.lua.table_from(parts)
        if isinstance(value, list):
            return self.lua.table_from([self._table(part) for part in value])
        return value.encode() if isinstance(value, str) else value


_INTERPRETER = _Interpreter()


class VirtualRedis:
    """One server. Keys are text, values bytes, as redis-py sees them."""

    def __init__(
        self, now_us: Callable[[], int], *, mutate: Callable[[str], str] | None = None
    ) -> None:
        """`mutate` changes the source of every script before it is compiled."""
        self._now_us = now_us
        self._mutate = mutate
        self._kept: dict[str, _Kept] = {}
        self._sources: dict[str, bytes] = {}
        self.watch: Watch | None = None
        self.published: list[tuple[str, bytes]] = []
        self.hearers: Callable[[str, bytes], int] = lambda channel, message: 0
        """Gets what is published, and says how many have subscribed."""
        """What was said on channels; nobody hears it unless they look here."""

    def execute(self, name: str, *args: Any) -> Any:
        """Carry out one command now. Raises what redis-py raises."""
        if name == "EVALSHA":
            sha, count, *rest = args
            if str(sha) not in self._sources:
                raise NoScriptError("NOSCRIPT No matching script.")
            return self._run(str(sha), rest[: int(count)], rest[int(count) :])
        if name == "EVAL":
            source, count, *rest = args
            raw = _bytes(source)
            sha = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
            self._sources[sha] = self._mutate(raw.decode()).encode() if self._mutate else raw
            return self._run(sha, rest[: int(count)], rest[int(count) :])
        return self.command(name.upper(), [_bytes(arg) for arg in args])

    def names(self) -> list[str]:
        """All keys that live."""
        return sorted(name for name in list(self._kept) if self._find(name) is not None)

    def peek(self, key: str) -> Any:
        """What a key holds, as it is kept here; None: nothing."""
        return self._find(key)

    def _run(self, sha: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return _INTERPRETER.run(self, self._sources[sha], keys, args)

    # The key space

    def _find(self, key: str) -> Any:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires_ms is not None and kept.expires_ms <= self._now_us() / 1000:
            del self._kept[key]
            return None
        return kept.value

    def _make(self, key: str, kind: type) -> Any:
        found = self._find(key)
        if found is None:
            found = kind()
            self._kept[key] = _Kept(found)
        return found

    def _drop_if_empty(self, key: str, value: Any) -> None:
        if not value:
            self._kept.pop(key, None)

    def command(self, name: str, args: list[bytes]) -> Any:
        """Carry out a command whose arguments are bytes."""
        command = getattr(self, f"_do_{name.lower()}", None)
        if command is None:
            raise ResponseError(f"{name} is not known to VirtualRedis: give it a `_do_...`")
        if self.watch is not None and name in _WRITES:
            self.watch(name, args[0].decode(), args[1:])
        return command(*args)

    # Keys and strings

    def _do_time(self) -> Any:
        now = self._now_us()
        return [b"%d" % (now // 1_000_000), b"%d" % (now % 1_000_000)]

    def _do_del(self, *keys: bytes) -> int:
        return sum(
            self._find(name) is not None and self._kept.pop(name) is not None
            for name in map(_text, keys)
        )

    _do_unlink = _do_del

    def _do_exists(self, *keys: bytes) -> int:
        return sum(self._find(_text(name)) is not None for name in keys)

    def _do_pexpire(self, key: bytes, ms: bytes) -> int:
        if self._find(_text(key)) is None:
            return 0
        self._kept[_text(key)].expires_ms = self._now_us() // 1000 + int(ms)
        return 1

    def _do_pexpireat(self, key: bytes, ms: bytes) -> int:
        if self._find(_text(key)) is None:
            return 0
        self._kept[_text(key)].expires_ms = int(ms)
        return 1

    def _do_pttl(self, key: bytes) -> int:
        if self._find(_text(key)) is None:
            return -2
        expires_ms = self._kept[_text(key)].expires_ms
        return -1 if expires_ms is None else int(expires_ms - self._now_us() // 1000)

    def _do_get(self, key: bytes) -> Any:
        return self._find(_text(key))

    def _do_getex(self, key: bytes, unit: bytes, ms: bytes) -> Any:
        assert unit == b"PX"
        self._do_pexpire(key, ms)
        return self._find(_text(key))

    def _do_strlen(self, key: bytes) -> int:
        return len(self._find(_text(key)) or b"")

    def _do_set(self, key: bytes, value: bytes, *options: bytes) -> bytes:
        kept = self._kept[_text(key)] = _Kept(value)
        if options:
            unit, ms = options
            assert unit.upper() == b"PX", unit
            kept.expires_ms = self._now_us() // 1000 + int(ms)
        return b"OK"

    def _do_setnx(self, key: bytes, value: bytes) -> int:
        if self._find(_text(key)) is not None:
            return 0
        self._kept[_text(key)] = _Kept(value)
        return 1

    def _do_publish(self, channel: bytes, message: bytes) -> int:
        self.published.append((_text(channel), message))
        return self.hearers(_text(channel), message)

    # Hashes

    def _do_hget(self, key: bytes, field: bytes) -> Any:
        return (self._find(_text(key)) or {}).get(field)

    def _do_hmget(self, key: bytes, *fields: bytes) -> Any:
        found = self._find(_text(key)) or {}
        return [found.get(field) for field in fields]

    def _do_hgetall(self, key: bytes) -> Any:
        found = self._find(_text(key)) or {}
        return [part for item in found.items() for part in item]

    def _do_hkeys(self, key: bytes) -> Any:
        return list(self._find(_text(key)) or {})

    def _do_hlen(self, key: bytes) -> int:
        return len(self._find(_text(key)) or ())

    def _do_hexists(self, key: bytes, field: bytes) -> int:
        return int(field in (self._find(_text(key)) or {}))

    def _do_hstrlen(self, key: bytes, field: bytes) -> int:
        return len((self._find(_text(key)) or {}).get(field, b""))

    def _do_hset(self, key: bytes, *pairs: bytes) -> int:
        found = self._make(_text(key), dict)
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def _do_hsetnx(self, key: bytes, field: bytes, value: bytes) -> int:
        found = self._make(_text(key), dict)
        if field in found:
            return 0
        found[field] = value
        return 1

    def _do_hdel(self, key: bytes, *fields: bytes) -> int:
        found = self._find(_text(key)) or {}
        gone = sum(found.pop(field, None) is not None for field in fields)
        self._drop_if_empty(_text(key), found)
        return gone

    def _do_hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        found = self._make(_text(key), dict)
        value = int(found.get(field, 0)) + int(by)
        found[field] = b"%d" % value
        return value

    # Lists

    def _do_rpush(self, key: bytes, *values: bytes) -> int:
        found = self._make(_text(key), list)
        found.extend(values)
        return len(found)

    def _do_lpush(self, key: bytes, *values: bytes) -> int:
        found = self._make(_text(key), list)
        found[:0] = reversed(values)
        return len(found)

    def _do_lpop(self, key: bytes) -> Any:
        found = self._find(_text(key))
        if not found:
            return None
        value = found.pop(0)
        self._drop_if_empty(_text(key), found)
        return value

    def _do_llen(self, key: bytes) -> int:
        return len(self._find(_text(key)) or ())

    def _do_lindex(self, key: bytes, index: bytes) -> Any:
        found = self._find(_text(key)) or []
        return found[int(index)] if -len(found) <= int(index) < len(found) else None

    def _do_lrange(self, key: bytes, first: bytes, last: bytes) -> Any:
        found = self._find(_text(key)) or []
        return found[_span(len(found), int(first), int(last))]

    def _do_ltrim(self, key: bytes, first: bytes, last: bytes) -> bytes:
        found = self._find(_text(key)) or []
        found[:] = found[_span(len(found), int(first), int(last))]
        self._drop_if_empty(_text(key), found)
        return b"OK"

    def _do_lrem(self, key: bytes, count: bytes, value: bytes) -> int:
        found = self._find(_text(key)) or []
        gone = found.count(value)
        assert int(count) == 0 or (int(count) == -1 and gone <= 1), "only all of them"
        found[:] = [part for part in found if part != value]
        self._drop_if_empty(_text(key), found)
        return gone

    # Sets

    def _do_sadd(self, key: bytes, *members: bytes) -> int:
        found = self._make(_text(key), set)
        before = len(found)
        found.update(members)
        return len(found) - before

    def _do_srem(self, key: bytes, *members: bytes) -> int:
        found = self._find(_text(key)) or set()
        before = len(found)
        found.difference_update(members)
        self._drop_if_empty(_text(key), found)
        return before - len(found)

    def _do_smismember(self, key: bytes, *members: bytes) -> list[int]:
        found = self._find(_text(key)) or set()
        return [int(member in found) for member in members]

    def _do_sismember(self, key: bytes, member: bytes) -> int:
        return int(member in (self._find(_text(key)) or ()))

    def _do_smembers(self, key: bytes) -> Any:
        return sorted(self._find(_text(key)) or ())

    # Sorted sets

    def _do_zadd(self, key: bytes, *args: bytes) -> int:
        condition = args[0].upper() if args[0].upper() in (b"NX", b"XX") else b""
        rest = args[1:] if condition else args
        if condition == b"XX" and self._find(_text(key)) is None:
            return 0
        found = self._make(_text(key), dict)
        before = len(found)
        for score, member in zip(rest[::2], rest[1::2], strict=True):
            if not condition or (member in found) == (condition == b"XX"):
                found[member] = float(score)
        return len(found) - before

    def _do_zrem(self, key: bytes, *members: bytes) -> int:
        return self._do_hdel(key, *members)

    def _do_zscore(self, key: bytes, member: bytes) -> Any:
        score = (self._find(_text(key)) or {}).get(member)
        return None if score is None else b"%.17g" % score

    def _do_zcard(self, key: bytes) -> int:
        return len(self._find(_text(key)) or ())

    def _do_zcount(self, key: bytes, low: bytes, high: bytes) -> int:
        return len(self._between(key, low, high))

    def _do_zrank(self, key: bytes, member: bytes) -> Any:
        everything = self._between(key, b"-inf", b"+inf")
        return everything.index(member) if member in everything else None

    def _do_zrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Any:
        everything = self._between(key, b"-inf", b"+inf")
        return self._scored(key, everything[_span(len(everything), int(first), int(last))], options)

    def _do_zrevrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Any:
        everything = self._between(key, b"-inf", b"+inf")[::-1]
        return self._scored(key, everything[_span(len(everything), int(first), int(last))], options)

    def _do_zrangebyscore(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> Any:
        return self._scored(key, self._between(key, low, high), options)

    def _do_zrevrangebyscore(self, key: bytes, high: bytes, low: bytes, *options: bytes) -> Any:
        return self._scored(key, self._between(key, low, high)[::-1], options)

    def _scored(self, key: bytes, found: list[bytes], options: Sequence[bytes]) -> list[bytes]:
        """With LIMIT applied, and with scores where they are wanted."""
        if b"LIMIT" in options:
            at = options.index(b"LIMIT")
            offset, count = int(options[at + 1]), int(options[at + 2])
            found = found[offset : offset + count]
        if b"WITHSCORES" not in options:
            return found
        return [part for member in found for part in (member, self._do_zscore(key, member))]

    def _do_zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> int:
        gone = self._between(key, low, high)
        return self._do_hdel(key, *gone) if gone else 0

    def _between(self, key: bytes, low: bytes, high: bytes) -> list[bytes]:
        found = self._find(_text(key)) or {}
        ordered = sorted(found.items(), key=lambda item: (item[1], item[0]))
        is_above, is_below = _bound(low), _bound(high)
        return [
            member
            for member, score in ordered
            if is_above[0] <= score <= is_below[0]
            and not (is_above[1] and score == is_above[0])
            and not (is_below[1] and score == is_below[0])
        ]

    # Streams

    def _do_xadd(self, key: bytes, *args: bytes) -> bytes:
        assert args[:2] == (b"MINID", b"~"), args
        id, *pairs = args[3:]
        found = self._make(_text(key), list)
        if found and _number(id) <= _number(found[-1][0]):
            raise ResponseError("ERR The ID specified in XADD is equal or smaller")
        found.append((id, list(pairs)))
        return id

    def _do_xrange(self, key: bytes, first: bytes, last: bytes, *count: bytes) -> Any:
        least = _number(first) if first != b"-" else 0
        assert last == b"+", last
        found = [entry for entry in self._find(_text(key)) or [] if _number(entry[0]) >= least]
        return [list(entry) for entry in found[: int(count[1]) if count else None]]

    def _do_xrevrange(self, key: bytes, last: bytes, first: bytes, *count: bytes) -> Any:
        assert (last, first) == (b"+", b"-"), (last, first)
        found = (self._find(_text(key)) or [])[::-1]
        return [list(entry) for entry in found[: int(count[1]) if count else None]]


class VirtualClient(Redis):
    """A client that never connects, with those commands the scripts' callers use beside them."""

    def __init__(self, server: VirtualRedis) -> None:
        super().__init__()
        self._server = server

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return self._server.execute(*args)

    async def hgetall(self, name: Any) -> Any:
        found = self._server.execute("HGETALL", name)
        return dict(zip(found[::2], found[1::2], strict=True))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        return VirtualPipeline(self._server)


class VirtualPipeline:
    """Commands that are carried out one after the other."""

    def __init__(self, server: VirtualRedis) -> None:
        self._server = server
        self._answers: list[Any] = []

    async def __aenter__(self) -> VirtualPipeline:
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Nothing to let go of."""

    def hget(self, name: str, field: str) -> None:
        self._answers.append(self._server.execute("HGET", name, field))

    def xrange(self, name: str, *, min: str, count: int) -> None:
        found = self._server.execute("XRANGE", name, min, "+", "COUNT", count)
        self._answers.append([(id, dict(zip(e[::2], e[1::2], strict=True))) for id, e in found])

    async def execute(self) -> list[Any]:
        return self._answers


def _bytes(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, float):
        return b"%.17g" % part
    return str(part).encode()


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)


def _number(id: bytes) -> int:
    return int(id.partition(b"-")[0])


def _span(length: int, first: int, last: int) -> slice:
    begin = first if first >= 0 else max(length + first, 0)
    end = last if last >= 0 else length + last
    return slice(begin, max(end + 1, 0))


def _bound(raw: bytes) -> tuple[float, bool]:
    return (float(raw[1:]), True) if raw.startswith(b"(") else (float(raw), False)
