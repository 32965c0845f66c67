"""Typed records of turns: submitted, stored, claimed, found open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter

from infra.store.server.replies import word
from infra.store.turns.calls import FoundOpen
from infra.store.turns.history import TurnBase, decode_base
from infra.wire.agents.profile import AgentProfile
from infra.wire.base import decode
from infra.wire.errors import AgClusterError
from infra.wire.events import Usage
from infra.wire.history.decision import Accepted, Base
from infra.wire.ids import (
    ConversationKey,
    Fence,
    HostId,
    ReaderId,
    ReplicaId,
    TenantId,
    TurnId,
    WorkerId,
)
from infra.wire.mcp.logins import OpenLogin
from infra.wire.options import NO_OPTIONS, ConversationOptions
from infra.wire.states import TurnState
from infra.wire.turns import ContentBlock, Lane, OnDisconnect, TurnRequest


class RepeatOf(StrEnum):
    """Which earlier turns with its digest a request may get."""

    ANY = "any"
    LEFT = "left"
    """Only a running turn that nobody reads: its client was disconnected, and asks again."""


@dataclass(frozen=True)
class CalledBy:
    """The turn whose agent calls that of a new turn, and what it may call. `granted_tokens`: what
    the new turn may spend of its budget; 0 if it has none."""

    turn: TurnId
    at_once_max: int
    most: int
    granted_tokens: int = 0


class CallerOver(AgClusterError):
    """The turn whose agent calls another one has ended, or is being cancelled."""


class CallsTooMany(AgClusterError):
    """The turn's agent has called as many others as it may, or as many at once."""


@dataclass(frozen=True)
class NewTurn:
    """Everything that submit writes."""

    request: TurnRequest
    replica: ReplicaId
    sealed_key: str
    key_expires_ms: int
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    label: str = ""
    """The client's own conversation id, cleaned for display."""
    asked_model: str | None = None
    """The client's name for the model, if that is not its id."""
    idempotency: str | None = None
    """The digest by which a repeat of the request finds the same turn."""
    repeats: RepeatOf = RepeatOf.ANY
    reader: ReaderId | None = None
    """The client's open answer, for this turn or the one that it repeats (`readers`)."""
    called_by: CalledBy | None = None
    """None for a turn that a client asks for."""
    is_large: bool = False
    """Its request is encoded in a thread."""
    supersedes: TurnId | None = None
    """The turn found under that digest, if it can no longer be read: this one replaces it."""


@dataclass(frozen=True)
class Submitted:
    """`turn` is the earlier one if the request is a repeat (`created` False).

    `is_joined`: that turn is running, and `reader` is one of its readers from this moment. `owner`
    is the conversation's live owner, if any, and `is_told` whether it already knows of the turn; if
    not, enqueue a hint for it. `position` counts the conversation's turns ahead.
    """

    turn: TurnId
    created: bool
    owner: WorkerId | None
    position: int
    is_told: bool = False
    is_joined: bool = False


@dataclass(frozen=True)
class TurnRecord:
    """A turn's hash, typed. Times in Unix ms."""

    turn: TurnId
    conversation: ConversationKey
    tenant: TenantId
    replica: ReplicaId
    state: TurnState
    model: str
    """The client's name for it, which may be an alias."""
    attempt: int
    fence: Fence
    seq: int
    """The newest number in the log; 0 if it is empty."""
    created_ms: int
    sealed_key: str | None
    key_expires_ms: int
    on_disconnect: OnDisconnect
    lane: Lane
    cancel: str | None
    """The reason, if somebody asked to stop it."""
    ended_ms: int | None = None
    reason: str | None = None
    said_bytes: int = 0
    """Bytes of its logged events."""
    is_delivered: bool = False
    """Whether a client has received the whole answer."""
    base: TurnBase | None = None
    """The memory that it continues."""
    usage: Usage | None = None
    """Its usage so far."""
    begun: int | None = None
    """Which of its conversation's turns it is that the submit script began for their owner; None if
    a claim began it. Its base need not be on record."""
    adoptions: int = 0
    """How many owners took it over from one that died, since its last event was logged."""


@dataclass(frozen=True)
class Unheard:
    """A message that was stopped before it reached its agent."""

    digest: str
    prompt: tuple[ContentBlock, ...]


