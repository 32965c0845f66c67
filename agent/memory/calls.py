"""Open calls of the client's functions in the memory, and the results that they get. Pure.

The model has to get one result for each call, in the message after the calls and before anything
else in it, or it refuses the conversation. Clients may leave out results, send ones that nobody
waits for, or say something else instead. `paired` brings all of that into the form that the model
needs.

A CLI that is opened on a transcript that ends in an open call fills in a result of its own. So it
is opened on the entries before the answer that contains the call, and gets that answer as a message
(`unfinished`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from agent.memory.history import Json, Said
from infra.wire.ids import client_call_id

NO_RESULT = "The user's program gave no result for this call."

_EMPTY = "(no output)"


class OpenCall(NamedTuple):
    """A call that waits for its result."""

    id: str
    name: str


class UnfinishedAnswer(NamedTuple):
    """The end of a session whose last answer has open calls."""

    at: str | None
    """The entry before that answer."""
    answer: list[Json]
    """The answer's blocks."""
    results: list[Json]
    """Results that its other calls have got."""


def calls_in(content: Iterable[Json]) -> list[OpenCall]:
    """The calls in an answer."""
    return [
        OpenCall(str(block.get("id")), str(block.get("name")))
        for block in content
        if block.get("type") == "tool_use"
    ]


def paired(said: Sequence[Said], open_calls: Sequence[OpenCall] = ()) -> list[Said]:
    """The messages with one result for each call before them. `open_calls` are those of the answer
    before the first message."""
    out: list[Said] = []
    for message in said:
        if message.role == "assistant":
            content = _with_ids(message.content, len(out))
            open_calls = calls_in(content)
        else:
            content = list(_answered(message.content, open_calls))
            open_calls = ()
        out.append(Said(message.role, content))
    return out


def unfinished(entries: Sequence[Json]) -> UnfinishedAnswer | None:
    """What is open at the end of these messages of a session; None if nothing is."""
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
    return UnfinishedAnswer(before, answer, results)


def _answered(content: Sequence[Json], calls: Sequence[OpenCall]) -> Iterator[Json]:
    """The results in the order of the calls, then everything else."""
    results = [block for block in content if block.get("type") == "tool_result"]
    for call in calls:
        found = next((block for block in results if _is_result_of(block, call)), None)
        if found is None:
            yield _result(call.id, NO_RESULT, is_error=True)
        else:
            results.remove(found)
            yield _plain(found) | {"tool_use_id": call.id}
    for block in content:
        if block.get("type") != "tool_result":
            yield block
        elif any(block is left for left in results):
            yield from _as_text(block)


def _is_result_of(block: Json, call: OpenCall) -> bool:
    told = block.get("tool_use_id")
    if not told:
        return block.get("name") == call.name
    return told in (call.id, client_call_id(call.id))


def _plain(block: Json) -> Json:
    plain = {name: value for name, value in block.items() if name != "name"}
    return plain if plain.get("content") else plain | {"content": _EMPTY}


def _as_text(block: Json) -> Iterator[Json]:
    of = block.get("name") or block.get("tool_use_id") or "a tool"
    yield {"type": "text", "text": f"[Result of {of}]"}
    content = block.get("content") or _EMPTY
    yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def _result(id: str, text: str, *, is_error: bool) -> Json:
    return {"type": "tool_result", "tool_use_id": id, "content": text, "is_error": is_error}


def _with_ids(content: Sequence[Json], at: int) -> list[Json]:
    """Calls in the older form have no id."""
    return [
        block | {"id": f"call_{at}_{i}"}
        if block.get("type") == "tool_use" and not block.get("id")
        else block
        for i, block in enumerate(content)
    ]


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
