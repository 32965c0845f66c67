"""A caller's key while its turn runs: in memory, can be wiped, never printed."""

from __future__ import annotations

from infra.runtime.sealing import SealContext, Sealer
from infra.wire.errors import AgClusterError, ErrorCode
from infra.wire.gateway import OpenTurn, SideCall


class KeyWiped(AgClusterError):
    """The turn is over, and its key was wiped."""

    code = ErrorCode.INVALID_KEY


class TurnKey:
    """The key of one turn, until it is wiped.

    Wiping overwrites the bytes. Copies in the header of a running request disappear with that
    request, because Python's strings cannot be overwritten.
    """

    def __init__(self, key: str) -> None:
        self._bytes = bytearray(key.encode())

    def reveal(self) -> str:
        """The key itself. Raises `KeyWiped`."""
        if not self._bytes:
            raise KeyWiped("the key of this turn has been wiped")
        return self._bytes.decode()

    def wipe(self) -> None:
        """Overwrite it. May be called repeatedly."""
        self._bytes[:] = bytes(len(self._bytes))
        self._bytes.clear()

    @property
    def is_wiped(self) -> bool:
        return not self._bytes

    def __repr__(self) -> str:
        return "TurnKey([key])"


def open_key(sealer: Sealer, command: OpenTurn | SideCall, *, now_ms: int) -> TurnKey:
    """The key that was sealed for exactly this turn. Raises `KeyNotOpened`."""
    context = SealContext(
        tenant=command.tenant,
        conversation=command.conversation,
        turn=command.turn,
        expires_ms=command.expires_ms,
    )
    return TurnKey(sealer.open(command.sealed_key, context, now_ms=now_ms))
