"""Which requests of real clients are side requests. The bodies are as they were recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.chat.messages.side_requests import SideRules
from api.chat.request import read_chat_request
from infra.runtime.settings import Settings, SettingsRefused, load_settings
from infra.wire.turns import Lane

MODEL = "claude-sonnet-4.5"
LIBRECHAT = {
    "user-agent": "langchainjs-openai/1.0.0",
    "x-conversation-id": "0c9c3dd0-1c3b-4b6c-9f2b-5a1d8b2f7e11",
    "x-message-id": "6a7c6b1e-0000-4000-8000-1f1f1f1f1f1f",
    "x-parent-message-id": "f0b7c9a2-0000-4000-8000-2e2e2e2e2e2e",
}
LIBRECHAT_TITLE = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
    "Only return the title itself.\n\nConversation:\nUser: Plan a weekend in Rome\nAI: "
)
LIBRECHAT_STRUCTURED = (
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A "
    "concise title in the detected language (5 words or less)\n\nUser: Plan a weekend\nAI: "
)
WEBUI_TITLE = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    "### Guidelines:\n- …\n### Chat History:\n<chat_history>\nUSER: hi\nASSISTANT: hello\n"
    "</chat_history>"
)
WEBUI_TAGS = "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history"
WEBUI_FOLLOW_UPS = "### Task:\nSuggest 3-5 relevant follow-up questions or prompts"
WEBUI_FILE = (
    "### Task:\nRespond to the user query using the provided context.\n\n<context>\n"
    '<source id="1" name="plan.txt">Monday: rest</source>\n</context>\n\nWhat is on Monday?'
)
HISTORY = [
    {"role": "user", "content": "Plan a weekend in Rome"},
    {"role": "assistant", "content": "Gladly."},
]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def lane_of(
    *messages: dict[str, Any],
    headers: dict[str, str] | None = None,
    settings: Settings | None = None,
    **body: Any,
) -> Lane:
    raw = {"model": MODEL, "stream": False, "messages": list(messages), **body}
    chat = read_chat_request(json.dumps(raw).encode())
    settings = settings or load_settings({}, env_file=None)
    return SideRules(settings, models=settings).lane_of(chat, headers or {})


SIDE = {
    "LibreChat's title": lambda: lane_of(
        user(LIBRECHAT_TITLE), headers=LIBRECHAT, user="65f1c0ffee65f1c0ffee65f1"
    ),
    "LibreChat's structured title": lambda: lane_of(
        user(LIBRECHAT_STRUCTURED), headers=LIBRECHAT, response_format={"type": "json_schema"}
    ),
    "Open WebUI's title": lambda: lane_of(user(WEBUI_TITLE), max_tokens=1000),
    "Open WebUI's tags": lambda: lane_of(user(WEBUI_TAGS)),
    "Open WebUI's follow-ups": lambda: lane_of(user(WEBUI_FOLLOW_UPS)),
    "a title of a chat about HTML": lambda: lane_of(
        user(WEBUI_TITLE.replace("USER: hi", "USER: what is <source src=x> in a <context>?"))
    ),
    "as parts": lambda: lane_of(user([{"type": "text", "text": WEBUI_TAGS}])),
    "with blanks before": lambda: lane_of(user("\n  " + WEBUI_TAGS)),
    "with a system prompt": lambda: lane_of(
        {"role": "system", "content": "You are kind."}, user(LIBRECHAT_TITLE)
    ),
    "without `stream`": lambda: lane_of(user(WEBUI_TAGS), stream=None),
    "a task header": lambda: lane_of(user("Any words"), headers={"x-task": "title_generation"}),
    "a task header, streamed": lambda: lane_of(
        *HISTORY, user("Go on"), stream=True, headers={"x-task": "emoji_generation"}
    ),
    "a utility model": lambda: lane_of(*HISTORY, user("Sum up"), model="claude-utility"),
    "a utility model, streamed": lambda: lane_of(
        user("Sum up"), model="claude-utility", stream=True
    ),
}
AGENT = {
    "LibreChat's first turn": lambda: lane_of(
        user("Plan a weekend in Rome"), headers=LIBRECHAT, stream=True
    ),
    "LibreChat's second turn": lambda: lane_of(
        *HISTORY, user("Shorter"), headers=LIBRECHAT, stream=True
    ),
    "a question about titles": lambda: lane_of(user("What is a good title for my book?")),
    "the words inside a message": lambda: lane_of(user("I read: " + LIBRECHAT_TITLE)),
    "typed into a chat": lambda: lane_of(user(WEBUI_TITLE), stream=True),
    "pasted in the middle of a chat": lambda: lane_of(*HISTORY, user(WEBUI_TITLE)),
    "two messages of the user": lambda: lane_of(user(WEBUI_TITLE), user("and this")),
    "an empty task header": lambda: lane_of(user("Hi"), headers={"x-task": " "}),
    "a placeholder nobody filled in": lambda: lane_of(user("Hi"), headers={"x-task": "{{TASK}}"}),
    "a picture only": lambda: lane_of(
        user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}])
    ),
    "a file attached in Open WebUI": lambda: lane_of(user(WEBUI_FILE)),
    "no content": lambda: lane_of(user(None)),
}


@pytest.mark.parametrize("which", list(SIDE))
def test_a_side_request_is_known(which: str) -> None:
    assert SIDE[which]() is Lane.SIDE


@pytest.mark.parametrize("which", list(AGENT))
def test_a_turn_of_a_conversation_is_none(which: str) -> None:
    assert AGENT[which]() is Lane.AGENT


def test_patterns_are_a_setting() -> None:
    own = load_settings(
        {"AGCLUSTER_SIDE_REQUEST_PATTERNS": '["(?i)name this, please"]'}, env_file=None
    )
    assert lane_of(user("NAME THIS, PLEASE: …"), settings=own) is Lane.SIDE
    assert lane_of(user(WEBUI_TITLE), settings=own) is Lane.AGENT
    none = load_settings({"AGCLUSTER_SIDE_REQUEST_PATTERNS": "[]"}, env_file=None)
    assert lane_of(user(WEBUI_TITLE), settings=none) is Lane.AGENT


def test_a_broken_pattern_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsRefused, match="no regular expression"):
        load_settings({"AGCLUSTER_SIDE_REQUEST_PATTERNS": '["("]'}, env_file=None)


def test_the_utility_model_follows_the_models_that_are_offered() -> None:
    def target(**environ: str) -> str | None:
        names = {f"AGCLUSTER_{name.upper()}": value for name, value in environ.items()}
        return load_settings(names, env_file=None).resolve_model("claude-utility")

    assert target() == "claude-haiku-4-5-20251001"
    assert target(models="big-1, my-haiku-2", model_aliases="{}") == "my-haiku-2"
    assert target(models="big-1", model_aliases="{}") == "big-1"
    assert target(utility_models="claude-utility=claude-haiku-4.5") == "claude-haiku-4-5-20251001"
    assert target(utility_models="claude-utility=not-for-agents") == "not-for-agents"
    assert target(utility_models="titles=x") is None
