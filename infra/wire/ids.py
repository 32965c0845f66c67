"""Ids as types that cannot be mixed up by accident.

The API creates turn ids, `infra.runtime.identity` derives tenants and conversation keys, and each
process creates its own worker, replica or host id when it starts.
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

from pydantic import StringConstraints

TURN_PREFIX = "turn_"

TurnId = NewType("TurnId", str)
"""`turn_` and 32 hex digits. A dialect shows the same digits after a prefix of its own."""

TenantId = NewType("TenantId", str)
"""20 hex digits: HMAC of the caller's key. Who pays."""

ConversationKey = NewType("ConversationKey", str)
"""24 hex digits: HMAC of the tenant and the client's own id, so the same id of another tenant is
another conversation."""

WorkerId = NewType("WorkerId", str)
"""`<host>-<8 hex digits>`, new each time a worker process starts."""

HostId = NewType("HostId", str)
"""A machine that runs containers. The id survives restarts of its workers."""

ReplicaId = NewType("ReplicaId", str)
"""One API process. Names the channel on which its frames arrive."""

ReaderId = NewType("ReaderId", str)
"""`<replica> <serial>`: one open answer of a client that asked for the turn."""

FileId = NewType("FileId", str)
"""`file-` and 32 hex digits, the first 12 of which are when it was made, so that ids stand in that
order. Parts of uploads: `part_` and such digits."""

UploadId = NewType("UploadId", str)
"""`upload_` and 32 hex digits."""

Fence = NewType("Fence", int)
"""A lease's generation. It only grows for a conversation; writes with an older one are refused."""

_DIALECTS_ID = re.compile(r"[a-z]+[-_]([0-9a-f]{32})")


_FILE_ID = re.compile(r"(?:file-|part_)[0-9a-f]{32}")
_CALL_PREFIX = "call_"
_NO_CALL_ID = re.compile(r"^call_|[^A-Za-z0-9_-]")
_CALL_ID_MAX_CHARS = 59
_UPLOAD_ID = re.compile(r"upload_[0-9a-f]{32}")


def file_meant(said: str) -> FileId | None:
    """The id, if it has the form of a file's or a part's."""
    return FileId(said) if _FILE_ID.fullmatch(said) else None


def upload_meant(said: str) -> UploadId | None:
    """The id, if it has the form of an upload's."""
    return UploadId(said) if _UPLOAD_ID.fullmatch(said) else None


def client_call_id(told: str) -> str:
    """The id under which a client knows the model's call of one of its functions, in OpenAI's
    form. The same again if it is given one of its own."""
    return _CALL_PREFIX + _NO_CALL_ID.sub("", told.removeprefix("toolu_"))[:_CALL_ID_MAX_CHARS]


def turn_meant(shown: str) -> TurnId:
    """The turn for an id in any dialect's form. An id in another form is returned unchanged."""
    found = _DIALECTS_ID.fullmatch(shown)
    return TurnId(TURN_PREFIX + found[1] if found else shown)


SaidTurn = Annotated[TurnId, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
"""A turn id from an agent. It is used in paths, keys and log lines, so its form is checked."""

SaidSession = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{0,64}$")]
"""An SDK session id from an agent, checked for the same reason; empty if there is none yet."""
