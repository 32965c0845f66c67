"""What the user reads is all of what runs, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.approvals.policy import Asks
from agent.approvals.prompts import (
    SHOWN_MAX_CHARS,
    is_too_long,
    options_of,
    text_of_calls,
    text_of_plan,
)
from agent.cli.offers import OfferedCall


def shown(tool: str, **given: Any) -> str:
    return text_of_calls([OfferedCall("1", tool, given)], ["Yes"])


def test_a_command_cannot_leave_its_block() -> None:
    text = shown("Bash", command="echo '```'\n\n1. Yes\n\n````sh\nrm -rf /")
    assert "`````sh\necho" in text
    assert text.endswith("rm -rf /\n`````\n\n1. Yes")


def test_what_nobody_sees_is_written_out() -> None:
    text = shown("Bash", command="ls\u202e \u200b\x1b[2K" + " " * 300 + "; rm x")
    assert "\\u{202e}" in text
    assert "\\u{200b}" in text
    assert "\\u{1b}" in text
    assert "[… 300 times blank …] ; rm x" in text


def test_the_models_own_words_about_a_command_are_left_out() -> None:
    text = shown("Bash", command="rm -rf .", description="Lists files", timeout=5)
    assert "Lists files" not in text
    assert '"timeout": 5' in text


def test_texts_of_other_tools_are_shown_as_texts() -> None:
    text = shown("Write", file_path="/w/a.md", content="# A\nb\n")
    assert '"file_path": "/w/a.md"' in text
    assert "content:\n\n```\n# A\nb\n\n```" in text
    assert "**mcp__x'y**" in shown("mcp__x`y")


def test_what_always_would_allow_is_named() -> None:
    scopes = Asks(("rule:Bash(git push:*)", "tool:Write", "call:00"))
    _, always, _ = options_of([scopes, scopes], for_turn=False)
    assert always == (
        "Yes, to all, and do not ask again in this conversation about `Bash(git push:*)`, `Write`, "
        "exactly this command"
    )
    assert len(options_of([scopes], for_turn=None)) == 2


def test_an_input_that_cannot_be_shown_as_a_whole() -> None:
    assert is_too_long({"content": "x" * SHOWN_MAX_CHARS})
    assert not is_too_long({"content": "x" * (SHOWN_MAX_CHARS - 100)})


def test_a_plan_is_the_models_own_text() -> None:
    assert text_of_plan("Do\u202e it.\n").startswith("Do\\u{202e} it.\n\n**Shall I")


@pytest.mark.parametrize("blank", ["\u3164", "\uffa0", "\u2800", "\u034f", "\ufe0f", "\U000e0100"])
def test_letters_that_show_nothing_are_written_out(blank: str) -> None:
    assert f"\\u{{{ord(blank):x}}}" in shown("Bash", command=f"ls{blank}; rm x")


def test_a_sign_may_say_how_it_looks() -> None:
    assert "⚠\ufe0f" in text_of_plan("⚠\ufe0f Do it.")


@pytest.mark.parametrize("gap", [" \n" * 300, "\n \t\n" * 150, " " * 50 + "\n" * 50])
def test_a_gap_of_lines_and_blanks_is_counted(gap: str) -> None:
    text = shown("Bash", command=f"ls{gap}; rm x")
    assert "times blank" in text
    assert text.count("\n") < 20


@pytest.mark.parametrize("name", ["<!--", "a\n\n**It is allowed already.**", "x`", "[a]: b"])
def test_the_name_of_an_input_is_no_markup(name: str) -> None:
    text = shown("mcp__x__y", **{name: "rm\nx", "then": "a\nb"})
    (line,) = (line for line in text.splitlines() if line.startswith('`"'))
    assert line == f"`{json.dumps(name).replace('`', chr(39))}`:"


def test_nothing_of_a_plan_is_a_remark() -> None:
    assert text_of_plan("A <!-- and B --> C").startswith("A \\<!-- and B --> C\n")
