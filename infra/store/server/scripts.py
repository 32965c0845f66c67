"""The store's Lua scripts: read from `lua/`, run by digest, loaded again if Redis has lost them.

A script reads its keys and arguments by name (`infra.store.server.calls`). It is preceded by the
shared definitions that it uses: functions of `prelude.lua`, patterns of keys that it computes at
run time, and the transitions of `infra.wire.states`. So a script cannot make a transition that the
tables do not have. Keys known beforehand travel in KEYS. (Redis Cluster, where all keys must be in
KEYS, is not supported.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from infra.metrics.store import SCRIPTS
from infra.store.keys import Keys
from infra.store.server.calls import Call, CallShape, shape_of
from infra.store.server.commands import runner_of
from infra.store.server.connection import translate
from infra.store.server.replies import reader_of
from infra.wire.ids import ConversationKey, FileId, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.states import CONVERSATION_TRANSITIONS, FILE_TRANSITIONS, TURN_TRANSITIONS

_FOLDER = files("infra.store") / "lua"
SHARED = (
    "basics",
    "held_bytes",
    "turns",
    "room",
    "cancelling",
    "starts",
    "conversations",
    "usage",
    "files",
)
"""The parts of `lua/shared/`. Each uses only what stands before it."""
_ID = "%s"
_KEYS = re.compile(r"^-- KEYS  (.+?)(?=^-- (?:ARGS|Returns))", re.MULTILINE | re.DOTALL)
_DEFINITION = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
"""In the tables and `lua/shared/`, where each begins in the first column."""
_PATTERN = re.compile(r"'(\w+)'|\bKEY\.(\w+)")
_NAME = re.compile(r"\w+")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Script:
    """A script as Redis sees it, and how to call it.

    `keys` are the names of its keys, in the order in which they travel.
    """

    source: str
    sha: str
    keys: tuple[str, ...]
    shape: CallShape
    read: Callable[[Sequence[Any]], Any]
    """Makes a record of its reply."""


class Scripts:
    """Runs the scripts of one deployment (one `Keys`) on one client."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._commands = runner_of(redis)
        self._keys = keys
        self._loaded: dict[type, Script] = {}

    async def run(self, call: Call[_Answer], **keys: str) -> _Answer:
        """Run a script and return its answer. `keys` are those listed in its head, by these names;
        the last one may be left out if the head says so.

        Survives a SCRIPT FLUSH and a restarted Redis. Raises `StoreUnavailable`.
        """
        script = self._loaded.get(type(call)) or self._load(call)
        sent = _in_order(script, call, keys)
        SCRIPTS.labels(call.script).inc()
        with translate():
            try:
                reply = await self._commands.run("EVALSHA", script.sha, *sent)
            except NoScriptError:
                # EVAL also caches the script, so the next call finds it again.
                reply = await self._commands.run("EVAL", script.source, *sent)
        answer: _Answer = script.read(reply)
        return answer

    def _load(self, call: Call[Any]) -> Script:
        script = self._loaded[type(call)] = load(type(call), self._keys)
        return script


def _in_order(script: Script, call: Call[Any], keys: Mapping[str, str]) -> list[str | bytes | int]:
    names = script.keys[: len(keys)]
    try:
        named = [keys[name] for name in names]
    except KeyError as error:
        raise TypeError(f"{call.script} is not given the key {error}") from None
    assert len(named) == len(keys), f"{call.script} has no more keys than {names}"
    return [len(named), *named, *script.shape.arguments(call)]


def load(call: type[Call[Any]], keys: Keys) -> Script:
    """A script of `lua/`, preceded by the shared definitions that it needs."""
    code = _code_of(call)
    source = _key_table(keys, code.patterns) + code.text
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(source, sha, code.keys, code.shape, code.read)


@dataclass(frozen=True)
class _Code:
    """What is the same of a script for all deployments. To put it together takes milliseconds."""

    text: str
    keys: tuple[str, ...]
    patterns: tuple[str, ...]
    shape: CallShape
    read: Callable[[Sequence[Any]], Any]


@cache
def _code_of(call: type[Call[Any]]) -> _Code:
    body = (_FOLDER / f"{call.script}.lua").read_text()
    names, shape = _key_names(body), shape_of(call)
    text = _needed_of(_shared(), body) + shape.rows_in_lua() + shape.placed(body, names)
    return _Code(text, names, _patterns_in(text), shape, reader_of(call.answer))


def _key_names(body: str) -> tuple[str, ...]:
    """The names that the head of a script lists under KEYS, without explanations in parentheses."""
    block = _KEYS.search(body)
    listed = re.sub(r"\([^)]*\)|^--", "", block[1], flags=re.MULTILINE) if block else "none"
    names = tuple(name.strip() for name in listed.split(","))
    return () if names[0].startswith("none") else names


