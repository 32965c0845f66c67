"""The store's Lua scripts: read from `lua/`, run by their digest, loaded when Redis has lost them.

Each script gets `prelude.lua` in front, and in front of that tables generated here: the patterns of
the keys it finds only while it runs, and the legal steps of `infra.wire.states`. So a script can
make no step that the tables do not have. Keys known beforehand travel in KEYS. (Redis Cluster,
where all keys must be in KEYS, is not promised.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.states import CONVERSATION_TRANSITIONS, TURN_TRANSITIONS

_ID = "%s"
_DEFINITION = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
"""In the tables and the prelude, where each begins in the first column."""
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script as Redis sees it."""

    source: str
    sha: str


class Scripts:
    """Runs the scripts of one deployment (one `Keys`) on one client."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def run(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """The script's answer.

        Survives a SCRIPT FLUSH and a restarted Redis. Raises `StoreUnavailable`.
        """
        script = load(name, self._keys)
        call = (len(keys), *keys, *args)
        with translate():
            try:
                return await self._redis.execute_command("EVALSHA", script.sha, *call)  # type: ignore[no-untyped-call]
            except NoScriptError:
                # EVAL also keeps the script, so the next call finds it again.
                return await self._redis.execute_command("EVAL", script.source, *call)  # type: ignore[no-untyped-call]


@cache
def load(name: str, keys: Keys) -> Script:
    """A script of `lua/`, with what it needs of its tables and the prelude in front."""
    folder = files("infra.store") / "lua"
    shared = "\n".join(
        (
            _key_table(keys),
            _steps("TURN_NEXT", TURN_TRANSITIONS),
            _steps("CONVERSATION_NEXT", CONVERSATION_TRANSITIONS),
            (folder / "prelude.lua").read_text(),
        )
    )
    source = _with_what_it_needs((folder / f"{name}.lua").read_text(), shared)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _with_what_it_needs(body: str, shared: str) -> str:
    """The body, with those definitions in front that it uses, or that such a one uses.

    Redis makes each of them anew in every call: all of them took as long as several commands.
    """
    starts = [*_DEFINITION.finditer(shared)]
    ends = [*(match.start() for match in starts[1:]), len(shared)]
    for match, end in reversed([*zip(starts, ends, strict=True)]):
        # A definition uses only what stands before it.
        if re.search(rf"\b{match[1]}\b", _COMMENT.sub("", body)):
            body = shared[match.start() : end] + body
    return body


def _key_table(keys: Keys) -> str:
    patterns = {
        "conversation": keys.conversation(ConversationKey(_ID)),
        "todo": keys.todo(ConversationKey(_ID)),
        "accepted": keys.accepted(ConversationKey(_ID)),
        "unheard": keys.unheard(ConversationKey(_ID)),
        "conversation_turns": keys.conversation_turns(ConversationKey(_ID)),
        "transcripts": keys.transcripts(ConversationKey(_ID)),
        "transcript": keys.transcript(ConversationKey(_ID), _ID),
        "transcript_seen": keys.transcript_seen(ConversationKey(_ID), _ID),
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
        "turns_open": keys.turns_open(),
        "turns_waiting": keys.turns_waiting(),
        "ring": keys.ring(),
        "workers": keys.workers(),
        "idle": keys.idle(),
        "nothing": keys.nothing(),
    }
    return f"local KEY = {{{', '.join(f'{k} = {v!r}' for k, v in patterns.items())}}}"


def _steps(table: str, transitions: Mapping[Any, frozenset[StrEnum]]) -> str:
    rows = (
        f"  {old.value} = {{{', '.join(f'{new.value} = true' for new in sorted(news))}}},"
        for old, news in transitions.items()
    )
    return "\n".join((f"local {table} = {{", *rows, "}"))
