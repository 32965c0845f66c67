"""Tool activity in one readable line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.translate.tools import (
    CALL_MAX_CHARS,
    RESULT_MAX_CHARS,
    clean_line,
    excerpt_of,
    summarise_call,
    summarise_result,
    summarise_server_result,
)
from infra.wire.events import EXCERPT_MAX_CHARS


@pytest.mark.parametrize(
    ("name", "given_input", "line"),
    [
        ("Bash", {"command": "ls -la"}, "ls -la"),
        ("Bash", {"command": "cd x\nmake"}, "cd x …"),
        ("Bash", {"command": ""}, ""),
        ("Read", {"file_path": "/workspace/src/a.py"}, "src/a.py"),
        ("Read", {"file_path": "/etc/hosts"}, "/etc/hosts"),
        ("Write", {"file_path": "/workspace/a", "content": "x\ny"}, "a, 2 lines"),
        ("Write", {"file_path": "/workspace/a", "content": "x\n"}, "a, 1 line"),
        ("Write", {"path": "/workspace/a", "content": ""}, "a, 0 lines"),
        ("Write", {"content": "x"}, "1 line"),
        ("web_search", {"query": "weather"}, "weather"),
        ("Edit", {"file_path": "/workspace/a", "old_string": "x"}, "a"),
        ("NotebookEdit", {"notebook_path": "/workspace/n.ipynb"}, "n.ipynb"),
        ("Grep", {"pattern": "x.*y", "path": "/workspace/src"}, "x.*y in src"),
        ("Glob", {"pattern": "**/*.py"}, "**/*.py"),
        (
            "WebFetch",
            {"url": "https://example.org/", "prompt": "?"},
            "https://example.org/",
        ),
        ("WebSearch", {"query": "weather"}, "weather"),
        ("Agent", {"description": "look", "prompt": "..."}, "look"),
        (
            "TodoWrite",
            {"todos": [{"status": "completed"}, {"status": "in_progress", "activeForm": "Doing"}]},
            "1 of 2 done, Doing",
        ),
        ("TodoWrite", {"todos": None}, "0 of 0 done"),
        ("mcp__x__y", {"n": 1, "q": "first text"}, "first text"),
        ("Odd", {}, ""),
        ("Bash", {"command": 7}, ""),
    ],
)
def test_a_call_is_told_by_what_matters(name: str, given_input: dict[str, Any], line: str) -> None:
    assert summarise_call(name, given_input) == line


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("Bash", "one\ntwo\n", "ok, 2 lines"),
        ("Bash", "one", "ok, 1 line"),
        ("Bash", "(Bash completed with no output)", "ok"),
        ("Bash", None, "ok"),
        ("Read", "1\thello\n2\tyou\n<system-reminder>\nBeware\n</system-reminder>", "2 lines"),
        ("Read", "", "empty"),
        ("Read", [{"type": "image", "source": {}}], "1 image"),
        ("Write", "File created successfully at: /workspace/a.txt", "ok"),
        ("Edit", "The file has been updated.\n1\tx", "ok"),
        ("TodoWrite", "Todos have been modified successfully.", "ok"),
        ("Grep", "Found 2 files\na.py\nb.py", "2 files"),
        ("Grep", "a.py:1:x\na.py:2:y", "2 lines"),
        ("Grep", "No files found", "nothing found"),
        ("Grep", "No matches found", "nothing found"),
        ("Glob", "a.py\nb.py\n(Results are truncated. Consider a narrower path.)", "2 files"),
        ("Glob", "No files found", "nothing found"),
        ("WebFetch", "The page says\nmuch.", "ok"),
        ("Agent", [{"type": "text", "text": "a\nb"}], "ok"),
        ("mcp__x__y", [{"type": "text", "text": "a\nb"}], "ok, 2 lines"),
        ("tool", "", "ok"),
        (
            "Bash",
            "<persisted-output>\nOutput too large (4.8MB). Full output saved to: /x\n\nPreview:\nx",
            "ok, 4.8 MB of output",
        ),
        ("Bash", "a note: Output too large (4.8MB)", "ok, 1 line"),
        ("Read", "1\t<persisted-output>\n2\tOutput too large (4.8MB)", "2 lines"),
    ],
)
def test_a_result_is_told_by_what_a_person_would_ask(name: str, content: object, line: str) -> None:
    assert summarise_result(name, content, is_error=False) == line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("Exit code 2\nls: no such file", "exit code 2: ls: no such file"),
        ("Exit code 1", "Exit code 1"),
        ("<tool_use_error>File has not been read</tool_use_error>", "File has not been read"),
        ("", "failed"),
        (
            "<tool_use_error>InputValidationError: Bash failed due to the following issue:\n"
            "The required parameter `command` is missing</tool_use_error>",
            "The required parameter `command` is missing",
        ),
        ("Search failed:\nrg: regex parse error:\n  (?:()\nerror: unclosed", "error: unclosed"),
        (
            "File does not exist. Note: your current working directory is /workspace.",
            "File does not exist.",
        ),
    ],
)
def test_an_error_is_told_by_its_first_words(content: object, line: str) -> None:
    assert summarise_result("Bash", content, is_error=True) == line


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            "Agent terminated early due to an API error: API Error: 529 Overloaded. Try again. If "
            "it persists, check your inference gateway (model.agcluster). (error type server_error"
            ", HTTP 529, request id req_1, model sent to the API: claude-x)",
            "The model's service is overloaded. Try again later.",
        ),
        (
            "Agent terminated early due to an API error: There's an issue with the selected model "
            "(claude-x). (error type model_not_found, HTTP 404, request id req_1)",
            "The model does not exist, or the API key has no access to it.",
        ),
        ("Agent terminated early due to an API error: no", "The model's service failed."),
        (
            "Agent type 'x' not found. Available agents: claude-code-guide, Explore",
            "The sub-agent could not do its task.",
        ),
        (
            "<tool_use_error>InputValidationError: Agent failed due to the following issue:\n"
            "The required parameter `prompt` is missing</tool_use_error>",
            "The sub-agent could not do its task.",
        ),
        ("", "The sub-agent could not do its task."),
    ],
)
def test_a_sub_agent_that_fails_is_told_in_our_words(told: str, line: str) -> None:
    """The CLI's name its own remedies, the model's id and our gateway's host."""
    assert summarise_result("Agent", told, is_error=True) == line


