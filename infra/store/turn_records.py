"""What the store says of turns, typed: asked for, on record, claimed, found open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter

from infra.store.history import TurnBase, decode_base
from infra.store.server.replies import word
from infra.store.turn_calls import FoundOpen
from infra.wire.base import decode
from infra.wire.events import Usage
from infra.wire.history import Accepted
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
from infra.wire.options import NO_OPTIONS, ConversationOptions
from infra.wire.states import TurnState
from infra.wire.turns import ContentBlock, Lane, OnDisconnect, TurnRequest


class RepeatOf(StrEnum):
    """Which earlier turns of its digest a request may get."""

    ANY = "any"
    LEFT = "left"
    """Only one under way that nobody reads any more: its client was cut off, and asks again."""


@dataclass(frozen=True)
class NewTurn:
    """All that submit writes."""

    request: TurnRequest
    replica: ReplicaId
    sealed_key: str
    key_expires_ms: int
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    label: str = ""
    """The client's own conversation id, cleaned for display."""
    asked_model: str | None = None
    """The model as the client called it, when that is not its id."""
    idempotency: str | None = None
    """Digest that makes a repeat of the request the same turn."""
    repeats: RepeatOf = RepeatOf.ANY
    reader: ReaderId | None = None
    """The answer that will be read of it, or of the turn it repeats (`infra.store.readers`)."""
    is_large: bool = False
    """It is written out beside the loop."""
    supersedes: TurnId | None = None
    """The turn found under that digest, when it cannot be read any more: this one takes its place.
    """


@dataclass(frozen=True)
class Submitted:
    """`turn` is the earlier one when the request is a repeat (`created` False).

    `is_joined`: that one is under way, and `reader` has been among its readers from this moment.
    `owner` is the conversation's living owner, if any, and `is_told` whether it has heard of the
    turn already; if not, enqueue for it. `position` counts the conversation's turns ahead.
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
    """As its client called it; an alias perhaps."""
    attempt: int
    fence: Fence
    seq: int
    """Newest number in the log; 0: empty."""
    created_ms: int
    sealed_key: str | None
    key_expires_ms: int
    on_disconnect: OnDisconnect
    lane: Lane
    cancel: str | None
    """Reason, when somebody asked for it to stop."""
    ended_ms: int | None = None
    reason: str | None = None
    said_bytes: int = 0
    """Of its events, as they are logged."""
    is_delivered: bool = False
    """A client has been given the whole answer."""
    base: TurnBase | None = None
    """The memory it was started on."""
    usage: Usage | None = None
    """What it has used so far."""
    adoptions: int = 0
    """Owners that took it, running, from one that died, since its last event was logged."""


@dataclass(frozen=True)
class Unheard:
    """A message that was stopped before its agent had it."""

    digest: str
    prompt: tuple[ContentBlock, ...]


@dataclass(frozen=True)
class Claimed:
    """`is_adoption`:

    the turn was already begun by an owner that is gone; its agent may still run it.
    """

    record: TurnRecord
    request: TurnRequest
    is_adoption: bool
    host: HostId | None = None
    """Where the conversation's container was last. Another host than the claimer's: out of its
    reach."""
    accepted: tuple[Accepted, ...] = ()
    """The prompts in the agent's memory."""
    unheard: tuple[Unheard, ...] = ()
    """What its client said since, and will not say again."""
    sdk_session: str | None = None
    """The SDK session that memory is in."""
    is_resending: bool = False
    """The conversation's client has sent history before."""
    is_transcript_full: bool = False
    """That session was too large to keep: it cannot be resumed elsewhere."""
    age_s: float = 0.0
    """How long ago it was begun, by the clock of Redis: its deadline counts from there, and not
    from the owner that has it now."""

    @property
    def left_s(self) -> float:
        """What is left of its time."""
        return max(self.request.deadline_s - self.age_s, 0.0)


@dataclass(frozen=True)
class OpenTurnRef:
    """An open turn the sweeper found; `owner` is the conversation's living owner."""

    turn: TurnId
    conversation: ConversationKey
    state: TurnState
    owner: WorkerId | None
    age_ms: int
    lane: Lane = Lane.AGENT
    unowned_ms: int = 0
    """For how long a begun one has had no owner: since a sweep missed one that left in order, or
    since a lease before that."""
    is_left: bool = False
    """Its owner left in order: a successor is likely to come."""


def turn_record(turn: TurnId, held: Mapping[str, str]) -> TurnRecord:
    """A turn's hash as it was read. Raises `UnknownMessage` for words of a later version."""
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
        sealed_key=held.get("key_sealed"),
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
    """As the submit script merges them into those of the conversation: names and the JSON of each.

    The JSON stands in strings, for a script would write an empty list back as an empty object.
    Empty when none is named.
    """
    named = options.model_dump(mode="json", exclude_none=True)
    return json.dumps({name: json.dumps(value) for name, value in named.items()}) if named else ""


def options_kept(raw: str | None) -> ConversationOptions:
    """Those of the conversation, as they were kept. Raises `MalformedMessage`."""
    if raw is None:
        return NO_OPTIONS
    kept = {name: json.loads(value) for name, value in json.loads(raw).items()}
    options: ConversationOptions = decode(_OPTIONS, json.dumps(kept))
    return options


_OPTIONS: TypeAdapter[ConversationOptions] = TypeAdapter(ConversationOptions)
