"""Open calls of the client's functions in the memory. Pure.

A CLI that is opened on a transcript that ends in an open call fills in a result of its own. So it
is opened on the entries before the answer that contains the call, and gets that answer as a message
(`unfinished`).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from agent.memory.history import Json, Said
from infra.wire.history.paired import OpenCall, calls_in, paired


class UnfinishedAnswer(NamedTuple):
    """The end of a session whose last answer has open calls."""

    at: str | None
    """The entry before that answer."""
    id: str | None
    """The entry with which the session ends. The answer takes its place where it is told again, so
    that a checkpoint there stays one."""
    answer: list[Json]
    """The answer's blocks."""
    results: list[Json]
    """Results that its other calls have got."""


def unfinished(
    entries: Sequence[Json],
    *,
    id: str | None,
    later: Sequence[Json],
    own: Container[str],
    asked: Container[str] = (),
) -> UnfinishedAnswer | None:
    """What is open at the end of these messages of a session; None if nothing is.

    `later` are the messages after them: they have results of the CLI's `own` tools, if the answer
    was told again with its results behind it. `asked` are calls of these tools that waited for an
    approval: what the user says to them is no result of the tool.
    """
    last = next((i for i in reversed(range(len(entries))) if _is_answer(entries[i])), None)
    if last is None:
        return None
    # The CLI writes an entry for each block.
    answer_id = _message(entries[last]).get("id")
    first = at = last
    while at and _is_answer_part(entries[at - 1], answer_id):
        at -= 1
        first = at if _is_answer(entries[at]) else first
    answer = [b for entry in entries[first:] if _is_answer(entry) for b in _blocks(entry)]
    after = [b for entry in entries[first:] if not _is_answer(entry) for b in _blocks(entry)]
    results = [block for block in after if block.get("type") == "tool_result"]
    known = {block.get("tool_use_id") for block in results}
    if len(results) < len(after) or all(call.id in known for call in calls_in(answer)):
        return None
    before = entries[first - 1].get("uuid") if first else None
    names = {call.id: call.name for call in calls_in(answer)}
    for block in (block for entry in later for block in _blocks(entry)):
        used = block.get("tool_use_id")
        if used in names and used not in known and names[used] in own and used not in asked:
            results.append(block)
            known.add(used)
    return UnfinishedAnswer(before, id, answer, results)


def _is_answer(entry: Json) -> bool:
    return entry.get("type") == "assistant"


def _is_answer_part(entry: Json, answer_id: Any) -> bool:
    """Whether the entry belongs to that answer, or is the result of a call in it that the CLI has
    carried out while the answer went on."""
    if _is_answer(entry):
        return answer_id is not None and _message(entry).get("id") == answer_id
    blocks = _blocks(entry)
    return bool(blocks) and all(block.get("type") == "tool_result" for block in blocks)


def _message(entry: Json) -> Json:
    message = entry.get("message")
    return message if isinstance(message, dict) else {}


def _blocks(entry: Json) -> list[Json]:
    content = _message(entry).get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content or () if isinstance(block, dict)]


def answered(said: Sequence[Said], open_calls: Sequence[OpenCall] = ()) -> list[Said]:
    """The messages with one result for each call before them (`infra.wire.history.paired`)."""
    told = paired(((one.role, one.content) for one in said), open_calls)
    return [Said(role, content, one.id) for one, (role, content) in zip(said, told, strict=True)]
