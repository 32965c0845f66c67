"""What users are told stands in one table, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter

import pytest

from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState
from infra.wire.text.words import SENTENCES, Case, refused

ROOT = Path(__file__).parents[4]
TABLE = ROOT / "infra" / "wire" / "text" / "words.py"
PROGRAMS = ("api", "worker", "agent", "infra")
FIGURES = {
    "fault",
    "host",
    "limit",
    "turns",
    "answers",
    "mb",
    "events",
    "turn",
    "files",
    "bytes",
    "uploads",
    "least",
    "most",
}


def all_sentences() -> list[str]:
    return [*SENTENCES.values(), *(case.sentence for case in Case)]


@cache
def program_texts() -> tuple[tuple[str, str], ...]:
    """Every string of the programs but docstrings, with where it stands."""
    found = []
    for program in PROGRAMS:
        for path in sorted((ROOT / program).rglob("*.py")):
            if path != TABLE:
                found += [(str(path.relative_to(ROOT)), text) for text in _texts(path)]
    return tuple(found)


def _texts(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (n.value if isinstance(n, ast.Constant) else "{}" for n in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in prose:
            yield str(node.value)


def _is_written_out(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (
        isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value != ""
    )


def test_every_code_has_its_sentence_and_no_two_share_one() -> None:
    assert set(SENTENCES) == set(ErrorCode)
    assert [text for text, times in Counter(all_sentences()).items() if times > 1] == []


@pytest.mark.parametrize("text", all_sentences())
def test_a_sentence_is_one_and_names_nothing_of_ours(text: str) -> None:
    assert re.fullmatch(r"[A-Z{].*[.]", text)
    assert not re.search(r"/(?:run|opt|work|v1)|\.agcluster|AGCLUSTER|\b(?:fence|lease)\b", text)
    assert {name for _, name, _, _ in Formatter().parse(text) if name} <= FIGURES


def test_sentences_of_codes_need_no_figures() -> None:
    assert [text for text in SENTENCES.values() if "{" in text] == []


def test_no_sentence_is_written_a_second_time() -> None:
    """Nor the first of several: two wordings of one thing begin alike."""
    openings = {
        re.sub(r"\{\w+\}", "{}", text.split(". ")[0].rstrip(".")) for text in all_sentences()
    }
    twice = [(where, text) for where, text in program_texts() if any(o in text for o in openings)]
    assert twice == []


def test_every_case_is_told_somewhere() -> None:
    source = "".join(
        path.read_text() for program in PROGRAMS for path in (ROOT / program).rglob("*.py")
    )
    assert [case.name for case in Case if f"Case.{case.name}" not in source] == []


def test_no_failure_of_a_turn_is_put_into_words_where_it_is_noticed() -> None:
    """A `TurnError` or a `TurnFailed` gets its words from the table, or from another one."""
    literal = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for program in PROGRAMS
        for path in (ROOT / program).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("TurnError", "TurnFailed")
        and any(map(_is_written_out, [*call.args, *(k.value for k in call.keywords)]))
    ]
    assert literal == []


def test_a_refusal_holds_its_figures() -> None:
    refusal = refused(Case.CONVERSATION_WAITS, retry_after_s=7, turns=3)
    assert refusal.message == "3 turns of this conversation are waiting already."
    assert (refusal.code, refusal.retry_after_s) == (ErrorCode.QUEUE_FULL, 7)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_an_end_is_told_in_the_words_of_its_code(code: ErrorCode) -> None:
    end = declared_end(code)
    assert end.state is TurnState.FAILED
    assert end.error is not None
    assert (end.error.code, end.error.message) == (code, SENTENCES[code])


@pytest.mark.parametrize(
    ("reason", "state", "code"),
    [
        (InterruptReason.CANCELLED, TurnState.CANCELLED, None),
        (InterruptReason.DEADLINE, TurnState.FAILED, ErrorCode.TURN_TIMED_OUT),
        (InterruptReason.SHUTDOWN, TurnState.INTERRUPTED, ErrorCode.SHUTTING_DOWN),
    ],
)
def test_a_turn_we_stopped_says_why(
    reason: InterruptReason, state: TurnState, code: ErrorCode | None
) -> None:
    end = interrupted_end(reason)
    assert (end.state, end.error and end.error.code) == (state, code)
