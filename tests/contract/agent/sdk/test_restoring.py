"""What is said again into a session, with the real SDK and CLI: the full requests are compared.

The doors used for it are not documented (`shouldQuery`, frames of the assistant, an entry to end
at): a CLI in which they are gone fails here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.wire.events import TextDelta, ToolCall
from infra.wire.link import BaseKind
from infra.wire.states import TurnState
from infra.wire.turns import HistoryMessage, ImageBlock, TextBlock
from tests.contract.agent.sdk.one_agent import agent_of
from tests.contract.agent.test_memory import ask, rewind, said, started, stop_in, told
from tests.fakes.link_client import LinkClient, end_of, text_of
from tests.fakes.transcript_shelf import TranscriptShelf

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

SHOWN = said("echo one", "one", "echo two", "as the page shows it", "echo three", "three")


@pytest.fixture
async def link(model: Path) -> AsyncIterator[LinkClient]:
    async with agent_of(model) as link:
        yield link


def lines(*history: HistoryMessage) -> list[str]:
    return [f"{m.role}: {m.content[0].text}" for m in history]  # type: ignore[union-attr]


async def test_a_shown_answer_takes_the_place_of_the_one_that_was_given(
    link: LinkClient, model: Path
) -> None:
    """What came before it keeps its tools; and the session goes on as any other."""
    first = await ask(link, "tool bash echo found then echo one")
    await ask(link, "echo two")
    before = (await told(model))[:-1]
    last = await rewind(link, "echo four", first, history=SHOWN, restore_from=2)
    assert await told(model) == [*before, *lines(*SHOWN[2:]), "user: echo four"]

    await ask(link, "echo five")
    assert (await told(model))[-3:] == ["user: echo four", "assistant: four", "user: echo five"]
    await ask(link, "echo six")
    await rewind(link, "echo seven", last)
    assert (await told(model))[-2:] == ["assistant: four", "user: echo seven"]


async def test_what_the_memory_lacks_is_told_to_the_cli_that_runs(
    link: LinkClient, model: Path
) -> None:
    """A message that was stopped before the agent had it used to cost all that tools had found."""
    first = await ask(link, "tool bash echo found then echo one")
    before = (await told(model))[:-2]
    history = said("echo one", "one", "echo lost")
    again = await ask(link, "echo three", history=history, restore_from=2)
    assert (await told(model))[: len(before)] == before
    assert (await told(model))[-2:] == ["assistant: one", "user: echo lost | echo three"]
    assert started(again) == started(first), "the CLI was closed for it"


async def test_pictures_are_restored_with_the_words(link: LinkClient, model: Path) -> None:
    pixel = ImageBlock(
        media_type="image/png",
        data="iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
        "AABJRU5ErkJggg==",
    )
    await ask(link, "echo one")
    history = (
        *said("echo one", "one"),
        HistoryMessage(role="user", content=(TextBlock(text="see"), pixel)),
        *said("", "seen")[1:],
    )
    await ask(link, "echo two", history=history, restore_from=2)
    shown, answer = (await told(model))[2:4]
    # The CLI tells the agent where it keeps the picture.
    assert (shown.split(" | ")[:2], answer) == (["user: see", "image"], "assistant: seen")


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("tool bash sleep 30 then echo x", ToolCall), ("stream 90 deltas every 50 ms", TextDelta)],
)
async def test_a_past_that_ends_with_the_user_gets_no_answer_from_the_cli(
    model: Path, prompt: str, kind: Any
) -> None:
    """It said "No response requested." by itself, and the model believed it had."""
    shelf = TranscriptShelf()
    async with agent_of(model, shelf=shelf) as link:
        stopped = end_of(await stop_in(link, prompt, kind))
        # Another system prompt: the CLI is opened anew in the same agent.
        await ask(link, "echo two", system_prompt="other")
        assert "No response requested" not in str(await told(model))
        given = shelf.transcript()
    async with agent_of(model) as link:
        checkpoint = stopped.checkpoint
        await ask(link, "echo three", transcript=given, checkpoint=checkpoint)
        told_now = await told(model)
        assert "No response requested" not in str(told_now)
        # What came after the checkpoint is not on record, so it is not in the memory either.
        assert told_now[-1].endswith("echo three")
        assert "echo two" not in str(told_now)


async def test_a_sent_history_that_ends_with_the_user_gets_no_answer_either(
    link: LinkClient, model: Path
) -> None:
    await ask(link, "echo d", base=BaseKind.FRESH, history=said("a", "b", "c"))
    assert await told(model) == ["user: a", "assistant: b", "user: c | echo d"]
    await ask(link, "echo f", base=BaseKind.FRESH, history=said("e"))
    assert await told(model) == ["user: e | echo f"]


@pytest.mark.parametrize("status", [400, 401])
async def test_a_turn_that_failed_before_an_answer_leaves_no_memory(
    model: Path, status: int
) -> None:
    """A message that the model refused stood in the transcript, and every later turn of a client
    that sends only what is new was refused with it."""
    shelf = TranscriptShelf()
    async with agent_of(model, shelf=shelf) as link:
        refused = end_of(await ask(link, f"error {status} no-retry"))
        assert (refused.state, refused.is_remembered) == (TurnState.FAILED, False)
        first = await ask(link, "echo one")
        assert await told(model) == ["user: echo one"]
        refused = end_of(await ask(link, f"error {status} no-retry"))
        assert (refused.checkpoint, refused.is_remembered) == (None, False)
        given = shelf.transcript()
        await ask(link, "echo two")
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo two"]
    async with agent_of(model) as link:
        # Its stored transcript ends with the message that was refused.
        await ask(link, "echo three", transcript=given, checkpoint=end_of(first).checkpoint)
        assert await told(model) == ["user: echo one", "assistant: one", "user: echo three"]


async def test_a_branch_that_failed_is_no_branch(link: LinkClient, model: Path) -> None:
    first = await ask(link, "echo one")
    await ask(link, "echo two")
    failed = await rewind(link, "error 401 no-retry", first)
    assert not end_of(failed).is_remembered
    await ask(link, "echo three")
    assert (await told(model))[-3:] == ["user: echo two", "assistant: two", "user: echo three"]


async def test_a_turn_that_fails_in_its_answer_is_remembered(link: LinkClient, model: Path) -> None:
    failed = end_of(await ask(link, "tool bash echo found then error 401 no-retry"))
    assert (failed.state, failed.is_remembered) == (TurnState.FAILED, True)
    await ask(link, "echo two")
    assert "result found" in str(await told(model))


async def test_another_model_leaves_no_words_in_the_conversation(
    link: LinkClient, model: Path
) -> None:
    """The CLI wrote its `/model` command there, as the user's words."""
    first = await ask(link, "tool bash echo found then echo one")
    before = (await told(model))[:3]
    second = await ask(link, "model", model="claude-haiku-4-5-20251001")
    assert text_of(second) == "claude-haiku-4-5-20251001"
    assert await told(model) == [*before, "assistant: one", "user: model"]
    assert started(second) == started(first)
    third = await ask(link, "model")
    assert text_of(third) == "claude-sonnet-4-5-20250929"
    assert (await told(model))[-1] == "user: model"
