"""A2A's ids and ours. Pure.

A task is known by the id of its first turn, a context by its conversation's name.
"""

from __future__ import annotations

import hashlib
import re

from infra.wire.errors import RequestRefused, TurnNotFound
from infra.wire.ids import TURN_PREFIX, TenantId, TurnId

TASK_PREFIX = "task-"

_TASK = re.compile(rf"(?:{TASK_PREFIX}|{TURN_PREFIX})([0-9a-f]{{32}})")
_CONTEXT = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_CONTEXT_PREFIX = "ctx-"
_CONTEXT_DIGITS = 32


def task_id(turn: TurnId) -> str:
    """A turn's id in this dialect: the same digits with another prefix."""
    return TASK_PREFIX + turn.removeprefix(TURN_PREFIX)


def turn_of(task: str) -> TurnId:
    """The turn for a task's id. Raises `TurnNotFound` for anything else."""
    if (found := _TASK.fullmatch(task)) is None:
        raise TurnNotFound(task)
    return TurnId(TURN_PREFIX + found[1])


def context_name(given: str) -> str:
    """The conversation's name for a client's context id. Raises `RequestRefused`."""
    if not _CONTEXT.fullmatch(given):
        raise RequestRefused(
            "`contextId` may have at most 64 characters: letters, digits, `.`, `_`, `@`, `-`.",
            param="message.contextId",
        )
    return given


def new_context(tenant: TenantId, *, agent: str, digest: bytes) -> str:
    """The context of a message that names none, by the digest of the message and its id.

    The same again for the same message, so that a repeat finds the turn of the first try.
    """
    told = b"\0".join((tenant.encode(), agent.encode(), digest))
    return _CONTEXT_PREFIX + hashlib.sha256(told).hexdigest()[:_CONTEXT_DIGITS]
