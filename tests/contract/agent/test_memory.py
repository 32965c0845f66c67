"""What the model is told of the past, with the real SDK and CLI: the full requests are compared.

Each test acts a client out: what it sees on its screen is what the model must have been sent.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.wire.events import Event, TextDelta, ToolCall, TurnStarted, decode_event
from infra.wire.frames import Frame
from infra.wire.ids import TurnId
from infra.wire.link import BaseKind, Interrupt, InterruptReason, Transcript, TranscriptPart
from infra.wire.states import TurnState
from infra.wire.turns import ContentBlock, HistoryMessage, TextBlock
from tests.fakes.contained_agent import ContainedAgent
from tests.fakes.link_client import LinkClient, connected, end_of, start_turn, text_of
from tests.fakes.transcript_shelf import TranscriptShelf

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

TOOLS = ("Bash", "Read", "Write", "Task")
_numbers = itertools.count(1)

Blocks = tuple[ContentBlock, ...]


async def ask(link: LinkClient, prompt: str | Blocks, **more: Any) -> list[Event]:
    """Run a turn; its id is new each time."""
    return await link.run(start_turn(f"m{next(_numbers)}", prompt, **{"tools": TOOLS, **more}))


async def rewind(
    link: LinkClient, prompt: str | Blocks, to: list[Event], **more: Any
) -> list[Event]:
    """Run a turn on what was known at the end of an earlier one."""
    checkpoint = end_of(to).checkpoint
    assert checkpoint is not None
    return await ask(link, prompt, base=BaseKind.REWIND, checkpoint=checkpoint, **more)


async def told(model: Path) -> list[str]:
    """The newest request as `role: text | text` lines, without what the CLI adds by itself."""
    transport = httpx.AsyncHTTPTransport(uds=str(model / "model.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        body = (await client.get("/_script/last")).json()
    return [f"{m['role']}: {' | '.join(_texts(m['content']))}" for m in body["messages"]]


def _texts(content: str | list[dict[str, Any]]) -> list[str]:
    if isinstance(content, str):
        return [content.strip()]
    texts = [text for block in content for text in _of(block)]
    return [text for text in texts if text and not text.startswith("<system-reminder>")]


def _of(block: dict[str, Any]) -> list[str]:
    match block["type"]:
        case "tool_use":
            return [f"call {block['name']} {json.dumps(block['input'].get('command'))}"]
        case "tool_result":
            result = " ".join(_texts(block["content"]))
            return ["result " + result.partition("<system-reminder>")[0].strip()]
        case _:
            return [str(block.get("text", block["type"])).strip()]


def started(events: list[Event]) -> str:
    """The SDK session a turn ran in."""
    return next(event.sdk_session for event in events if isinstance(event, TurnStarted))


def said(*texts: str) -> tuple[HistoryMessage, ...]:
    """A sent history: user and assistant in turn."""
    roles = itertools.cycle(("user", "assistant"))
    return tuple(
        HistoryMessage(role=role, content=(TextBlock(text=text),))  # type: ignore[arg-type]
        for role, text in zip(roles, texts, strict=False)
    )


async def stop_in(link: LinkClient, prompt: str, kind: type[Event], **more: Any) -> list[Event]:
    """Start a turn, interrupt it at its third event of a kind (a call: the first), hear it out."""
    turn = f"m{next(_numbers)}"
    await link.send(start_turn(turn, prompt, **{"tools": TOOLS, **more}))
    events: list[Event] = []
    wanted = 1 if kind is ToolCall else 3
    while sum(isinstance(event, kind) for event in events) < wanted:
        frame = await link.read()
        assert isinstance(frame, Frame)
        events.append(decode_event(frame.payload))
    await link.send(Interrupt(turn=TurnId(turn), reason=InterruptReason.CANCELLED))
    return events + await link.collect(TurnId(turn), after=len(events))


async def test_a_regenerated_turn_does_not_know_its_old_answer(
    real_agent: ContainedAgent, model: Path
) -> None:
    async with connected(real_agent.socket) as (link, _):
        first = await ask(link, "echo one")
        second = await ask(link, "echo two")
        again = await rewind(link, "echo two", first)
        assert text_of(again) == "two"
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo two"]
        assert started(again) not in ("", started(second))


async def test_the_turn_after_a_rewind_goes_on_in_the_fork(
    real_agent: ContainedAgent, model: Path
) -> None:
    async with connected(real_agent.socket) as (link, _):
        first = await ask(link, "echo one")
        await ask(link, "echo two")
        again = await rewind(link, "echo other", first)
        after = await ask(link, "echo three")
        assert started(after) == started(again)
        assert await told(model) == [
            "user: echo one",
            "assistant: one",
            "user: echo other",
            "assistant: other",
            "user: echo three",
        ]


async def test_checkpoints_from_before_a_fork_are_good_after_it(
    real_agent: ContainedAgent, model: Path
) -> None:
    """Editing twice: the conversation remembers the checkpoint of a turn from two forks ago."""
    async with connected(real_agent.socket) as (link, _):
        first = await ask(link, "echo one")
        second = await ask(link, "tool bash echo deep then echo two")
        await rewind(link, "echo three", second)
        await rewind(link, "echo four", second)
        assert "result deep" in "".join(await told(model))
        await rewind(link, "echo five", first)
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo five"]


async def test_an_edit_in_the_middle_forgets_what_came_after(
    real_agent: ContainedAgent, model: Path
) -> None:
    sub = 'tool Agent {"description":"d","prompt":"tool bash ls","subagent_type":"general-purpose"}'
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo one")
        kept = await ask(link, f"{sub} then echo sub done")
        await ask(link, "tool bash echo gone then echo three")
        await ask(link, "echo four")
        await rewind(link, "echo edited", kept)
    messages = await told(model)
    assert messages[:2] == ["user: echo one", "assistant: one"]
    assert messages[2].startswith("user: tool Agent")
    assert messages[3].startswith("assistant: call Agent")
    assert messages[-2:] == ["assistant: sub done", "user: echo edited"]
    assert not any("gone" in message or "four" in message for message in messages)


@pytest.mark.parametrize(
    ("prompt", "kind", "kept"),
    [
        ("stream 500 deltas every 20 ms", TextDelta, "[Request interrupted by user]"),
        ("tool bash sleep 987", ToolCall, "[Request interrupted by user for tool use]"),
    ],
)
async def test_a_stopped_turn_is_a_place_to_go_back_to(
    real_agent: ContainedAgent, model: Path, prompt: str, kind: type[Event], kept: str
) -> None:
    """Prompt, cut answer and the interruption stay in the memory, and in that of the rewind."""
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo one")
        stopped = await stop_in(link, prompt, kind)
        assert end_of(stopped).state is TurnState.CANCELLED
        await ask(link, "echo two")
        before = await told(model)
        assert before[2] == f"user: {prompt}"
        assert before[3].startswith(("assistant: 0@", "assistant: call Bash"))
        assert kept in before[-1]
        assert before[-1].endswith("echo two")
        await rewind(link, "echo three", stopped)
        assert await told(model) == [
            *before[:-1],
            before[-1].replace("echo two", "echo three"),
        ]


async def test_a_turn_at_its_limit_of_calls_keeps_its_last_result(
    real_agent: ContainedAgent, model: Path
) -> None:
    async with connected(real_agent.socket) as (link, _):
        script = "tool bash echo a then tool bash echo b then echo c"
        limited = await ask(link, script, max_turns=1)
        await ask(link, "echo two", max_turns=1)
        await rewind(link, "echo three", limited, max_turns=1)
    messages = await told(model)
    assert messages[-1].startswith("user: result a")
    assert messages[-1].endswith("echo three")


async def test_going_back_after_the_cli_was_killed(real_agent: ContainedAgent, model: Path) -> None:
    async with connected(real_agent.socket) as (link, _):
        first = await ask(link, "echo one")
        await link.send(start_turn("killed", "tool bash sleep 987", tools=TOOLS))
        n = 0
        while not isinstance(decode_event((await read_frame(link)).payload), ToolCall):
            n += 1
        await real_agent.run("pkill", "-KILL", "-x", "claude")
        killed = await link.collect(TurnId("killed"), after=n + 1)
        assert end_of(killed).state is TurnState.FAILED
        await rewind(link, "echo two", first)
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo two"]


async def read_frame(link: LinkClient) -> Frame:
    frame = await link.read()
    assert isinstance(frame, Frame)
    return frame


async def test_an_unknown_checkpoint_falls_back_to_the_sent_history(
    real_agent: ContainedAgent, model: Path
) -> None:
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo one")
        await ask(
            link,
            "echo now",
            base=BaseKind.REWIND,
            checkpoint="8d1a5b1e-0000-4000-8000-000000000000",
            history=said("sent question", "sent answer"),
        )
    assert await told(model) == ["user: sent question", "assistant: sent answer", "user: echo now"]


async def test_a_checkpoint_the_cli_refuses_falls_back_to_the_sent_history(
    real_agent: ContainedAgent, model: Path
) -> None:
    """The entry is in the transcript, and no message the CLI could go back to is."""
    entry = {"type": "queue-operation", "uuid": "8d1a5b1e-0000-4000-8000-000000000000"}
    given = Transcript(
        sdk_session="9d1a5b1e-0000-4000-8000-000000000000",
        parts=(TranscriptPart(entries=(entry,)),),
    )
    async with connected(real_agent.socket) as (link, _):
        events = await ask(
            link,
            "echo now",
            base=BaseKind.REWIND,
            checkpoint="8d1a5b1e-0000-4000-8000-000000000000",
            transcript=given,
            history=said("sent question", "sent answer"),
        )
        assert text_of(events) == "now"
    assert await told(model) == ["user: sent question", "assistant: sent answer", "user: echo now"]


async def test_a_fresh_turn_knows_the_sent_history_and_nothing_else(
    real_agent: ContainedAgent, model: Path
) -> None:
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo secret")
        history = said("my name is Ada", "hello Ada", "I like tea", "noted")
        await ask(link, "echo now", base=BaseKind.FRESH, history=history)
        assert await told(model) == [
            "user: my name is Ada",
            "assistant: hello Ada",
            "user: I like tea",
            "assistant: noted",
            "user: echo now",
        ]
        await ask(link, "echo then")
        assert (await told(model))[-2:] == ["assistant: now", "user: echo then"]


async def test_a_fresh_turn_without_a_history_knows_nothing(
    real_agent: ContainedAgent, model: Path
) -> None:
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo secret")
        await ask(link, "echo now", base=BaseKind.FRESH)
    assert await told(model) == ["user: echo now"]


async def test_another_container_goes_on_from_the_stored_transcript(model: Path) -> None:
    """Tool results and a changed system prompt included; nothing came by the workspace."""
    shelf = TranscriptShelf()
    async with ContainedAgent(model) as one, connected(one.socket, shelf=shelf) as (link, _):
        first = await ask(link, "echo one")
        second = await ask(link, "tool bash echo found; pwd then echo two", system_prompt="Be A")
        assert shelf.session == started(second) == started(first)
    async with ContainedAgent(model) as two, connected(two.socket, shelf=shelf) as (link, _):
        third = await ask(
            link,
            "echo three",
            system_prompt="Be B",
            transcript=shelf.transcript(),
            checkpoint=end_of(second).checkpoint,
            history=said("not", "used"),
        )
        assert started(third) == started(first)
        assert await told(model) == [
            "user: echo one",
            "assistant: one",
            "user: tool bash echo found; pwd then echo two",
            'assistant: call Bash "echo found; pwd"',
            "user: result found\n/workspace",
            "assistant: two",
            "user: echo three",
        ]
    async with ContainedAgent(model) as three, connected(three.socket) as (link, _):
        again = await rewind(link, "echo four", first, transcript=shelf.transcript())
        assert text_of(again) == "four"
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo four"]


async def test_a_fork_and_a_sent_history_are_stored_whole(
    real_agent: ContainedAgent, model: Path
) -> None:
    shelf = TranscriptShelf()
    async with connected(real_agent.socket, shelf=shelf) as (link, _):
        await ask(link, "echo one", base=BaseKind.FRESH, history=said("before", "answer"))
        first = await ask(link, "echo two")
        await ask(link, "echo gone")
        await rewind(link, "echo three", first)
    async with ContainedAgent(model) as other, connected(other.socket) as (link, _):
        await ask(link, "echo four", transcript=shelf.transcript())
    assert await told(model) == [
        "user: before",
        "assistant: answer",
        "user: echo one",
        "assistant: one",
        "user: echo two",
        "assistant: two",
        "user: echo three",
        "assistant: three",
        "user: echo four",
    ]


async def test_a_transcript_that_ends_too_early_is_not_resumed(
    real_agent: ContainedAgent, model: Path
) -> None:
    shelf = TranscriptShelf()
    async with connected(real_agent.socket, shelf=shelf) as (link, _):
        await ask(link, "echo one")
    given = shelf.transcript()
    async with ContainedAgent(model) as other, connected(other.socket) as (link, _):
        lost = "8d1a5b1e-0000-4000-8000-000000000000"
        history = said("echo one", "one", "echo two", "two")
        await ask(link, "echo three", transcript=given, checkpoint=lost, history=history)
    assert await told(model) == [
        "user: echo one",
        "assistant: one",
        "user: echo two",
        "assistant: two",
        "user: echo three",
    ]


async def test_a_prompt_that_was_stopped_before_it_began_leaves_the_memory_as_it_was(
    real_agent: ContainedAgent, model: Path
) -> None:
    """Its worker is told so, and gives it along with the next one where nobody else would."""
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo one")
        await link.send(start_turn("early", "echo two", tools=TOOLS, system_prompt="other"))
        await link.send(Interrupt(turn=TurnId("early"), reason=InterruptReason.CANCELLED))
        stopped = end_of(await link.collect(TurnId("early")))
        assert (stopped.state, stopped.is_remembered) == (TurnState.CANCELLED, False)
        await ask(link, "echo three")
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo three"]


async def test_the_transcript_is_stored_when_the_turn_ends(real_agent: ContainedAgent) -> None:
    shelf = TranscriptShelf()
    async with connected(real_agent.socket, shelf=shelf) as (link, _):
        ended = end_of(await ask(link, "tool bash echo x then echo fin"))
        ids = [entry["uuid"] for entry in shelf.entries() if "uuid" in entry]
        assert ids[-1] == ended.checkpoint
        assert len(ids) == len(set(ids))


async def test_a_worker_that_stores_nothing_holds_a_conversation_back_once(
    real_agent: ContainedAgent,
) -> None:
    """And the next one gets all of it."""
    loop = asyncio.get_running_loop()
    async with connected(real_agent.socket) as (link, _):
        await ask(link, "echo warm")
    async with connected(real_agent.socket, fence=2) as (deaf, _):
        deaf._shelf = None
        begin = loop.time()
        for turn in ("d1", "d2"):
            await deaf.send(start_turn(turn, "tool bash echo x then echo y", tools=TOOLS))
            while not isinstance(got := await deaf.read(), Frame) or b'"end"' not in got.payload:
                pass
        assert loop.time() - begin < 20
    shelf = TranscriptShelf()
    async with connected(real_agent.socket, fence=3, shelf=shelf) as (link, _):
        await ask(link, "echo last")
    said_by_user = str([e["message"]["content"] for e in shelf.entries() if e["type"] == "user"])
    assert said_by_user.count("tool bash echo x") == 2
    assert "echo last" in said_by_user
