"""Counts the bytes of request bodies that this replica holds, in total and by key.

The key is known when its body arrives. All requests of one key together may never hold more than
stays free. So one key gets at most half, two keys a third each, and there is always room for the
next one.
"""

from __future__ import annotations

from collections import Counter

from infra.metrics.api import HELD_BODIES
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.ids import TenantId

_FULL_OF_YOURS = (
    "The requests of this key that are being read are as large as they may be together. "
    "Send fewer large ones at once."
)


class HeldBodies:
    """Limits in total and by key; each request has its own `Held`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._of = Counter[TenantId]()

    def request(self) -> Held:
        """The account of one request, which holds nothing yet."""
        return Held(self)

    def change(
        self, tenant: TenantId | None, held: int, wanted: int, *, is_alone_enough: bool
    ) -> None:
        """A request wants to hold another number of bytes. Raises `RequestRefused`."""
        others = self._bytes - held
        if wanted > held and (others or not is_alone_enough):
            own_others = self._of[tenant] - held if tenant is not None else 0
            free = self._max_bytes - others - wanted
            if own_others and own_others + wanted > free:
                raise RequestRefused(_FULL_OF_YOURS, code=ErrorCode.TENANT_LIMIT)
            if free < 0:
                raise RequestRefused("", code=ErrorCode.REPLICA_FULL)
        self._bytes += wanted - held
        HELD_BODIES.inc(wanted - held)
        if tenant is not None:
            self._of[tenant] += wanted - held
            if not self._of[tenant]:
                del self._of[tenant]


class Held:
    """The bytes held by one request."""

    def __init__(self, all_held: HeldBodies) -> None:
        self._all = all_held
        self._tenant: TenantId | None = None
        self._bytes = 0

    def belong(self, tenant: TenantId) -> None:
        """Sets whose they are, before the first byte is held."""
        assert not self._bytes, "some of it is held already, by nobody"
        self._tenant = tenant

    def add(self, count: int) -> None:
        """Hold this many more. Raises `RequestRefused` if there is no room."""
        self._change(self._bytes + count, is_alone_enough=False)

    def become(self, count: int) -> None:
        """Hold this many now, in any form. If nothing else is held, any number fits.

        Raises `RequestRefused` if there is no room; then the request holds what it held before.
        """
        self._change(count, is_alone_enough=True)

    def _change(self, wanted: int, *, is_alone_enough: bool) -> None:
        self._all.change(self._tenant, self._bytes, wanted, is_alone_enough=is_alone_enough)
        self._bytes = wanted
