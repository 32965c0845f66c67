"""Everything that can go wrong, named after what happened.

    AgClusterError                 .code may cross the wire and is stable
    ├── RequestRefused             the caller can fix it: bad body, bad key, too much
    ├── TurnFailed                 a turn ended without an answer (carries an ErrorCode)
    ├── TurnNotFound               this tenant has no such turn
    ├── ConversationBusy           a turn of the conversation runs or waits
    ├── ConversationNotFound       this tenant has no such conversation
    ├── FileNotKept                this tenant has no such file or upload
    ├── FileGone                   a file's bytes are not where its record says
    ├── FileStoreUnavailable       the file store did not answer, or refused
    ├── LeaseLost                  a newer owner exists: stop writing at once
    ├── TurnLogTorn                logged events are missing from the log
    ├── TenantHoldsTooMuch         the tenant of a running turn has used up its bytes in Redis
    ├── LeaseHeld                  another worker owns the conversation
    ├── StoreUnavailable           Redis did not answer, or refused the write
    │   └── StoreUnfit             this Redis must not be used; the message says what to change
    ├── GatewayUnavailable         the host's gateway did not answer
    ├── AgentUnreachable           the agent's socket is gone or does not answer
    ├── ContainerFailed            the isolation could not be started, or vanished
    │   ├── EngineFailed           the host's engine failed, not the container
    │   └── AgentImageRefused      the agent's own image may not be used here, or is missing
    ├── NoIsolation                nothing on this machine can isolate an agent
    ├── ContentNotOpened           stored content was sealed with another secret
    ├── KeyNotOpened               a sealed key is damaged, expired or meant for something else
    ├── IllegalTransition          a transition that the state machine's table does not have
    ├── UnknownMessage             a type that this version does not know: skip it
    └── MalformedMessage           bytes that are not a message: close the link

`api/errors.py` alone turns a code into an HTTP status and an OpenAI error body.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from infra.wire.text.foreign import foreign


class ErrorCode(StrEnum):
    """Stable codes for why a turn or a request failed."""

    INVALID_REQUEST = "invalid_request"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    MISSING_KEY = "missing_api_key"
    INVALID_KEY = "invalid_api_key"
    PERMISSION_DENIED = "permission_denied"
    MODEL_NOT_FOUND = "model_not_found"
    CONTEXT_TOO_LONG = "context_length_exceeded"
    RATE_LIMITED = "rate_limit_exceeded"
    INSUFFICIENT_QUOTA = "insufficient_quota"
    BUDGET_EXCEEDED = "budget_exceeded"
    OVERLOADED = "upstream_overloaded"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    NOT_AS_ASKED = "model_did_not_comply"
    TURN_NOT_FOUND = "turn_not_found"
    CONVERSATION_BUSY = "conversation_busy"
    TURN_RUNNING = "turn_running"
    CONVERSATION_NOT_FOUND = "conversation_not_found"
    FILE_NOT_FOUND = "file_not_found"
    REGISTRY_ENTRY_NOT_FOUND = "registry_entry_not_found"
    LINK_EXPIRED = "link_expired"
    FILE_TOO_LARGE = "file_too_large"
    FILES_FULL = "file_quota_exceeded"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    FILE_STORE_UNAVAILABLE = "file_store_unavailable"
    QUEUE_FULL = "queue_full"
    CLUSTER_FULL = "cluster_full"
    TENANT_LIMIT = "tenant_limit_exceeded"
    REPLICA_FULL = "replica_full"
    QUEUE_TIMEOUT = "queue_timeout"
    TURN_TIMED_OUT = "turn_timed_out"
    TURN_CANCELLED = "turn_cancelled"
    CONTAINER_FAILED = "container_failed"
    CONTAINER_LOST = "container_lost"
    OUT_OF_MEMORY = "out_of_memory"
    WORKSPACE_FULL = "workspace_full"
    AGENT_FAILED = "agent_failed"
    FORM_NOT_KEPT = "structured_output_failed"
    LOG_LOST = "turn_log_lost"
    LOG_TRIMMED = "turn_log_trimmed"
    STORE_UNAVAILABLE = "store_unavailable"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal_error"


class AgClusterError(Exception):
    """Root of every error of this project."""

    code: ErrorCode = ErrorCode.INTERNAL


class RequestRefused(AgClusterError):
    """A request that cannot be served as it is; the message says what to change. If the message is
    empty, the code's own sentence is used (`infra.wire.text.words`).

    `param` names the offending field in OpenAI's notation (`messages[2].content`); `retry_after_s`
    is set if waiting helps.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.INVALID_REQUEST,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class TurnFailed(AgClusterError):
    """A turn ended without an answer. If the message is empty, the code's own sentence is used."""

    def __init__(
        self, message: str, *, code: ErrorCode, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s


class TurnNotFound(AgClusterError):
    """No such turn, or it belongs to another tenant: callers cannot tell the two apart."""

    code = ErrorCode.TURN_NOT_FOUND


class ConversationNotFound(AgClusterError):
    """No such conversation, or it belongs to another tenant: callers cannot tell the two apart."""

    code = ErrorCode.CONVERSATION_NOT_FOUND


class ConversationBusy(AgClusterError):
    """A turn of the conversation runs or waits; cancel it first."""

    code = ErrorCode.CONVERSATION_BUSY

    def __init__(self, turn: str) -> None:
        super().__init__(f"turn {turn} has not ended")
        self.turn = turn


class FileNotKept(AgClusterError):
    """No such file or upload, or it belongs to another tenant: callers cannot tell the two
    apart."""

    code = ErrorCode.FILE_NOT_FOUND


class LinkExpired(AgClusterError):
    """A link to a file that was good once: its time is over, or the file was deleted."""

    code = ErrorCode.LINK_EXPIRED


class FileGone(AgClusterError):
    """The bytes of a file are not where its record says, or are fewer."""

    code = ErrorCode.FILE_NOT_FOUND


class FileStoreUnavailable(AgClusterError):
    """The file store did not answer in time, refused, or is full."""

    code = ErrorCode.FILE_STORE_UNAVAILABLE


class LeaseLost(AgClusterError):
    """A write carried a stale fence. The writer must stop publishing for that conversation."""

    def __init__(self, conversation: str, fence: int) -> None:
        super().__init__(f"lease of {conversation} lost (fence {fence})")
        self.conversation = conversation
        self.fence = fence


class TurnLogTorn(AgClusterError):
    """The log lacks events just before these, although they were logged: a failover lost them.

    `newest` is the last number that is in the log.
    """

    code = ErrorCode.LOG_LOST

    def __init__(self, turn: str, newest: int) -> None:
        super().__init__(f"the log of {turn} ends at {newest}")
        self.turn = turn
        self.newest = newest


class TenantHoldsTooMuch(AgClusterError):
    """No more events of the turn are logged, because its tenant has used up its bytes in Redis.

    `newest` is the last number that is in the log.
    """

    code = ErrorCode.TENANT_LIMIT

    def __init__(self, turn: str, newest: int) -> None:
        super().__init__(f"the tenant of {turn} holds too much; its log ends at {newest}")
        self.turn = turn
        self.newest = newest


class LeaseHeld(AgClusterError):
    """The conversation has a live owner; send the turn there."""

    def __init__(self, conversation: str, owner: str) -> None:
        super().__init__(f"conversation {conversation} is owned by {owner}")
        self.conversation = conversation
        self.owner = owner


class StoreUnavailable(AgClusterError):
    """Redis did not answer in time, is read-only, full or starting."""

    code = ErrorCode.STORE_UNAVAILABLE


class StoreUnfit(StoreUnavailable):
    """Waiting does not make this Redis usable: it evicts keys, is too old, or denies us rights.
    Raised at startup."""


class GatewayUnavailable(AgClusterError):
    """The host's gateway did not answer its control socket."""

    code = ErrorCode.CONTAINER_FAILED


class AgentUnreachable(AgClusterError):
    """The agent server's socket is gone, refused the connection or did not answer."""

    code = ErrorCode.AGENT_FAILED


class ContainerFailed(AgClusterError):
    """A conversation's isolation could not be started, or ended on its own."""

    def __init__(self, message: str, *, code: ErrorCode = ErrorCode.CONTAINER_FAILED) -> None:
        super().__init__(message)
        self.code = code


class EngineFailed(ContainerFailed):
    """The host's engine does not start containers: it is unreachable, refuses, hangs, or its disk
    is full.

    Nothing was started, and other conversations will probably fail on this host too.
    """


class AgentImageRefused(ContainerFailed):
    """An agent's profile names an image that its host may not use, or does not have."""


class NoIsolation(AgClusterError):
    """Nothing on this machine can isolate an agent. The message says what to install."""

    code = ErrorCode.CONTAINER_FAILED


class KeyNotOpened(AgClusterError):
    """A sealed key is damaged, expired, or sealed for another turn."""

    code = ErrorCode.INVALID_KEY


class ContentNotOpened(AgClusterError):
    """Stored content was sealed with a secret that we do not have, or for another place."""


class IllegalTransition(AgClusterError):
    """A transition that the state machine's table does not have; contains the object's history."""

    def __init__(self, thing: str, old: str, new: str, story: Sequence[str] = ()) -> None:
        told = " -> ".join(story) or old
        super().__init__(f"{thing}: {old} -> {new} is not a transition (story: {told})")
        self.thing, self.old, self.new, self.story = thing, old, new, tuple(story)


class UnknownMessage(AgClusterError):
    """A message type that this version does not know. Readers count and skip it."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"unknown message type {foreign(kind, max_chars=60)}")
        self.kind = kind


class MalformedMessage(AgClusterError):
    """Bytes that are not a message of this link."""


_RETRYABLE: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.RATE_LIMITED,
        ErrorCode.OVERLOADED,
        ErrorCode.QUEUE_FULL,
        ErrorCode.CLUSTER_FULL,
        ErrorCode.TENANT_LIMIT,
        ErrorCode.REPLICA_FULL,
        ErrorCode.QUEUE_TIMEOUT,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.FILE_STORE_UNAVAILABLE,
        ErrorCode.SHUTTING_DOWN,
    }
)


def is_retryable(code: ErrorCode) -> bool:
    """Whether the same request may succeed later without a change."""
    return code in _RETRYABLE
