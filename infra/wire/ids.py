"""Names of things, as types that cannot be swapped by accident.

Who makes them: the API makes turn ids, `infra.runtime.identity` derives tenants and conversation
keys, each process makes its own worker, replica or host id at start.
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

from pydantic import StringConstraints

TURN_PREFIX = "turn_"

TurnId = NewType("TurnId", str)
"""`turn_` and 32 hex digits. A dialect shows the same digits behind a word of its own."""

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

ReaderId = NewType("ReaderId", str)
"""`<replica> <serial>`: one answer that a client has open of a turn it asked for."""

Fence = NewType("Fence", int)
"""A lease's generation. Only grows for a conversation; a write with an older one is refused."""

_DIALECTS_ID = re.compile(r"[a-z]+[-_]([0-9a-f]{32})")


def turn_meant(shown: str) -> TurnId:
    """The turn behind an id as any dialect shows it; what has no such form stays as it is."""
    found = _DIALECTS_ID.fullmatch(shown)
    return TurnId(TURN_PREFIX + found[1] if found else shown)


SaidTurn = Annotated[TurnId, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
"""A turn that an agent names: it goes into paths, keys and log lines, so its form is checked."""

SaidSession = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{0,64}$")]
"""An SDK session that an agent names, for the same reason; empty where there is none yet."""
