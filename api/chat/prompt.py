"""Converts OpenAI's messages to an agent's input: system prompt, history, prompt. Pure.

The prompt is everything that the user said since the last answer. Everything before it is history,
which is used only if the agent's memory differs from what the client sees. What the user said
between two answers is one turn, and has one digest, however many messages it took. If the last
message is an answer, the agent is asked to continue it. If there are only instructions, the last of
them is the prompt. Tool calls and results of the client's own tools become text, because this agent
runs its own tools.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Literal

from api.chat.attached import NamedFiles
from api.chat.blocks import blocks_of
from api.chat.request import Called, ChatMessage, built_of, counted, given, text_of
from api.turns.ask import Prompt, prompt_of
from infra.files.kinds import text_in
from infra.wire.errors import RequestRefused
from infra.wire.history import GO_ON
from infra.wire.turns import ContentBlock, FileBlock, HistoryMessage, TextBlock

_SYSTEM_ROLES = frozenset({"system", "developer"})
_RESULT_ROLES = frozenset({"tool", "function"})


def read_messages(messages: Sequence[ChatMessage], files: NamedFiles | None = None) -> Prompt:
    """`files` are those that the messages may name by id.

    Raises `RequestRefused`, naming the message or part that is not valid.
    """
    with counted(built_of(messages)):
        return _read(messages, files or NamedFiles({}))


def _read(messages: Sequence[ChatMessage], files: NamedFiles) -> Prompt:
    spoken = [i for i, message in enumerate(messages) if message.role not in _SYSTEM_ROLES]
    newest = spoken[-1] if spoken else len(messages) - 1
    system: list[str] = []
    said: list[HistoryMessage] = []
    begins: list[int] = []
    is_answered = True
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        blocks = tuple(_blocks(message, where, is_newest=i == newest, files=files))
        if message.role in _SYSTEM_ROLES and spoken:
            system.extend(_text(block) for block in blocks)
            continue
        if message.role == "assistant":
            # An answer that was stopped before its first word is empty, but ends the user's turn.
            # At the end it is a placeholder for the new answer.
            is_answered = is_answered or bool(blocks) or i != newest
        elif blocks and is_answered:
            begins.append(len(said))
            is_answered = False
        if blocks:
            role: Literal["user", "assistant"]
            role = "assistant" if message.role == "assistant" else "user"
            said.append(HistoryMessage(role=role, content=blocks))
    if not spoken and said:
        # Only instructions: all except the last one stay instructions.
        system = [_text(block) for message in said[:-1] for block in message.content]
        said, begins = said[-1:], [0]
    elif is_answered:
        if messages[newest].role != "assistant" or not said:
            raise RequestRefused("The last message is empty.", param=f"messages[{newest}].content")
        begins.append(len(said))
        said.append(HistoryMessage(role="user", content=(TextBlock(text=GO_ON),)))
    return prompt_of(
        said,
        begins,
        system_prompt="\n\n".join(system) or None,
        has_answers=_has_answers(messages),
    )


def _has_answers(messages: Sequence[ChatMessage]) -> bool:
    return any(message.role == "assistant" for message in messages)


def _text(block: ContentBlock) -> str:
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, FileBlock) and block.data is not None:
        text = text_in(base64.b64decode(block.data))
        if text is not None:
            head = f"[File {block.filename}]\n" if block.filename else ""
            return head + text
    return "[Left out here: a picture or document]"


def _blocks(
    message: ChatMessage, where: str, *, is_newest: bool, files: NamedFiles
) -> Iterator[ContentBlock]:
    blocks = blocks_of(message.content, f"{where}.content", is_newest=is_newest, files=files)
    if message.role in _RESULT_ROLES:
        of = message.name or message.tool_call_id or "a tool"
        yield TextBlock(text=f"[Result of {of}]")
    yield from blocks
    if message.refusal and message.refusal.strip():
        yield TextBlock(text=message.refusal)
    yield from (TextBlock(text=line) for line in _calls(message))


def _calls(message: ChatMessage) -> Iterator[str]:
    calls = [call.function or call.custom for call in message.tool_calls or ()]
    for called in [*calls, message.function_call]:
        if called is not None:
            yield f"[Called {text_of(called.name) or 'a tool'} with {_arguments(called)}]"


def _arguments(called: Called) -> str:
    raw = given(called.arguments) or given(called.input)
    if raw is None:
        return ""
    told = text_of(raw)
    return bytes(raw).decode("utf-8", "replace") if told is None else told
