"""OpenAI's words for what is ours, and back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openai.types.chat import chat_completion

import api.turns
import infra.wire
from api.chat.answer.vocabulary import FINISH_REASONS, completion_id, turn_of
from infra.runtime.identity import new_turn_id
from infra.wire.errors import TurnNotFound
from infra.wire.events import EndReason

HEX = "0123456789abcdef" * 2

OPENAIS = re.compile(
    r"chatcmpl|completion|content_filter|finish_reason|(?:prompt|cached|reasoning)_tokens",
    re.I,
)
"""Words of the chat dialect that mean something else here, or nothing."""


def test_a_completion_has_the_digits_of_its_turn() -> None:
    turn = new_turn_id()
    assert completion_id(turn) == f"chatcmpl-{turn.removeprefix('turn_')}"
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", completion_id(turn))
    assert turn_of(completion_id(turn)) == turn


def test_a_turn_is_found_by_its_own_id_too() -> None:
    assert turn_of(f"turn_{HEX}") == f"turn_{HEX}"


@pytest.mark.parametrize(
    "id",
    ["", HEX, "nonsense", f"resp_{HEX}", f"chatcmpl-{HEX}0", f"chatcmpl-turn_{HEX}", "turn_x:log"],
)
def test_what_is_no_id_names_no_turn(id: str) -> None:
    with pytest.raises(TurnNotFound):
        turn_of(id)


def test_every_end_reason_has_a_word_that_openais_client_knows() -> None:
    assert set(FINISH_REASONS) == set(EndReason)
    known = chat_completion.Choice.model_fields["finish_reason"].annotation
    assert all(f"'{word}'" in str(known) for word in FINISH_REASONS.values())


@pytest.mark.parametrize("room", [api.turns, infra.wire], ids=lambda room: room.__name__)
def test_turns_and_the_contract_speak_no_dialect(room: object) -> None:
    (folder,) = room.__path__  # type: ignore[attr-defined]
    said = {
        f"{path.name}: {line.strip()}"
        for path in Path(folder).glob("*.py")
        for line in path.read_text().splitlines()
        if OPENAIS.search(line)
    }
    assert not said
