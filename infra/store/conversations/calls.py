"""Arguments and answers of the scripts for conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from infra.store.server.calls import Call
from infra.store.server.replies import Answer, AnswerRow, StepAnswer
from infra.wire.ids import ConversationKey, Fence, HostId, TenantId, TurnId, WorkerId
from infra.wire.states import ConversationState, Hibernation


class UpdateCall(Call[StepAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    state: ConversationState
    container: str | None
    sdk_session: str | None


class DueConversation(AnswerRow, frozen=True):
    conversation: ConversationKey
    owner: WorkerId | None
    host: HostId | None


class DueAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    found: Sequence[DueConversation]


class DueCall(Call[DueAnswer], frozen=True):
    most: int
    worker: WorkerId | None
    host: HostId | None
    owned: Sequence[ConversationKey]


class ReapAnswer(Answer, frozen=True):
    outcome: Literal["won", "no"]


class ReapCall(Call[ReapAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    again_ms: int


class HibernateAnswer(Answer, frozen=True):
    outcome: Literal["won", "no", "lost"]


class HibernateCall(Call[HibernateAnswer], frozen=True):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    reason: Hibernation
    again_ms: int


class ListedConversation(AnswerRow, frozen=True):
    conversation: ConversationKey
    last_active_ms: str
    record: Mapping[str, str]


class ListConversationsAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    found: Sequence[ListedConversation]


class ListConversationsCall(Call[ListConversationsAnswer], frozen=True):
    most: int
    before_ms: str
    last: str


class StopAnswer(Answer, frozen=True):
    outcome: Literal["ok", "unknown"]
    state: str = ""
    turn: TurnId | None = None
    owner: WorkerId | None = None


class StopCall(Call[StopAnswer], frozen=True):
    conversation: ConversationKey
    tenant: TenantId | None
    reason: str
    cancelled: bytes
    order: bytes
    events_max: int
    ended_ttl_ms: int


class DeleteAnswer(Answer, frozen=True):
    outcome: Literal["ok", "busy", "unknown", "more", "called"]
    host: HostId | None = None
    owner: WorkerId | None = None
    container: str | None = None
    turn: str = ""
    called: ConversationKey | None = None


class DeleteCall(Call[DeleteAnswer], frozen=True):
    conversation: ConversationKey
    tenant: TenantId | None
    is_forced: bool
    cancelled: bytes
    reason: str
    events_max: int
    ended_ttl_ms: int
    order: bytes
    forgotten_at_once: int


class RestoreAnswer(Answer, frozen=True):
    outcome: Literal["restored", "no"]


class RestoreCall(Call[RestoreAnswer], frozen=True):
    conversation: ConversationKey
    host: HostId
    container: str
    fence: Fence
    idle_timeout_ms: int
    unknown_ttl_ms: int
