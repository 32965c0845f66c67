"""Identity: tenants from keys, conversations from tenants, new ids. Pure except for randomness."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from infra.wire.ids import (
    TURN_PREFIX,
    ConversationKey,
    FileId,
    HostId,
    ReplicaId,
    TenantId,
    TurnId,
    UploadId,
    WorkerId,
)


def tenant_id(secret: bytes, api_key: str) -> TenantId:
    """Who pays. The same key gives the same tenant on every replica; the key cannot be recovered
    from it."""
    return TenantId(_hmac(secret, b"tenant", api_key.encode())[:20])


def conversation_key(secret: bytes, tenant: TenantId, name: str) -> ConversationKey:
    """The key of a tenant's conversation. The same name under another tenant gives another key."""
    return ConversationKey(_hmac(secret, b"conversation", tenant.encode(), name.encode())[:24])


def address_id(secret: bytes, address: str) -> str:
    """A client's address in a form for keys and logs: 20 hex digits."""
    return _hmac(secret, b"address", address.encode())[:20]


def secrets_version(secret: bytes, tenant: TenantId, told: str) -> str:
    """What tells a tenant's secrets from others of theirs, without showing them: 16 hex digits."""
    return _hmac(secret, b"mcp secrets", tenant.encode(), told.encode())[:16]


def new_turn_id() -> TurnId:
    return TurnId(TURN_PREFIX + secrets.token_hex(16))


def called_turn(caller: TurnId, call: str) -> TurnId:
    """The turn of the agent that a turn's agent has called: of the same call the same one."""
    return TurnId(TURN_PREFIX + hashlib.sha256(f"turn {caller} {call}".encode()).hexdigest()[:32])


def called_conversation(caller: TurnId, call: str) -> ConversationKey:
    """The conversation of an agent that was called and has none yet."""
    told = f"conversation {caller} {call}"
    return ConversationKey(hashlib.sha256(told.encode()).hexdigest()[:24])


def new_file_id(now_ms: int) -> FileId:
    """Of a file made at that time (Unix ms): younger ones stand behind it."""
    return FileId(f"file-{now_ms:012x}{secrets.token_hex(10)}")


def new_part_id(now_ms: int) -> FileId:
    return FileId(f"part_{now_ms:012x}{secrets.token_hex(10)}")


def new_upload_id() -> UploadId:
    return UploadId(f"upload_{secrets.token_hex(16)}")


def new_conversation_name() -> str:
    """An unguessable name for a conversation that its client did not name."""
    return f"unnamed-{secrets.token_hex(16)}"


def new_worker_id(host: HostId) -> WorkerId:
    return WorkerId(f"{host}-{secrets.token_hex(4)}")


def new_replica_id(host: HostId) -> ReplicaId:
    return ReplicaId(f"{host}-{secrets.token_hex(4)}")


def _hmac(secret: bytes, *parts: bytes) -> str:
    return hmac.new(secret, b"\0".join(parts), hashlib.sha256).hexdigest()
