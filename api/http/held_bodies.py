"""How many bytes of bodies this replica holds, and whose.

A key is known by the time its body comes. What it holds with several requests may never be more
than what stays free: so one key gets half, two a third each, and there is room for the next one.
"""

from __future__ import annotations

from collections import Counter

from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.ids import TenantId

_FULL_OF_YOURS = (
    "The requests of this key that are being read are as large as they may be together. "
    "Send fewer large ones at once."
)


class HeldBodies:
    """Bounded over all, and by key; each request has its own `Held` of it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._of = Counter[TenantId]()

    def request(self) -> Held:
        """What one request will hold: nothing yet."""
        return Held(self)

    def change(
        self, tenant: TenantId | None, held: int, wanted: int, *, is_alone_enough: bool
    ) -> None:
        """A request that holds so many bytes wants to hold others. Raises `RequestRefused`."""
        others = self._bytes - held
        if wanted > held and (others or not is_alone_enough):
            own_others = self._of[tenant] - held if tenant is not None else 0
            free = self._max_bytes - others - wanted
            if own_others and own_others + wanted > free:
                raise RequestRefused(_FULL_OF_YOURS, code=ErrorCode.TENANT_LIMIT)
            if free < 0:
                raise RequestRefused("", code=ErrorCode.REPLICA_FULL)
        self._bytes += wanted - held
        if tenant is not None:
            self._of[tenant] += wanted - held
            if not self._of[tenant]:
                del self._of[tenant]


class Held:
    """What one request holds."""

    def __init__(self, all_held: HeldBodies) -> None:
        self._all = all_held
        self._tenant: TenantId | None = None
        self._bytes = 0

    def belong(self, tenant: TenantId) -> None:
        """Whose it is, said before a byte of it is held."""
        assert not self._bytes, "some of it is held already, by nobody"
        self._tenant = tenant

    def add(self, count: int) -> None:
        """So many more. Raises `RequestRefused` when there is no room for them."""
        self._change(self._bytes + count, is_alone_enough=False)

    def become(self, count: int) -> None:
        """So many now, in whatever form. Where nothing else is held there is room for any.

        Raises `RequestRefused` when there is no room for them; then it holds what it held.
        """
        self._change(count, is_alone_enough=True)

    def _change(self, wanted: int, *, is_alone_enough: bool) -> None:
        self._all.change(self._tenant, self._bytes, wanted, is_alone_enough=is_alone_enough)
        self._bytes = wanted
