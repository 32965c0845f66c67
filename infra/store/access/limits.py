"""The limits that submit checks, and the error for a caller who exceeds one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.wire.errors import RequestRefused
from infra.wire.text.words import Case, refused

RETRY_AFTER_LEAST_S = 5.0
RETRY_AFTER_MOST_S = 30.0

_SHARE_TO_EMPTY = 0.1
"""The share of a queue that has to be free before refused callers should retry: room for a single
turn would be taken at once."""


@dataclass(frozen=True)
class SubmitLimits:
    """The limits for a new turn, named like their settings; 0: no limit."""

    turns_waiting_max: int
    """Waiting turns of one conversation (at least 1)."""
    queue_max: int = 0
    """Turns of the whole cluster that wait for a worker."""
    tenant_turns_max: int = 0
    """A tenant's turns that have not ended."""
    tenant_queue_max: int = 0
    """A tenant's waiting turns."""
    tenant_budget_tokens: int = 0
    """Tokens that a tenant's turns may spend per day (UTC)."""
    tenant_bytes_max: int = 0
    """Bytes that a tenant may have in Redis, including the new request."""


def refusal(
    bound: str, *, turns: int = 0, oldest_ms: int = 0, day_left_ms: int = 0, held_bytes: int = 0
) -> RequestRefused:
    """The error for a caller at a limit; `bound` is the submit script's name for the limit.

    `turns` is the current number, the oldest of which is `oldest_ms` old. For a budget,
    `day_left_ms` is left of the day.
    """
    if bound == "budget":
        return refused(Case.DAY_SPENT, retry_after_s=day_left_ms / 1000)
    return refused(
        _CASES[bound],
        retry_after_s=retry_after_s(oldest_ms),
        turns=turns,
        mb=held_bytes // 1_000_000,
    )


def retry_after_s(oldest_ms: int) -> float:
    """Seconds until a tenth of the turns will be done, estimated from the age of the oldest.

    As many turns came since the oldest one as there are now. If their number is steady, as many
    finished in that time, and a tenth of them finish in a tenth of it.
    """
    return min(max(oldest_ms / 1000 * _SHARE_TO_EMPTY, RETRY_AFTER_LEAST_S), RETRY_AFTER_MOST_S)


_CASES: Mapping[str, Case] = {
    "conversation": Case.CONVERSATION_WAITS,
    "cluster": Case.CLUSTER_WAITS,
    "tenant": Case.KEY_OPEN,
    "tenant_queue": Case.KEY_WAITS,
    "tenant_bytes": Case.KEY_HOLDS,
}
