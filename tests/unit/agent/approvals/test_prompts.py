"""What the user reads is all of what runs, and nothing else."""

from __future__ import annotations

from typing import Any

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
