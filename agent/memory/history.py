"""Turns an earlier conversation into a transcript that the SDK can resume. Pure.

The messages from a client become transcript entries with their real roles, so that a session
resumed from them sends user and assistant turns to the model instead of one long quotation. The
entry format is the CLI's own and undocumented; `tests/contract/agent` checks it against the pinned
SDK.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from infra.wire.model.upstream import OPENING, content_block
from infra.wire.turns import CallBlock, ContentBlock, HistoryMessage, TextBlock

Json = dict[str, Any]
"""A JSON object of the CLI or the Messages API, for which we have no types."""

_FORMAT_VERSION = "2.1.330"
"""The CLI version whose entry format this is."""


class Said(NamedTuple):
    """A message in the format of the Messages API."""

    role: Literal["user", "assistant"]
    content: list[Json]
    id: str | None = None
    """The uuid that its entry gets, if it has to be a certain one."""


def transcript_of(
    said: Sequence[Said], *, session: str, cwd: str, model: str, timestamp: str
) -> list[Json]:
    """The chained entries of a conversation; empty if it has no messages.

    All get the same `timestamp` (ISO 8601, UTC), because the real times are unknown.
    """
    entries: list[Json] = []
    parent: str | None = None
    for role, content, _ in said:
        id = str(uuid.uuid4())
        entries.append(
            {
                "type": role,
                "uuid": id,
                "parentUuid": parent,
                "sessionId": session,
                "timestamp": timestamp,
                "cwd": cwd,
                "version": _FORMAT_VERSION,
                "userType": "external",
                "isSidechain": False,
                "message": message_of(role, content, model),
            }
        )
        parent = id
    return entries


def content_of(blocks: Sequence[ContentBlock]) -> list[Json]:
    """Our blocks in the format of the Messages API. Empty texts are left out, because it refuses
    them."""
    return [content_block(block) for block in blocks if not _is_empty(block)]


def messages_of(history: Iterable[HistoryMessage]) -> list[Said]:
    """The messages with content, starting with a user's. Neighbours of the same role are joined."""
    joined: list[Said] = []
    for message in history:
        if not (content := _content(message)):
            continue
        if joined and joined[-1].role == message.role:
            joined[-1].content.extend(content)
        else:
            joined.append(Said(message.role, content))
    if joined and joined[0].role == "assistant":
        joined.insert(0, Said("user", [{"type": "text", "text": OPENING}]))
    return joined


def _content(message: HistoryMessage) -> list[Json]:
    """Of an assistant only text and calls: the Messages API accepts nothing else back."""
    if message.role == "assistant":
        return content_of([b for b in message.content if isinstance(b, TextBlock | CallBlock)])
    return content_of(message.content)


def message_of(role: str, content: list[Json], model: str) -> Json:
    """A message in the CLI's format."""
    if role == "user":
        return {"role": "user", "content": content}
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _is_empty(block: ContentBlock) -> bool:
    return isinstance(block, TextBlock) and not block.text.strip()