def test_tools_of_the_models_service_have_an_outcome() -> None:
    assert summarise_server_result([{"type": "web_search_result"}]) == ("1 result", False)
    failed = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
    assert summarise_server_result(failed) == ("max uses exceeded", True)
    assert summarise_server_result({"type": "code_execution_result"}) == ("ok", False)


@pytest.mark.parametrize(
    ("name", "content", "excerpt"),
    [
        ("Bash", "\n\x1b[31mone\x1b[0m\n\n\ttwo\u202e \n", "one\n\n    two"),
        ("Bash", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ("Read", "1\tx<system-reminder>do this</system-reminder>", "1   x"),
        (
            "Bash",
            "<persisted-output>\nOutput too large (1.2MB). Full output saved to: /tmp/x.txt\n\n"
            "Preview (first 2KB):\nline\n...\n</persisted-output>",
            "line\n...",
        ),
        ("Bash", "", None),
        ("Read", [{"type": "image"}], None),
        ("Agent", "a report for the model", None),
        ("Bash", {"odd": 1}, None),
    ],
)
def test_an_excerpt_is_what_a_person_would_read(
    name: str, content: object, excerpt: str | None
) -> None:
    assert excerpt_of(name, content) == excerpt


@example("a\xa0\u3000b")
@given(st.text(st.characters(), max_size=5000))
def test_an_excerpt_is_bounded_and_printable(text: str) -> None:
    excerpt = excerpt_of("Bash", text * 3) or ""
    assert len(excerpt) <= EXCERPT_MAX_CHARS
    assert all(line.isprintable() for line in excerpt.split("\n"))
    assert excerpt.encode().decode() == excerpt


def test_escape_sequences_and_invisible_characters_are_left_out() -> None:
    assert clean_line("\x1b[31mred\x1b[0m\a\u202e \x1b]0;title\x07x\ud800", max_chars=80) == "red x"


@given(st.text(st.characters(), max_size=400), st.dictionaries(st.text(), st.text()), st.booleans())
def test_a_line_is_always_one_short_printable_line(
    text: str, given_input: dict[str, str], is_error: bool
) -> None:
    call = summarise_call(text, {"command": text, **given_input})
    result = summarise_result(text, text, is_error=is_error)
    assert len(call) <= CALL_MAX_CHARS
    assert len(result) <= RESULT_MAX_CHARS
    for line in (call, result):
        assert line == "" or (line.isprintable() and line.encode())
