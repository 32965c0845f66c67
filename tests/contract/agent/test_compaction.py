"""A conversation that is too long for the model is summarised by the CLI, and goes on.

What starts it, learnt of 2.1.330: only the service's own "prompt is too long". Reported tokens do
not, though the CLI names a threshold (167,000 of 200,000) and says that it is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.wire.events import Notice
from infra.wire.link import BaseKind
from infra.wire.states import TurnState
from infra.wire.turns import HistoryMessage, TextBlock
from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import connected, end_of, start_turn, text_of
from tests.fakes.local_agent import local_agent
from tests.fakes.transcript_shelf import TranscriptShelf
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

SUMMARY = "This session is being continued"
HISTORY = (
    HistoryMessage(role="user", content=(TextBlock(text="echo 0"),)),
    HistoryMessage(role="assistant", content=(TextBlock(text="0"),)),
    HistoryMessage(role="user", content=(TextBlock(text="echo 1"),)),
    HistoryMessage(role="assistant", content=(TextBlock(text="1"),)),
)


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    need("sdk")
    with scripted_model() as folder:
        yield folder / "model.sock"


async def test_a_conversation_that_is_too_long_is_summarised_and_goes_on(model: Path) -> None:
    """Also in another container. A rewind to before it finds what the client has sent: of entries
    from before a summary the CLI makes no fork."""
    shelf = TranscriptShelf()
    with local_agent(model) as agent:
        async with connected(agent.socket, shelf=shelf) as (link, _):
            ends = [end_of(await link.run(start_turn(f"c{n}", f"echo {n}"))) for n in range(3)]
            events = await link.run(start_turn("c3", "fits 4 short again"))
            assert end_of(events).state is TurnState.DONE
            assert text_of(events) == "short again"
            assert [e.text for e in events if isinstance(e, Notice)] == [
                "The conversation is long; it is being summarised."
            ]
            told = text_of(await link.run(start_turn("c4", "history")))
            assert SUMMARY in told
            assert "echo 0" not in told
    kept = shelf.transcript()
    with local_agent(model) as agent, local_agent(model) as other:
        async with connected(agent.socket) as (link, _):
            told = text_of(await link.run(start_turn("c5", "history", transcript=kept)))
            assert SUMMARY in told
            assert "echo 0" not in told
        async with connected(other.socket) as (link, _):
            back = start_turn(
                "c6",
                "history",
                base=BaseKind.REWIND,
                checkpoint=ends[1].checkpoint,
                transcript=kept,
                history=HISTORY,
            )
            told = text_of(await link.run(back))
            assert "echo 0" in told
            assert "echo 1" in told
            assert "echo 2" not in told
            assert SUMMARY not in told
