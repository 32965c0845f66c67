"""Limits how many answers a tenant may have open at this replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from infra.wire.ids import TenantId
from infra.wire.words import Case, refused


class AnswerQuota:
    """Counts open answers; `per_tenant_max` 0: no limit."""

    def __init__(self, *, per_tenant_max: int) -> None:
        self._max = per_tenant_max
        self._open: Counter[TenantId] = Counter()

    @contextmanager
    def counted(self, tenant: TenantId) -> Iterator[None]:
        """Count one more until the block ends. Raises `RequestRefused` beyond the limit."""
        if self._max and self._open[tenant] >= self._max:
            raise refused(Case.KEY_STREAMS, answers=self._max)
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]
