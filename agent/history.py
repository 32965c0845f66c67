"""An earlier conversation as a transcript the SDK can resume. Pure.

The messages a client sends become transcript entries with their real roles, so that a session
resumed from them asks the model with user and assistant turns and not with one long quotation. The
entry format is the CLI's own and undocumented: `tests/contract/agent` checks it against the pinned
SDK.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from infra.wire.turns import ContentBlock, HistoryMessage, TextBlock
from infra.wire.upstream import OPENING, content_block

Json = dict[str, Any]
"""A JSON object of the CLI's or the Messages API's, which has no types of ours."""

_FORMAT_VERSION = "2.1.330"
"""The CLI version whose entry format this is."""


def transcript_of(
    history: Sequence[HistoryMessage], *, session: str, cwd: str, model: str, timestamp: str
) -> list[Json]:
    """The entries of that conversation, chained; empty when it holds nothing to say.

    `timestamp` (ISO 8601, UTC) is given to all of them: when they were said is not known.
    """
    entries: list[Json] = []
    parent: str | None = None
    for role, content in _messages(history):
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
                "message": _message(role, content, model),
            }
        )
        parent = id
    return entries


def content_of(blocks: Sequence[ContentBlock]) -> list[Json]:
    """Our blocks in the words of the Messages API. Empty texts are left out: it refuses them."""
    return [content_block(block) for block in blocks if not _is_empty(block)]


def _messages(history: Sequence[HistoryMessage]) -> Iterator[tuple[str, list[Json]]]:
    """(role, content) of the messages that say something; neighbours of one role are joined."""
    said = [(m.role, _content(m)) for m in history]
    joined: list[tuple[str, list[Json]]] = []
    for role, content in said:
        if not content:
            continue
        if joined and joined[-1][0] == role:
            joined[-1][1].extend(content)
        else:
            joined.append((role, content))
    if joined and joined[0][0] == "assistant":
        yield "user", [{"type": "text", "text": OPENING}]
    yield from joined


def _content(message: HistoryMessage) -> list[Json]:
    """An assistant says text only: the Messages API takes nothing else back from it."""
    if message.role == "assistant":
        return content_of([b for b in message.content if isinstance(b, TextBlock)])
    return content_of(message.content)


def _message(role: str, content: list[Json], model: str) -> Json:
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
