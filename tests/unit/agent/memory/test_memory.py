"""What a CLI is opened on and told, and what is left of a turn that came to nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from agent.memory.memory import AgentMemory
from agent.memory.past import Past
from agent.memory.transcripts import PartKey, Transcripts
from infra.wire.ids import TurnId
from infra.wire.link import AgentSettings, BaseKind, StartTurn, Transcript, TranscriptPart
from infra.wire.turns import HistoryMessage, TextBlock

WORKSPACE = Path("/workspace")
PROJECT = "-workspace"


def said(*texts: str) -> tuple[HistoryMessage, ...]:
    roles = itertools.cycle(("user", "assistant"))
    return tuple(
        HistoryMessage(role=role, content=(TextBlock(text=text),))  # type: ignore[arg-type]
        for role, text in zip(roles, texts, strict=False)
    )


def start(base: BaseKind = BaseKind.CONTINUE, **more: Any) -> StartTurn:
    settings = AgentSettings(model="m", tools=())
    return StartTurn(
        turn=TurnId("t"), settings=settings, base=base, prompt=(TextBlock(text="p"),), **more
    )


def entry(id: str, role: str) -> dict[str, Any]:
    return {"uuid": id, "type": role, "message": {"role": role, "content": id}}


@pytest.fixture
def transcripts() -> Transcripts:
    return Transcripts()


@pytest.fixture
def memory(transcripts: Transcripts) -> AgentMemory:
    """Of a session with one turn."""
    memory = AgentMemory(transcripts, WORKSPACE)
    assert memory._project == PROJECT
    add(transcripts, entry("u1", "user"), entry("a1", "assistant"))
    assert memory.took("s", "u1", is_done=True)
    return memory


def add(transcripts: Transcripts, *entries: dict[str, Any], session: str = "s") -> None:
    transcripts.add(PartKey(PROJECT, session), entries)


def test_a_session_is_gone_on_with_where_it_is(memory: AgentMemory) -> None:
    memory.stand_on(start(), has_cli=False)
    assert memory.opening()[0] == Past("s")


def test_a_cli_opened_on_the_users_words_is_told_where_to_end(
    memory: AgentMemory, transcripts: Transcripts
) -> None:
    """Else it answers them by itself."""
    add(transcripts, entry("u2", "user"), {"uuid": "x", "type": "attachment"})
    assert memory.took("s", "u2", is_done=False)
    assert memory.opening()[0] == Past("s", at="x")


def test_a_turn_that_came_to_nothing_is_cut_off(
    memory: AgentMemory, transcripts: Transcripts
) -> None:
    before = memory.mark
    add(transcripts, entry("u2", "user"))
    assert memory.go_back(before)
    assert memory.opening()[0] == Past("s", at="a1")
    assert not memory.go_back(memory.mark)


def test_a_first_turn_that_came_to_nothing_leaves_no_session(transcripts: Transcripts) -> None:
    memory = AgentMemory(transcripts, WORKSPACE)
    before = memory.mark
    add(transcripts, entry("u1", "user"), session="new")
    memory.go_back(before)
    assert memory.opening()[0] == Past()


def test_a_branch_that_came_to_nothing_leaves_the_one_before(memory: AgentMemory) -> None:
    before = memory.mark
    memory.stand_on(start(BaseKind.FRESH, history=said("a", "b")), has_cli=False)
    assert memory.past.session != "s"
    assert memory.go_back(before)
    assert memory.opening()[0] == Past("s")


def test_what_the_memory_lacks_is_told_behind_it(memory: AgentMemory) -> None:
    history = said("u1", "a1", "u2", "a2", "u3")
    memory.stand_on(start(history=history, restore_from=2), has_cli=True)
    assert [(f.role, f.content[0]["text"]) for f in memory.to_tell.frames] == [
        ("user", "u2"),
        ("assistant", "a2"),
    ]
    assert [block["text"] for block in memory.to_tell.content] == ["u3"]
    # A CLI that died in the middle of it is opened anew before it.
    assert memory.opening()[0] == Past("s", at="a1")


def test_a_stored_transcript_is_cut_at_what_is_on_record(transcripts: Transcripts) -> None:
    memory = AgentMemory(transcripts, WORKSPACE)
    entries = (entry("u1", "user"), entry("a1", "assistant"), entry("u2", "user"))
    given = Transcript(sdk_session="s", parts=(TranscriptPart(entries=entries),))
    memory.stand_on(start(transcript=given, checkpoint="a1"), has_cli=False)
    assert memory.opening()[0] == Past("s", at="a1")


def test_a_base_nobody_knows_is_made_of_the_sent_history(memory: AgentMemory) -> None:
    history = said("a", "b", "c")
    memory.stand_on(start(BaseKind.REWIND, checkpoint="gone", history=history), has_cli=False)
    assert memory.past.session not in (None, "s")
    assert [block["text"] for block in memory.to_tell.content] == ["c"]
