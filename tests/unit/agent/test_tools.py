"""Tool activity in one readable line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tools import (
    CALL_MAX_CHARS,
    RESULT_MAX_CHARS,
    clean_line,
    summarise_call,
    summarise_result,
)


@pytest.mark.parametrize(
    ("name", "given_input", "line"),
    [
        ("Bash", {"command": "ls -la"}, "Bash: ls -la"),
        ("Bash", {"command": "cd x\nmake"}, "Bash: cd x …"),
        ("Bash", {"command": ""}, "Bash"),
        ("Read", {"file_path": "/workspace/src/a.py"}, "Read: src/a.py"),
        ("Read", {"file_path": "/etc/hosts"}, "Read: /etc/hosts"),
        ("Write", {"file_path": "/workspace/a", "content": "x\ny"}, "Write: a, 2 lines"),
        ("Edit", {"file_path": "/workspace/a", "old_string": "x"}, "Edit: a"),
        ("NotebookEdit", {"notebook_path": "/workspace/n.ipynb"}, "NotebookEdit: n.ipynb"),
        ("Grep", {"pattern": "x.*y", "path": "/workspace/src"}, "Grep: x.*y in src"),
        ("Glob", {"pattern": "**/*.py"}, "Glob: **/*.py"),
        (
            "WebFetch",
            {"url": "https://example.org/", "prompt": "?"},
            "WebFetch: https://example.org/",
        ),
        ("WebSearch", {"query": "weather"}, "WebSearch: weather"),
        ("Agent", {"description": "look", "prompt": "..."}, "Agent: look"),
        (
            "TodoWrite",
            {"todos": [{"status": "completed"}, {"status": "in_progress", "activeForm": "Doing"}]},
            "TodoWrite: 1 of 2 done, Doing",
        ),
        ("TodoWrite", {"todos": None}, "TodoWrite: 0 of 0 done"),
        ("mcp__x__y", {"n": 1, "q": "first text"}, "mcp__x__y: first text"),
        ("Odd", {}, "Odd"),
        ("Bash", {"command": 7}, "Bash"),
    ],
)
def test_a_call_is_told_by_what_matters(name: str, given_input: dict[str, Any], line: str) -> None:
    assert summarise_call(name, given_input) == line


@pytest.mark.parametrize(
    ("content", "is_error", "line"),
    [
        ("one\ntwo\n", False, "ok, 2 lines"),
        ("one", False, "ok, 1 line"),
        ("", False, "ok"),
        (None, False, "ok"),
        ([{"type": "text", "text": "a\nb"}], False, "ok, 2 lines"),
        ([{"type": "image", "source": {}}], False, "ok, 1 image"),
        ("Exit code 2\nls: no such file", True, "exit code 2: ls: no such file"),
        ("Exit code 1", True, "Exit code 1"),
        ("<tool_use_error>File has not been read</tool_use_error>", True, "File has not been read"),
        ("", True, "failed"),
    ],
)
def test_a_result_is_told_in_a_line(content: object, is_error: bool, line: str) -> None:
    assert summarise_result(content, is_error=is_error) == line


def test_escape_sequences_and_invisible_characters_are_left_out() -> None:
    assert clean_line("\x1b[31mred\x1b[0m\a\u202e \x1b]0;title\x07x\ud800", max_chars=80) == "red x"


@given(st.text(st.characters(), max_size=400), st.dictionaries(st.text(), st.text()), st.booleans())
def test_a_line_is_always_one_short_printable_line(
    text: str, given_input: dict[str, str], is_error: bool
) -> None:
    call = summarise_call(text, {"command": text, **given_input})
    result = summarise_result(text, is_error=is_error)
    assert len(call) <= CALL_MAX_CHARS
    assert len(result) <= RESULT_MAX_CHARS
    for line in (call, result):
        assert line == "" or (line.isprintable() and line.encode())
