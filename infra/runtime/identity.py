"""Who is who: tenants from keys, conversations from tenants, fresh ids. Pure but for randomness."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from infra.wire.ids import (
    TURN_PREFIX,
    ConversationKey,
    HostId,
    ReplicaId,
    TenantId,
    TurnId,
    WorkerId,
)


def tenant_id(secret: bytes, api_key: str) -> TenantId:
    """Who pays:

    the same key is the same tenant on every replica, and the key cannot be got back.
    """
    return TenantId(_hmac(secret, b"tenant", api_key.encode())[:20])


def conversation_key(secret: bytes, tenant: TenantId, name: str) -> ConversationKey:
    """A tenant's conversation; another tenant's equal name is another conversation."""
    return ConversationKey(_hmac(secret, b"conversation", tenant.encode(), name.encode())[:24])


def address_id(secret: bytes, address: str) -> str:
    """A client's address as it may stand in keys and logs: 20 hex digits."""
    return _hmac(secret, b"address", address.encode())[:20]


def new_turn_id() -> TurnId:
    return TurnId(TURN_PREFIX + secrets.token_hex(16))


def new_conversation_name() -> str:
    """A name for a conversation its client did not name; nobody can guess it."""
    return f"unnamed-{secrets.token_hex(16)}"


def new_worker_id(host: HostId) -> WorkerId:
    return WorkerId(f"{host}-{secrets.token_hex(4)}")


def new_replica_id(host: HostId) -> ReplicaId:
    return ReplicaId(f"{host}-{secrets.token_hex(4)}")


def _hmac(secret: bytes, *parts: bytes) -> str:
    return hmac.new(secret, b"\0".join(parts), hashlib.sha256).hexdigest()
