"""How conversations are identified and answers are shown."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from infra.runtime.settings.types import (
    ClientToolsUse,
    Names,
    Patterns,
    QueueDisplay,
    Section,
    ToolDisplay,
)
from infra.wire.files.shown import ArtifactDisplay


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
        description="Append a single new message under a known name to the conversation, for "
        "clients that do not send their history; false: start anew.",
    )
    client_tools: ClientToolsUse = Field(
        ClientToolsUse.AUTO,
        description="Whether agents may call the functions that clients send as `tools`: `on`; "
        "`off`, they are ignored; `auto`, ignored from Open WebUI only, which sends many with "
        "every turn. An agent's profile and the header X-AgCluster-Client-Tools count more.",
    )
    temporary_name_patterns: Patterns = Field(
        ("local:",),
        description="Names that clients use again for other chats, such as those of Open WebUI's "
        "temporary chats (regular expressions for the beginning of the name, a JSON list). Under "
        "such a name, each first message of a history starts a conversation with an empty "
        "workspace. `[]`: none.",
    )


class AnswerSettings(Section):
    """What clients see of a turn while it waits and runs."""

    title: ClassVar = "Answers"

    ping_interval_s: float = Field(
        10.0, gt=0, le=15, description="A silent stream sends a comment ping this often."
    )
    commit_after_s: float = Field(
        3.0,
        ge=0,
        description="A stream waits this long for its first event before it sends status 200, so "
        "that an early error gets its own status.",
    )
    retry_grace_s: float = Field(
        10.0,
        ge=0,
        le=60,
        description="A turn whose answer is not streamed continues for this long without its "
        "client, if that client retries on its own; its next try gets the same turn.",
    )
    blanks_every_s: float = Field(
        0.0,
        ge=0,
        description="An answer that is not streamed sends a blank before its JSON this often, so "
        "that load balancers do not close the connection. A turn that fails after the first blank "
        "has status 200 and its error in the body. 0: never.",
    )
    queue_display: QueueDisplay = Field(
        QueueDisplay.COMMENT,
        description="How a waiting stream shows the number of turns ahead of it: `comment` (a "
        "comment of the event stream, which clients skip), `reasoning` (visible) or `off`.",
    )
    tool_display: ToolDisplay = Field(
        ToolDisplay.REASONING,
        description="Where tool activity and thinking are shown: in `reasoning_content` "
        "(`reasoning`), as plain lines of the text (`text`), inside the text where they happened, "
        "in the form that Open WebUI folds (`inline`; streams only), tools as lines of the text "
        "and thinking as reasoning, for LibreChat (`lines`; streams only), or not at all (`off`). "
        "The header `X-AgCluster-Tool-Display` says it for one request.",
    )
    inline_client_headers: Names = Field(
        ("x-openwebui-chat-id",),
        description="Headers by which clients are known that fold what is shown `inline`. A "
        "request with one of them gets `inline` where others get `reasoning`. `[]`: none.",
    )
    artifact_display: ArtifactDisplay = Field(
        ArtifactDisplay.LINKS,
        description="How an answer shows the files that its turn made: `links` at its end, "
        "pictures among it, `annotations` (which Open WebUI shows as sources) or `off`. Programs "
        "find them in the answer's metadata in any case.",
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
        "list). A request that matches, is not streamed and has a single user message is answered "
        "by one call of the model it asks for. `[]`: none.",
    )
    side_max_tokens: int = Field(
        1024, gt=0, description="Longest answer to a side request that sets no max_tokens."
    )
    side_deadline_s: float = Field(
        120.0, gt=0, description="Maximum duration of the answer to a side request."
    )
