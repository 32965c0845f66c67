"""Gives each call of a client's function its result, in the form that the Messages API needs. Pure.

The model has to get one result for each call, in the message after the calls and before anything
else in it, or it refuses the conversation. Clients may leave out results, send ones that nobody
waits for, or say something else instead. `paired` brings all of that into the right form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from infra.wire.ids import client_call_id
from infra.wire.turns import CallBlock, ContentBlock, ResultBlock, TextBlock

Json = dict[str, Any]
Role = Literal["user", "assistant"]

NO_RESULT = "The user's program gave no result for this call."

QUESTION_TOOL = "AskUserQuestion"
"""With this tool the agent asks its user; whatever they say next is the call's result."""

_EMPTY = "(no output)"


class OpenCall(NamedTuple):
    """A call that waits for its result."""

    id: str
    name: str


def calls_in(content: Iterable[Json]) -> list[OpenCall]:
    """The calls in an answer."""
    return [
        OpenCall(str(block.get("id")), str(block.get("name")))
        for block in content
        if block.get("type") == "tool_use"
    ]


def paired(
    said: Iterable[tuple[Role, Sequence[Json]]], open_calls: Sequence[OpenCall] = ()
) -> list[tuple[Role, list[Json]]]:
    """The messages, as role and blocks, with one result for each call before them. `open_calls` are
    those of the answer before the first message."""
    out: list[tuple[Role, list[Json]]] = []
    for role, told in said:
        if role == "assistant":
            content = _with_ids(told, len(out))
            open_calls = calls_in(content)
        else:
            content = list(_answered(told, open_calls))
            open_calls = ()
        out.append((role, content))
    return out


def _answered(content: Sequence[Json], calls: Sequence[OpenCall]) -> Iterator[Json]:
    """The results in the order of the calls, then everything else."""
    results = [block for block in content if block.get("type") == "tool_result"]
    if said := [block for block in content if block.get("type") == "text"]:
        asked = [call for call in calls if call.name == QUESTION_TOOL]
        if asked:
            results.append(_result(asked[0].id, _told(said), is_error=False))
            content = [*(block for block in content if block not in said), results[-1]]
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


def _told(said: Iterable[Json]) -> str:
    words = "\n\n".join(str(block.get("text")) for block in said)
    return f"The user answered: {words}"


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


def as_text(block: ContentBlock) -> tuple[ContentBlock, ...]:
    """The block, with a call or result as text, for a model that gets no functions."""
    match block:
        case CallBlock():
            return (TextBlock(text=f"[Called {block.name} with {block.arguments}]"),)
        case ResultBlock():
            head = TextBlock(text=f"[Result of {block.name or block.call or 'a tool'}]")
            return (head, *block.content)
        case _:
            return (block,)
