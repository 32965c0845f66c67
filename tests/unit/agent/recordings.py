"""What the real SDK and CLI said, line by line, and the same by hand for what is hard to record.

Recorded with claude-agent-sdk 0.2.187 against the scripted model; environment details (lists of
tools, costs, timings) are left out.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from claude_agent_sdk import Message, StreamEvent
from claude_agent_sdk._internal.message_parser import parse_message

from agent.translate.translator import Translator
from infra.wire.events import Event
from infra.wire.link import InterruptReason

FOLDER = Path(__file__).parent / "recorded"


def recorded(name: str) -> list[Message]:
    """The messages of a recording."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    parsed = [parse_message(json.loads(line)) for line in lines]
    return [message for message in parsed if message is not None]


def translate(
    messages: list[Message], *, interrupt: InterruptReason | None = None, prompt: str | None = None
) -> list[Event]:
    """All events of the messages of one turn."""
    translator = Translator(prompt or prompt_of(messages))
    return [event for message in messages for event in translator.read(message, interrupt)]


def prompt_of(messages: list[Message]) -> str:
    """The uuid the recorded prompt was sent with, as its result names it."""
    ids = [i for m in messages for i in getattr(m, "user_message_uuids", None) or []]
    return ids[0] if ids else ""


def stream_event(event: dict[str, Any]) -> StreamEvent:
    """A raw event of the Messages API, as the SDK hands it over."""
    return StreamEvent(uuid=str(uuid.uuid4()), session_id="s", event=event)


def streamed(
    id: str, pieces: list[str], *, stop: str | None = "end_turn", kind: str = "text"
) -> list[Message]:
    """A message of one block as its deltas; without `stop` its stream broke."""
    delta = {"text": "text_delta", "thinking": "thinking_delta"}[kind]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": id, "usage": {"input_tokens": 10}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": kind, kind: ""}},
        *({"type": "content_block_delta", "delta": {"type": delta, kind: p}} for p in pieces),
        {"type": "content_block_stop", "index": 0},
    ]
    if stop:
        usage = {"output_tokens": len(pieces)}
        events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage})
    return [stream_event(event) for event in (*events, {"type": "message_stop"})]
