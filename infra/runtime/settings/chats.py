"""How conversations are identified and answers are shown."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from infra.runtime.settings.types import Names, Patterns, QueueDisplay, Section, ToolDisplay


class ConversationSettings(Section):
    """How a request identifies its conversation."""

    title: ClassVar = "Conversations"

    conversation_headers: Names = Field(
        ("X-Conversation-ID", "X-OpenWebUI-Chat-Id", "ChatUI-Conversation-ID", "x-thread-id"),
        description="Headers that name a conversation; the first that is not empty counts, then "
        "the body's metadata.conversation_id.",
    )
    max_header_chars: int = Field(
        256, gt=0, description="Longest name of a conversation; beyond it 400."
    )
    thin_clients: bool = Field(
        True,
        description="A lone new message under a known name goes on where the conversation is, for "
        "clients that do not send its history; false: it begins anew.",
    )
    temporary_name_patterns: Patterns = Field(
        ("local:",),
        description="How the names of chats begin that are used again for another chat (regular "
        "expressions, a JSON list; Open WebUI's temporary chats). Under such a name each message "
        "that begins a history begins a conversation with an empty workspace. `[]`: none.",
    )


class AnswerSettings(Section):
    """What clients see of a turn while it waits and runs."""

    title: ClassVar = "Answers"

    ping_interval_s: float = Field(
        10.0, gt=0, le=15, description="Comment pings in a silent stream come this often."
    )
    commit_after_s: float = Field(
        3.0,
        ge=0,
        description="A stream waits this long for its first event before its 200 goes out, "
        "so that an early error keeps its honest status.",
    )
    retry_grace_s: float = Field(
        10.0,
        ge=0,
        le=60,
        description="A turn whose answer is not streamed goes on for this long without its client, "
        "if that is one that tries again by itself: its next try then gets the same turn.",
    )
    blanks_every_s: float = Field(
        0.0,
        ge=0,
        description="An answer that is not streamed sends a blank before its JSON this often, so "
        "that balancers do not cut a long one; a turn that fails after the first has its error "
        "behind a 200. 0: never.",
    )
    queue_display: QueueDisplay = Field(
        QueueDisplay.COMMENT,
        description="How a stream that waits shows how many turns are before it: `comment` (of "
        "the event stream; clients skip it), `reasoning` (people see it) or `off`.",
    )
    tool_display: ToolDisplay = Field(
        ToolDisplay.REASONING, description="Where tool activity and thinking are shown."
    )


class SideSettings(Section):
    """Titles, tags and follow-ups: one model call each."""

    title: ClassVar = "Side requests"

    side_request_patterns: Patterns = Field(
        (
            "Provide a concise, 5-word-or-less title",
            "Analyze this conversation and provide:",
            "### Task:",
        ),
        description="How the side requests of chat programs begin (regular expressions, a JSON "
        "list). One that is not streamed and has a single user message is answered as above, by "
        "the model it asks for. `[]`: none.",
    )
    side_max_tokens: int = Field(
        1024, gt=0, description="Longest answer to a side request that sets no max_tokens."
    )
    side_deadline_s: float = Field(
        120.0, gt=0, description="Longest the answer to a side request may take."
    )