@cache
def _shared() -> str:
    return "\n".join(
        (
            _steps("TURN_NEXT", TURN_TRANSITIONS),
            _steps("CONVERSATION_NEXT", CONVERSATION_TRANSITIONS),
            _steps("FILE_NEXT", FILE_TRANSITIONS),
            *((_FOLDER / "shared" / f"{part}.lua").read_text() for part in SHARED),
        )
    )


def _needed_of(shared: str, body: str) -> str:
    """The shared definitions that the body uses, directly or indirectly.

    Redis creates each of them anew in every call; all of them together took as long as several
    commands.
    """
    starts = [*_DEFINITION.finditer(shared)]
    ends = [*(match.start() for match in starts[1:]), len(shared)]
    needed, named = "", _names_in(body)
    for match, end in reversed([*zip(starts, ends, strict=True)]):
        # A definition only uses definitions before it.
        if match[1] in named:
            definition = shared[match.start() : end]
            needed = definition + needed
            named |= _names_in(definition)
    return needed


def _names_in(code: str) -> set[str]:
    return set(_NAME.findall(_COMMENT.sub("", code)))


def _patterns_in(code: str) -> tuple[str, ...]:
    """Those patterns that the code uses: `key('todo', …)`, `KEY.todo`, or by such a name in a
    list."""
    used = {quoted or named for quoted, named in _PATTERN.findall(code)}
    return tuple(name for name in _patterns(Keys()) if name in used)


def _key_table(keys: Keys, used: Sequence[str]) -> str:
    patterns = _patterns(keys)
    rows = ", ".join(f"{name} = {patterns[name]!r}" for name in used)
    return f"local KEY = {{{rows}}}\n" if used else ""


def _patterns(keys: Keys) -> Mapping[str, str]:
    """All there are, by the names they have in scripts."""
    return {
        "conversation": keys.conversation(ConversationKey(_ID)),
        "todo": keys.todo(ConversationKey(_ID)),
        "accepted": keys.accepted(ConversationKey(_ID)),
        "unheard": keys.unheard(ConversationKey(_ID)),
        "called": keys.called(ConversationKey(_ID)),
        "conversation_turns": keys.conversation_turns(ConversationKey(_ID)),
        "transcripts": keys.transcripts(ConversationKey(_ID)),
        "transcript": keys.transcript(ConversationKey(_ID), _ID),
        "transcript_seen": keys.transcript_seen(ConversationKey(_ID), _ID),
        "conversation_made": keys.conversation_made(ConversationKey(_ID)),
        "conversation_usage": keys.conversation_usage(ConversationKey(_ID)),
        "tenant_held": keys.tenant_held(TenantId(_ID)),
        "tenant_held_until": keys.tenant_held_until(TenantId(_ID)),
        "tenant_usage": keys.tenant_usage(TenantId(_ID)),
        "tenant_usage_of": keys.tenant_usage_of(TenantId(_ID), _ID),
        "lease": keys.lease(ConversationKey(_ID)),
        "turn": keys.turn(TurnId(_ID)),
        "turn_request": keys.turn_request(TurnId(_ID)),
        "turn_events": keys.turn_events(TurnId(_ID)),
        "turn_heads": keys.turn_heads(TurnId(_ID)),
        "turn_readers": keys.turn_readers(TurnId(_ID)),
        "idempotency": keys.idempotency(TenantId(_ID), _ID),
        "tenant_running": keys.tenant_running(TenantId(_ID)),
        "tenant_waiting": keys.tenant_waiting(TenantId(_ID)),
        "room": keys.room(TenantId(_ID)),
        "tenant_conversations": keys.tenant_conversations(TenantId(_ID)),
        "host_wipes": keys.host_wipes(HostId(_ID)),
        "host_workers": keys.host_workers(HostId(_ID)),
        "host_starts": keys.host_starts(HostId(_ID)),
        "worker": keys.worker(WorkerId(_ID)),
        "replica_channel": keys.replica_channel(ReplicaId(_ID)),
        "control_channel": keys.control_channel(WorkerId(_ID)),
        "file": keys.file(FileId(_ID)),
        "tenant_files": keys.tenant_files(TenantId(_ID), _ID),
        "tenant_filed": keys.tenant_filed(TenantId(_ID)),
        "files_due": keys.files_due(_ID),
        "turns_open": keys.turns_open(),
        "turns_waiting": keys.turns_waiting(),
        "ring": keys.ring(),
        "workers": keys.workers(),
        "idle": keys.idle(),
        "nothing": keys.nothing(),
    }


def _steps(table: str, transitions: Mapping[Any, frozenset[StrEnum]]) -> str:
    rows = (
        f"  {old.value} = {{{', '.join(f'{new.value} = true' for new in sorted(news))}}},"
        for old, news in transitions.items()
    )
    return "\n".join((f"local {table} = {{", *rows, "}"))
