"""Limits how many answers a tenant may have open at this replica."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from types import TracebackType

from infra.wire.ids import TenantId
from infra.wire.text.words import Case, refused


class AnswerQuota:
    """Counts open answers; `per_tenant_max` 0: no limit."""

    def __init__(self, *, per_tenant_max: int) -> None:
        self._max = per_tenant_max
        self._open: Counter[TenantId] = Counter()

    def counted(self, tenant: TenantId) -> AbstractContextManager[None]:
        """Count one more until the block ends. Raises `RequestRefused` beyond the limit."""
        if self._max and self._open[tenant] >= self._max:
            raise refused(Case.KEY_STREAMS, answers=self._max)
        return _Counted(self._open, tenant)


class _Counted(AbstractContextManager[None]):
    """One open answer. (A generator would take three times the memory for as long as it is.)"""

    __slots__ = ("_open", "_tenant")

    def __init__(self, open_answers: Counter[TenantId], tenant: TenantId) -> None:
        self._open = open_answers
        self._tenant = tenant

    def __enter__(self) -> None:
        self._open[self._tenant] += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open[self._tenant] -= 1
        if not self._open[self._tenant]:
            del self._open[self._tenant]
