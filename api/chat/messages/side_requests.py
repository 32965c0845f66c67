"""Recognises side requests: titles, tags, follow-ups. Pure.

Chat programs send them under the conversation's own id, some before its first turn, and nothing in
OpenAI's protocol marks them. Three signs identify them: a utility model, a task header, or the
beginning of a request that is not streamed and has a single user message, ignoring text that a chat
program added to it. They are answered by one model call and never reach an agent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from api.chat.request import ChatMessage, ChatRequest
from api.turns.naming import is_given
from infra.runtime.settings import ModelSettings, SideSettings
from infra.wire.history.decision import INJECTED
from infra.wire.turns import Lane

TASK_HEADER = "x-task"
"""The task of a request (Open WebUI: `X-Task: {{TASK}}`); empty for a turn."""

_CHAT = re.compile(r"<chat_history>.*</chat_history>", re.DOTALL)
_SYSTEM_ROLES = frozenset({"system", "developer"})


class SideRules:
    """The signs, as the deployment configures them."""

    def __init__(self, settings: SideSettings, *, models: ModelSettings) -> None:
        self._utility_models = frozenset(models.utility_models)
        self._beginnings = [re.compile(pattern) for pattern in settings.side_request_patterns]

    def lane_of(self, chat: ChatRequest, headers: Mapping[str, str]) -> Lane:
        """The lane of a request."""
        is_side = (
            chat.model in self._utility_models
            or is_given(headers.get(TASK_HEADER, ""))
            or self._begins_like_one(chat)
        )
        return Lane.SIDE if is_side else Lane.AGENT

    def _begins_like_one(self, chat: ChatRequest) -> bool:
        spoken = [message for message in chat.messages if message.role not in _SYSTEM_ROLES]
        if chat.stream or len(spoken) != 1 or spoken[0].role != "user":
            return False
        text = _first_text(spoken[0]).lstrip()
        if INJECTED.search(_CHAT.sub("", text)):
            # What Open WebUI found in an attached file, in front of the user's words.
            return False
        return any(beginning.match(text) for beginning in self._beginnings)


def _first_text(message: ChatMessage) -> str:
    return message.first_text
