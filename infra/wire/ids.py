"""Names of things, as types that cannot be swapped by accident.

Who makes them: the API makes turn ids, `infra.runtime.identity` derives tenants and conversation
keys, each process makes its own worker, replica or host id at start.
"""

from __future__ import annotations

from typing import NewType

TurnId = NewType("TurnId", str)
"""`chatcmpl-` and 32 hex digits: a turn's id is the id of its OpenAI completion."""

TenantId = NewType("TenantId", str)
"""20 hex digits: HMAC of the caller's key. Who pays."""

ConversationKey = NewType("ConversationKey", str)
"""24 hex digits:

HMAC of the tenant and the client's own id, so a foreign id is another conversation.
"""

WorkerId = NewType("WorkerId", str)
"""`<host>-<8 hex digits>`, new at each start of a worker process."""

HostId = NewType("HostId", str)
"""A machine that runs containers; stable over restarts of its workers."""

ReplicaId = NewType("ReplicaId", str)
"""One API process; names the channel its frames arrive on."""

Fence = NewType("Fence", int)
"""A lease's generation. Only grows for a conversation; a write with an older one is refused."""
