"""Converts OpenAI's messages to an agent's input: system prompt, history, prompt. Pure.

The prompt is everything that the user said since the last answer. Everything before it is history,
which is used only if the agent's memory differs from what the client sees. What the user said
between two answers is one turn, and has one digest, however many messages it took. If the last
message is an answer, the agent is asked to continue it. If there are only instructions, the last of
them is the prompt. Results of the client's functions are said by the user, as everything that is
not an answer: they are a prompt like any other. If the agent does not get the client's functions,
calls and results become text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from api.chat.answer.made import without_files
from api.chat.messages.attached import NamedFiles
from api.chat.messages.blocks import blocks_of
from api.chat.messages.calls import (
    RESULT_ROLES,
    calls_as_text,
    calls_in,
    check_pairs,
    result_as_text,
    result_blocks,
)
from api.chat.request import ChatMessage, built_of, counted
from api.turns.ask import Prompt, prompt_of
from infra.wire.errors import RequestRefused
from infra.wire.files.kinds import text_in
from infra.wire.history.answers import without_folded
from infra.wire.history.decision import GO_ON
from infra.wire.turns import ContentBlock, FileBlock, HistoryMessage, TextBlock

_SYSTEM_ROLES = frozenset({"system", "developer"})


def read_messages(
    messages: Sequence[ChatMessage], files: NamedFiles | None = None, *, has_tools: bool = False
) -> Prompt:
    """`files` are those that the messages may name by id. `has_tools`: the agent gets the client's
    functions.

    Raises `RequestRefused`, naming the message or part that is not valid.
    """
    with counted(built_of(messages)):
        reader = _Reader(files or NamedFiles({}), has_tools=has_tools)
        if has_tools:
            check_pairs(messages)
        return _read(messages, reader)


def _read(messages: Sequence[ChatMessage], reader: _Reader) -> Prompt:
    spoken = [i for i, message in enumerate(messages) if message.role not in _SYSTEM_ROLES]
    newest = spoken[-1] if spoken else len(messages) - 1
    system: list[str] = []
    said: list[HistoryMessage] = []
    begins: list[int] = []
    is_answered = True
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        blocks = tuple(reader.blocks(message, where, is_newest=i == newest))
        if message.role == "assistant":
            blocks = tuple(_without_files(blocks))
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


def _without_files(blocks: Sequence[ContentBlock]) -> Iterator[ContentBlock]:
    for block in blocks:
        if not isinstance(block, TextBlock) or (text := without_files(block.text)) is block.text:
            yield block
        elif text.strip():
            yield TextBlock(text=text)


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


def _without_folded(blocks: Iterable[ContentBlock]) -> Iterator[ContentBlock]:
    for block in blocks:
        if not isinstance(block, TextBlock):
            yield block
        elif (text := without_folded(block.text)).strip():
            yield block if text == block.text else TextBlock(text=text)


class _Reader:
    """Reads messages one by one."""

    def __init__(self, files: NamedFiles, *, has_tools: bool) -> None:
        self._files = files
        self._has_tools = has_tools

    def blocks(
        self, message: ChatMessage, where: str, *, is_newest: bool
    ) -> Iterator[ContentBlock]:
        """The content of a message."""
        content = f"{where}.content"
        blocks = blocks_of(message.content, content, is_newest=is_newest, files=self._files)
        if message.role in RESULT_ROLES:
            read = result_blocks if self._has_tools else result_as_text
            yield from read(message, blocks)
        elif message.role == "assistant":
            yield from _without_folded(blocks)
        else:
            yield from blocks
        if message.refusal and message.refusal.strip():
            yield TextBlock(text=message.refusal)
        yield from calls_in(message) if self._has_tools else calls_as_text(message)