@dataclass(frozen=True)
class Claimed:
    """A claimed turn. `is_adoption`: a previous owner had already begun it, and its agent may still
    run it."""

    record: TurnRecord
    request: TurnRequest
    is_adoption: bool
    host: HostId | None = None
    """The host of the conversation's last container. If it is not the claimer's host, that
    container is out of its reach."""
    accepted: tuple[Accepted, ...] = ()
    """The prompts in the agent's memory, or the end of that list."""
    unread: int = 0
    """How many stand before those and were not read, because they change nothing."""
    decided: Base | None = None
    """What follows from what the client sent (`infra.wire.history.decision.decide`), where that
    could be said without them."""
    unheard: tuple[Unheard, ...] = ()
    """What its client has sent since, and will not send again."""
    sdk_session: str | None = None
    """The SDK session with that memory."""
    is_resending: bool = False
    """Whether the conversation's client has sent history before."""
    is_transcript_full: bool = False
    """Whether that session was too large to be stored, so that it cannot be resumed elsewhere."""
    profile: AgentProfile | None = None
    """The profile of its agent, in the version that its conversation works with; None for the usual
    one. Who claims it adds this."""
    mcp_logins: Mapping[str, OpenLogin] = field(default_factory=dict)
    """The logins that its agent has at its MCP servers. Who claims it adds these."""
    age_s: float = 0.0
    """Milliseconds since it was begun, by the clock of Redis. Its deadline counts from there, not
    from its current owner's claim."""

    @property
    def known(self) -> int:
        """The number of prompts in the agent's memory."""
        return self.unread + len(self.accepted)

    @property
    def left_s(self) -> float:
        """Seconds until its deadline."""
        return max(self.request.deadline_s - self.age_s, 0.0)


@dataclass(frozen=True)
class OpenTurnRef:
    """An open turn that the sweeper found; `owner` is the conversation's live owner."""

    turn: TurnId
    conversation: ConversationKey
    state: TurnState
    owner: WorkerId | None
    age_ms: int
    lane: Lane = Lane.AGENT
    unowned_ms: int = 0
    """How long a begun turn has had no owner: since a sweep found that its owner had left, or since
    the lease before that."""
    is_left: bool = False
    """Whether its owner left in order, so that a successor is likely to come."""


def turn_record(turn: TurnId, held: Mapping[str, str]) -> TurnRecord:
    """A turn's hash, as read. Raises `UnknownMessage` for words of a later version."""
    return TurnRecord(
        turn=turn,
        conversation=ConversationKey(held["conv"]),
        tenant=TenantId(held["tenant"]),
        replica=ReplicaId(held["replica"]),
        state=word(TurnState, held["state"]),
        model=held["model"],
        attempt=int(held["attempt"]),
        fence=Fence(int(held["fence"])),
        seq=int(held["seq"]),
        created_ms=int(held["created"]),
        sealed_key=held.get("key_sealed") or None,
        key_expires_ms=int(held["key_expires"]),
        on_disconnect=word(OnDisconnect, held["on_disconnect"]),
        lane=word(Lane, held.get("lane", Lane.AGENT)),
        cancel=held.get("cancel"),
        ended_ms=int(held["ended"]) if "ended" in held else None,
        reason=held.get("reason"),
        said_bytes=int(held.get("said", 0)),
        is_delivered="delivered" in held,
        base=decode_base(held["base"]) if "base" in held else None,
        usage=Usage.model_validate_json(held["usage"]) if "usage" in held else None,
        begun=int(held["begun"]) if "begun" in held else None,
        adoptions=int(held.get("adoptions", 0)),
    )


def open_turn(found: FoundOpen) -> OpenTurnRef:
    """One answer of the `unclaimed` script. Raises `UnknownMessage`."""
    return OpenTurnRef(
        turn=found.turn,
        conversation=found.conversation,
        state=word(TurnState, found.state),
        owner=found.owner,
        age_ms=found.age_ms,
        lane=word(Lane, found.lane),
        unowned_ms=found.unowned_ms,
        is_left=found.is_left,
    )


def options_named(options: ConversationOptions) -> str:
    """The options as the submit script merges them into those of the conversation: names, and the
    JSON of each.

    The JSON values are strings, because a script would write an empty list back as an empty object.
    Empty if none is named.
    """
    named = options.model_dump(mode="json", exclude_none=True)
    return json.dumps({name: json.dumps(value) for name, value in named.items()}) if named else ""


def options_kept(raw: str | None) -> ConversationOptions:
    """The stored options of the conversation. Raises `MalformedMessage`."""
    if raw is None:
        return NO_OPTIONS
    kept = {name: json.loads(value) for name, value in json.loads(raw).items()}
    options: ConversationOptions = decode(_OPTIONS, json.dumps(kept))
    return options


_OPTIONS: TypeAdapter[ConversationOptions] = TypeAdapter(ConversationOptions)
