"""One golden file per message that crosses a process border: a change of the wire shows in review.

The file of a new message is written when it is missing: look at it, then run again. With
`AGCLUSTER_WRITE_GOLDEN=1` all are written anew.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from infra.store.turns import history
from infra.wire import control, events, gateway, link, turns
from infra.wire.agents import delegation
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.ref import AgentRef
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.base import Message
from infra.wire.errors import ErrorCode, MalformedMessage, UnknownMessage
from infra.wire.events import (
    Artifact,
    ClientCall,
    EndReason,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnFiles,
    TurnStarted,
    Usage,
    decode_event,
    encode_event,
)
from infra.wire.ids import ConversationKey, Fence, FileId, TenantId, TurnId, WorkerId
from infra.wire.mcp.secrets import AgentMcpServer, ServerSeen
from infra.wire.options import AnswerForm, ClientTool, ClientTools, ConversationOptions, TurnOptions
from infra.wire.states import TurnState
from infra.wire.turns import (
    CallBlock,
    DocumentBlock,
    FileBlock,
    HistoryMessage,
    ImageBlock,
    ResultBlock,
    TextBlock,
)

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("AGCLUSTER_WRITE_GOLDEN") == "1"

TURN = TurnId("turn_0123456789abcdef0123456789abcdef")
CONVERSATION = ConversationKey("0123456789abcdef01234567")
TENANT = TenantId("0123456789abcdef0123")
WORKER = WorkerId("host-01234567")
FENCE = Fence(1700000000000000)

SETTINGS = link.AgentSettings(
    model="claude-sonnet-4-5-20250929",
    system_prompt='You are "Ada".\n',
    tools=("Bash", "Task"),
    model_tiers={"haiku": "claude-haiku-4-5-20251001"},
    max_turns=200,
    max_thinking_tokens=2048,
    is_prompt_added=True,
    asks_questions=True,
    permissions=Permissions(mode="ask", ask=("Bash(git push:*)",), always="turn"),
    mcp={"github": AgentMcpServer(timeout_s=60)},
    sub_agents={"finder": SubAgent(description="Finds.", prompt="Find.", tools=("Grep",))},
    environment={"LANG": "C.UTF-8"},
    delegates={"helper": "Helps."},
)
HISTORY = (
    HistoryMessage(role="user", content=(TextBlock(text="hello"),)),
    HistoryMessage(role="assistant", content=(TextBlock(text="hi"),)),
)
PROMPT = (
    TextBlock(text="what is this?"),
    ImageBlock(media_type="image/png", data="iVBORw0KGgo="),
    DocumentBlock(media_type="application/pdf", data="JVBERi0=", filename="a.pdf"),
)
TOOLS = ClientTools(
    tools=(ClientTool(name="get_weather", description="The weather now."),), is_required=True
)
FILES = (
    FileBlock(media_type="text/csv", bytes=4, digest="0" * 64, filename="a.csv", data="YTti"),
    FileBlock(
        media_type="",
        bytes=300_000_000,
        digest="f" * 64,
        filename="b.zip",
        file=FileId(f"file-{'0' * 32}"),
        store="0123456789abcdef",
    ),
)
PART = link.TranscriptPart(subpath="subagents/agent-1", entries=({"type": "user", "uuid": "u"},))
USAGE = Usage(input_tokens=1, output_tokens=2, cache_creation_input_tokens=3)
FAILED = TurnEnded(
    state=TurnState.FAILED,
    usage=USAGE,
    error=TurnError(code=ErrorCode.RATE_LIMITED, message="Later.", retry_after_s=4.5),
    is_remembered=False,
)

OPAQUE = {
    "entries",
    "body",
    "models",
    "model_tiers",
    "sub_agents",
    "environment",
    "mcp",
    "delegates",
    "reached",
    "mcp_logins",
    "mcp_servers",
    "turns",
}
"""Fields whose JSON is not ours and is passed on as it came, and maps, whose names are values."""

Decode = Callable[[bytes], Message]

EVENTS: dict[str, Message] = {
    "started": TurnStarted(sdk_session="00000000-0000-4000-8000-000000000000", model="m"),
    "text": TextDelta(text='a "b"\n\u2028é\U0001f600'),
    "thinking": ThinkingDelta(text="hm"),
    "tool_call": ToolCall(id="toolu_1", name="Bash", summary="ls", parent="toolu_0"),
    "tool_result": ToolResult(id="toolu_1", name="Bash", summary="failed", is_error=True),
    "client_call": ClientCall(id="call_1", name="get_weather", arguments='{"city":"Köln"}'),
    "notice": Notice(text="trying again"),
    "end": TurnEnded(
        state=TurnState.DONE,
        end_reason=EndReason.LENGTH,
        usage=USAGE,
        heads=("Itis", "Bash:lsItis"),
    ),
    "end_failed": FAILED,
    "end_made": TurnEnded(
        state=TurnState.DONE,
        made=TurnFiles(
            files=(
                Artifact(
                    file=FileId("file-0123456789abcdef0123456789abcdef"),
                    path="outputs/größe.csv",
                    bytes=8,
                    media_type="text/csv",
                    expires_ms=1_800_000_000_000,
                ),
            ),
            not_kept=("core (too large)",),
            more=1,
        ),
    ),
}
COMMANDS: dict[str, Message] = {
    "hello": link.Hello(worker=WORKER, fence=FENCE),
    "prepare": link.Prepare(settings=SETTINGS),
    "start_turn": link.StartTurn(turn=TURN, settings=SETTINGS, history=HISTORY, prompt=PROMPT),
    "start_turn_calls": link.StartTurn(
        turn=TURN,
        settings=SETTINGS,
        turn_options=TurnOptions(client_tools=TOOLS),
        history=(
            *HISTORY[:1],
            HistoryMessage(
                role="assistant",
                content=(CallBlock(id="call_1", name="get_weather", arguments="{}"),),
            ),
        ),
        prompt=(ResultBlock(call="call_1", content=(TextBlock(text="sunny"),)),),
    ),
    "start_turn_form": link.StartTurn(
        turn=TURN,
        settings=SETTINGS,
        turn_options=TurnOptions(
            answer_form=AnswerForm(name="trip", description="d", schema_text='{"type":"object"}')
        ),
        prompt=PROMPT,
    ),
    "start_turn_rewind": link.StartTurn(
        turn=TURN,
        settings=SETTINGS,
        base=link.BaseKind.REWIND,
        checkpoint="entry",
        transcript=link.Transcript(sdk_session="s", parts=(PART,)),
        history=HISTORY,
        restore_from=0,
        prompt=PROMPT,
    ),
    "replay": link.Replay(turn=TURN, after=7),
    "ack": link.Ack(turn=TURN, n=7),
    "interrupt": link.Interrupt(turn=TURN, reason=link.InterruptReason.DEADLINE),
    "transcript_stored": link.TranscriptStored(seq=3),
    "delegate_did": delegation.DelegateDid(
        turn=TURN, call="toolu_1", n=2, event=ToolCall(id="toolu_2", name="Bash", summary="ls")
    ),
    "delegate_answered": delegation.DelegateAnswered(turn=TURN, call="toolu_1", text="Done."),
    "ping": link.Ping(),
    "close": link.Close(),
}
ANSWERS: dict[str, Message] = {
    "welcome": link.Welcome(
        agent_version="0.1.0",
        sdk_version="0.2.187",
        sdk_session="s",
        turn=TURN,
        last_n=9,
        restores=True,
        knows=("is_called", "permissions.ask"),
    ),
    "prepared": link.Prepared(),
    "refused": link.Refused(code=ErrorCode.INVALID_REQUEST, message="no", turn=TURN),
    "transcript_append": link.TranscriptAppend(seq=3, sdk_session="s", part=PART),
    "ask_delegate": delegation.AskDelegate(
        turn=TURN, call="toolu_1", agent="helper", task="Help.", conversation=CONVERSATION
    ),
    "mcp_servers": link.McpServers(
        servers=(ServerSeen(name="github", status="connected", tools=7),)
    ),
    "agent_times": link.AgentTimes(
        python_ms=1700000000000,
        listening_ms=1700000000120,
        cli_spawned_ms=1700000000010,
        cli_connected_ms=1700000000400,
    ),
    "pong": link.Pong(),
}
CONTROL: dict[str, Message] = {
    "cancel": control.CancelTurn(turn=TURN, conversation=CONVERSATION, reason="disconnected"),
    "drain": control.DrainWorker(),
    "retire": control.DrainWorker(retire=True),
    "turn_waits": control.TurnWaits(conversation=CONVERSATION, turn=TURN),
    "turn_waits_begun": control.TurnWaits(
        conversation=CONVERSATION,
        turn=TURN,
        begun=control.BegunTurn(
            fence=Fence(7),
            serial=3,
            known=2,
            newest='{"digest":"d"}',
            record=("state", "claimed"),
            request="{}",
            host="host-a",
            sdk_session="s",
            is_resending="1",
        ),
    ),
    "stop_session": control.StopSession(conversation=CONVERSATION, is_deleted=True),
}
TURNS: dict[str, Message] = {
    "turn_request": turns.TurnRequest(
        turn=TURN,
        conversation=CONVERSATION,
        tenant=TENANT,
        model="claude-sonnet-4-5-20250929",
        system_prompt="You are Ada.",
        history=HISTORY,
        prompt=(*PROMPT, *FILES),
        deadline_s=3600.0,
        idle_timeout_s=1800.0,
        sent=("0123456789abcdef", "fedcba9876543210"),
        begins=(0,),
        answers=("Hello",),
        delegation=delegation.Delegation(
            reached={
                "helper": delegation.Delegate(
                    agent=AgentRef(name="helper", digest="0" * 32), model="m", description="Helps."
                )
            },
            depth=1,
            caller=delegation.CallingTurn(turn=TURN, conversation=CONVERSATION),
            budget_tokens=500,
        ),
    ),
}
METERED = gateway.TurnMeter(
    calls=3,
    usage=USAGE,
    last_error=gateway.UpstreamError(status=429, kind="rate_limit_error", retry_after_s=2.0),
    instance="0a1b",
    models={"claude-sonnet-4-5-20250929": gateway.ModelUsage(calls=3, usage=USAGE)},
)
METER: dict[str, Message] = {"turn_meter": METERED}
METERS: dict[str, Message] = {
    "meters": gateway.Meters(instance="0a1b", turns={TURN: METERED}),
}
STATUS: dict[str, Message] = {
    "gateway_status": gateway.GatewayStatus(instance="abc", sessions=2, turns=1),
}
REFUSED: dict[str, Message] = {
    "gateway_refused": gateway.GatewayRefused(
        fault=gateway.GatewayFault.STALE_FENCE, message="a newer owner exists", fence=FENCE
    ),
}
OPEN_SESSION: dict[str, Message] = {
    "open_session": gateway.OpenSession(socket_dir="/data/s/0123", fence=FENCE),
}
CLOSE_TURN: dict[str, Message] = {
    "close_turn": gateway.CloseTurn(turn=TURN, conversation=CONVERSATION, fence=FENCE)
}
SEAL_KEY: dict[str, Message] = {
    "seal_key": gateway.SealKey(
        turn=TURN,
        conversation=CONVERSATION,
        fence=FENCE,
        for_turn=TURN,
        for_conversation=CONVERSATION,
    )
}
SEALED_KEY: dict[str, Message] = {
    "sealed_key": gateway.SealedKey(sealed_key="c2VhbGVk", expires_ms=1700000000000)
}
OPEN_TURN: dict[str, Message] = {
    "open_turn": gateway.OpenTurn(
        turn=TURN,
        tenant=TENANT,
        conversation=CONVERSATION,
        fence=FENCE,
        sealed_key="c2VhbGVk",
        expires_ms=1700000000000,
        models=("claude-sonnet-4-5-20250929",),
        budget_tokens=50000,
        options=ConversationOptions(egress_profile="research"),
        turn_options=TurnOptions(max_tokens=100),
    ),
}
SIDE_CALL: dict[str, Message] = {
    "side_call": gateway.SideCall(
        turn=TURN,
        tenant=TENANT,
        conversation=CONVERSATION,
        sealed_key="c2VhbGVk",
        expires_ms=1700000000000,
        body={"model": "claude-haiku-4-5-20251001", "max_tokens": 64, "messages": []},
    ),
}
ACCEPTED: dict[str, Message] = {
    "accepted": history.KeptPrompt(
        digest="0123456789abcdef", turn=TURN, checkpoint="entry", answer='["It is a cat."]'
    ),
}

LAUNCH: dict[str, Message] = {"launch": link.Launch(settings=SETTINGS)}

LINKS: tuple[tuple[str, dict[str, Message], Decode], ...] = (
    ("event", EVENTS, decode_event),
    ("command", COMMANDS, link.decode_command),
    ("link", LAUNCH, link.decode_launch),
    ("answer", ANSWERS, link.decode_answer),
    ("control", CONTROL, control.decode_control),
    ("turns", TURNS, turns.decode_turn_request),
    ("history", ACCEPTED, history.decode_kept),
    ("gateway", METER, gateway.decode_meter),
    ("gateway", METERS, gateway.decode_meters),
    ("gateway", STATUS, gateway.decode_status),
    ("gateway", REFUSED, gateway.decode_refused),
    ("gateway", OPEN_SESSION, gateway.decode_open_session),
    ("gateway", OPEN_TURN, gateway.decode_open_turn),
    ("gateway", SEAL_KEY, gateway.decode_turn_command),
    ("gateway", SEALED_KEY, gateway.decode_turn_answer),
    ("gateway", CLOSE_TURN, gateway.decode_turn_command),
    ("gateway", SIDE_CALL, gateway.decode_side_call),
)
CASES = [
    pytest.param(f"{group}.{name}", message, decode, id=f"{group}.{name}")
    for group, messages, decode in LINKS
    for name, message in messages.items()
]


def encode(message: Message) -> bytes:
    """As its sender does."""
    if type(message) in typing.get_args(typing.get_args(events.Event)[0]):
        return encode_event(typing.cast("events.Event", message))
    return message.encode()


@pytest.mark.parametrize(("name", "message", "decode"), CASES)
def test_a_message_is_spelt_as_its_golden_file(name: str, message: Message, decode: Decode) -> None:
    path = GOLDEN / f"{name}.json"
    is_new = not path.exists()
    if WRITE or is_new:
        path.write_bytes(encode(message) + b"\n")
    assert not is_new, f"{path.name} was missing and is written now: look at it"
    assert path.read_bytes() == encode(message) + b"\n"
    assert decode(path.read_bytes()) == message


@pytest.mark.parametrize(("name", "message", "decode"), CASES)
def test_an_unknown_field_is_ignored(name: str, message: Message, decode: Decode) -> None:
    """A newer sender may know more; also inside of what a message holds."""
    assert decode(json.dumps(_widened(json.loads(encode(message)))).encode()) == message


@pytest.mark.parametrize("decode", [decode for _, _, decode in LINKS])
def test_what_is_no_message_is_malformed(decode: Decode) -> None:
    for raw in (b"", b"{", b"[]", b"null", b'"text"', b"\xff"):
        with pytest.raises(MalformedMessage):
            decode(raw)


@pytest.mark.parametrize(
    "decode", [decode_event, link.decode_command, link.decode_answer, control.decode_control]
)
def test_an_unknown_type_is_told_apart_from_nonsense(decode: Decode) -> None:
    with pytest.raises(UnknownMessage, match="dance"):
        decode(b'{"type":"dance","steps":3}')


def test_every_message_of_the_wire_has_a_golden_file() -> None:
    shown = {type(message) for _, messages, _ in LINKS for message in messages.values()}
    typed = {
        model
        for module in (control, events, gateway, link, turns)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model is not Message
        if "type" in model.model_fields
    }
    blocks = {TextBlock, ImageBlock, DocumentBlock, FileBlock, CallBlock, ResultBlock}
    assert typed - blocks == shown - {turns.TurnRequest, history.KeptPrompt}
    assert {path.stem for path in GOLDEN.glob("*.json")} == {str(case.id) for case in CASES}


def _widened(value: Any) -> Any:
    if isinstance(value, dict):
        known = {k: v if k in OPAQUE else _widened(v) for k, v in value.items()}
        return known | {"from_the_future": [1]}
    if isinstance(value, list):
        return [_widened(v) for v in value]
    return value
