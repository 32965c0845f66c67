"""How much may wait: the bounds that submit checks, and what a refused caller is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.wire.errors import RequestRefused
from infra.wire.words import Case, refused

RETRY_AFTER_LEAST_S = 5.0
RETRY_AFTER_MOST_S = 30.0

_SHARE_TO_EMPTY = 0.1
"""Room for one turn is gone at once when many are refused: they come back when there is more."""


@dataclass(frozen=True)
class SubmitLimits:
    """The bounds of a new turn, named as their settings; 0: none."""

    turns_waiting_max: int
    """Turns of one conversation that may wait (at least 1)."""
    queue_max: int = 0
    """Turns of the whole cluster that may wait for a worker."""
    tenant_turns_max: int = 0
    """Turns of a tenant that have not ended."""
    tenant_queue_max: int = 0
    """Those of them that wait."""
    tenant_budget_tokens: int = 0
    """What its turns may spend in a day (UTC)."""
    tenant_bytes_max: int = 0
    """What it may hold in Redis, the new request included."""


def refusal(
    bound: str, *, turns: int = 0, oldest_ms: int = 0, day_left_ms: int = 0, held_bytes: int = 0
) -> RequestRefused:
    """What a caller is told when a bound is reached; `bound` is the submit script's word for it.

    `turns` there are, the oldest for `oldest_ms`; of a budget, `day_left_ms` is left of the day.
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
    """When a tenth of what is there will have gone, if the oldest of it tells how fast it goes.

    So many turns came since the oldest one, and as many went in that time if their number is
    steady: a tenth of them goes in a tenth of its age.
    """
    return min(max(oldest_ms / 1000 * _SHARE_TO_EMPTY, RETRY_AFTER_LEAST_S), RETRY_AFTER_MOST_S)


_CASES: Mapping[str, Case] = {
    "conversation": Case.CONVERSATION_WAITS,
    "cluster": Case.CLUSTER_WAITS,
    "tenant": Case.KEY_OPEN,
    "tenant_queue": Case.KEY_WAITS,
    "tenant_bytes": Case.KEY_HOLDS,
}
