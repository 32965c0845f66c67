"""Arguments and answers of the scripts for turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from infra.store.server.calls import Call
from infra.store.server.replies import Answer, AnswerRow, OkAnswer, StepAnswer
from infra.store.turns.history import Memory
from infra.wire.errors import ErrorCode
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
from infra.wire.states import TurnState
from infra.wire.turns import Lane, OnDisconnect

_NO_TURN = TurnId("")


class SubmitAnswer(Answer, frozen=True):
    outcome: Literal[
        "created",
        "joined",
        "repeated",
        "conversation",
        "cluster",
        "tenant",
        "tenant_queue",
        "budget",
        "tenant_bytes",
        "caller_over",
        "called",
    ]
    """The result, or the limit that is reached."""
    turn: TurnId = _NO_TURN
    owner: WorkerId | None = None
    ahead: int = 0
    told: int = 0
    turns: int = 0
    oldest_ms: int = 0
    day_left_ms: int = 0
    held_bytes: int = 0


class SubmitCall(Call[SubmitAnswer], frozen=True):
    conversation: ConversationKey
    turn: TurnId
    tenant: TenantId
    label: str
    request: str | bytes
    replica: ReplicaId
    model: str
    sealed_key: str
    key_expires_ms: int
    on_disconnect: OnDisconnect
    lane: Lane
    options: str
    digest: str
    repeats: str
    supersedes: TurnId | None
    reader: ReaderId | None
    is_thin: bool
    caller: TurnId | None
    granted_tokens: int
    called_at_once_max: int
    called_max: int
    order: bytes
    look_after_ms: int
    lease_sure_ms: int
    open_ttl_ms: int
    retention_ms: int
    todo_ttl_ms: int
    idle_timeout_ms: int
    listed_max: int
    turns_waiting_max: int
    queue_max: int
    tenant_turns_max: int
    tenant_queue_max: int
    tenant_budget_tokens: int
    tenant_bytes_max: int


class ClaimAnswer(Answer, frozen=True):
    outcome: Literal["lost", "none", "claimed"]
    turn: TurnId = _NO_TURN
    is_adoption: bool = False
    record: Mapping[str, str] = msgspec.field(default_factory=dict)
    request: bytes = b""
    age_ms: int = 0
    host: HostId | None = None
    sdk_session: str | None = None
    is_resending: bool = False
    transcript_full: str | None = None
    options: str | None = None
    known: int = 0
    newest: bytes = b""


class ClaimCall(Call[ClaimAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    attempts_max: int
    look_after_ms: int
    out_of_attempts: bytes
    out_of_attempts_code: ErrorCode
    cancelled: bytes
    events_max: int
    ended_ttl_ms: int


class StartCall(Call[StepAnswer], frozen=True):
    worker: WorkerId
    fence: Fence
    turn: TurnId
    base: bytes
    is_resending: bool
    heads: str


class RequeueAnswer(Answer, frozen=True):
    outcome: Literal["ok", "no", "lost"]


class RequeueCall(Call[RequeueAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    turn: TurnId
    attempts_max: int
    refusals_max: int
    cancelled: bytes
    events_max: int
    ended_ttl_ms: int


class FinishAnswer(Answer, frozen=True):
    outcome: Literal["ok", "lost", "illegal", "torn"]
    is_next_waiting: bool = False
    state: str = ""
    newest: int = 0


class FinishCall(Call[FinishAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    turn: TurnId
    n: int
    end_event: bytes
    state: TurnState
    reason: str
    usage: bytes
    idle_timeout_ms: int
    events_max: int
    ended_ttl_ms: int
    memory: Memory
    base: bytes
    checkpoint: str | None
    answer_heads: str
    metered: str


class CancelAnswer(Answer, frozen=True):
    outcome: Literal["ok", "unknown"]
    state: str = ""


class CancelCall(Call[CancelAnswer], frozen=True):
    turn: TurnId
    tenant: TenantId
    reason: str
    cancelled: bytes
    order: bytes
    events_max: int
    ended_ttl_ms: int


class MarkDeliveredCall(Call[OkAnswer], frozen=True):
    pass


class ExpireAnswer(Answer, frozen=True):
    outcome: Literal["expired", "not_queued"]


class ExpireCall(Call[ExpireAnswer], frozen=True):
    turn: TurnId
    reason: ErrorCode
    end_event: bytes
    events_max: int
    ended_ttl_ms: int


class PositionAnswer(Answer, frozen=True):
    outcome: Literal["waits", "no"]
    ahead: int = 0


class PositionCall(Call[PositionAnswer], frozen=True):
    turn: TurnId
    tenants_max: int


class FoundOpen(AnswerRow, frozen=True):
    """`state` and `lane` may be words of a later version."""

    turn: TurnId
    conversation: ConversationKey
    state: str
    owner: WorkerId | None
    age_ms: int
    lane: str
    unowned_ms: int
    is_left: bool


class UnclaimedAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    found: Sequence[FoundOpen]


class UnclaimedCall(Call[UnclaimedAnswer], frozen=True):
    pause_ms: int
    most: int
    pause_max_ms: int
    lease_ms: int
    adrift: bytes
    adrift_code: ErrorCode
    events_max: int
    ended_ttl_ms: int
