"""Tool activity in one readable line: what was called, and the result. Pure.

The tool's name is not in the line; the display adds `Bash: ` or `Bash → `. People read these lines
in a chat, so they are short and contain no line breaks or control characters, whatever the model or
a program printed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from infra.wire.errors import ErrorCode
from infra.wire.events import EXCERPT_MAX_CHARS
from infra.wire.history.answers import SUB_AGENTS
from infra.wire.model.upstream import code_of, upstream_error

CALL_MAX_CHARS = 200
RESULT_MAX_CHARS = 160

Input = Mapping[str, Any]
"""A tool's input. The model wrote it, so its shape is not guaranteed."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
_TAGS = re.compile(r"</?(?:tool_use_error|error|stdout|stderr)>")
_REFUSED = re.compile(r"\A\s*PreToolUse:[A-Za-z0-9_-]{1,200} hook error: ")
"""What the CLI writes before our reason for a call that is not made."""
_REMINDER = re.compile(r"<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL)
_REMARK = re.compile(r"\((?:Bash completed with no output|Results are truncated)")
_NOTHING = re.compile(r"no (?:files|matches) found", re.IGNORECASE)
_FOUND = re.compile(r"found (\d+) files?", re.IGNORECASE)
_EXIT_CODE = re.compile(r"exit code (\d+)", re.IGNORECASE)
_TOO_LARGE = re.compile(r"\s*<persisted-output>\s*Output too large \(([\d.]+) ?([KMG]?B)\)")
_PREVIEW = re.compile(
    r"\A\s*<persisted-output>[^\n]*\n(?:[^\n]*\n){0,4}?Preview[^\n]*\n|</persisted-output>"
)
"""What the CLI writes around the beginning of an output that it stored in a file."""
_ADVICE = re.compile(r"\s*Note: your current working directory is .*")
_API_ERROR = re.compile(r"due to an API error|^API Error", re.IGNORECASE)
_HTTP_STATUS = re.compile(r"\bHTTP (\d{3})\b")
_PROSE = frozenset(
    ("Write", "Edit", "NotebookEdit", "TodoWrite", "WebFetch", "WebSearch", "Agent", "Task")
)
"""Tools whose result is text for the model; the number of its lines means nothing to a person."""
_SUB_AGENT_FAILED = "The sub-agent could not do its task."
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def summarise_call(name: str, given: Input, *, workspace: str = "/workspace") -> str:
    """`ls -la`: the important part of a tool's input; empty if there is none."""
    return _cut(_clean(_gist(name, given, workspace)), CALL_MAX_CHARS)


def summarise_result(name: str, content: object, *, is_error: bool) -> str:
    """`ok, 12 lines`, `3 files`, or the line that says what went wrong."""
    text, images = _read(content)
    if not is_error and (large := _TOO_LARGE.match(text)):
        return f"ok, {large[1]} {large[2]} of output"
    text = _REFUSED.sub("", _TAGS.sub("", _REMINDER.sub("", text))).strip()
    if is_error:
        return _cut(_clean(_first_error(name, text)), RESULT_MAX_CHARS)
    if images:
        return _count(images, "image")
    return _outcome(name, [line for line in text.splitlines() if not _REMARK.match(line)])


def excerpt_of(name: str, content: object) -> str | None:
    """The beginning of what a tool printed, for people who want to look: bounded lines without
    control characters. None if there is nothing to read, and for sub-agents, who answer the model.
    """
    if name in SUB_AGENTS:
        return None
    text = _TAGS.sub("", _REMINDER.sub("", _read(content)[0]))
    text = _REFUSED.sub("", _PREVIEW.sub("", text))
    lines = map(_clean_columns, text[: 2 * EXCERPT_MAX_CHARS].strip("\n").splitlines())
    return _cut("\n".join(lines).rstrip(), EXCERPT_MAX_CHARS) or None


def summarise_server_result(content: object) -> tuple[str, bool]:
    """The same for a tool that the model's service runs, and whether the result is an error."""
    line, is_error = _server_outcome(content)
    return _cut(_clean(line), RESULT_MAX_CHARS), is_error


def clean_line(text: str, *, max_chars: int) -> str:
    """Any text as one bounded line without control characters."""
    return _cut(_clean(text), max_chars)


def _gist(name: str, given: Input, workspace: str) -> str:
    match name:
        case "Bash":
            return _command(_text(given, "command"))
        case "Read" | "Edit" | "NotebookEdit" | "NotebookRead":
            return _path(given, workspace)
        case "Write":
            lines = _count(len(_text(given, "content").splitlines()), "line")
            return ", ".join(filter(None, (_path(given, workspace), lines)))
        case "Grep" | "Glob":
            where = _relative(_text(given, "path"), workspace)
            return _text(given, "pattern") + (f" in {where}" if where else "")
        case "WebFetch":
            return _text(given, "url")
        case "WebSearch":
            return _text(given, "query")
        case "Agent" | "Task":
            return _text(given, "description")
        case "delegate":
            return ": ".join(filter(None, (_text(given, "agent"), _text(given, "task"))))
        case "TodoWrite":
            return _todos(given.get("todos"))
        case _:
            return next((v for v in given.values() if isinstance(v, str) and v), "")


def _outcome(name: str, lines: list[str]) -> str:
    match name:
        case "Grep" | "Glob" if not lines or _NOTHING.match(lines[0]):
            return "nothing found"
        case "Grep" if found := _FOUND.match(lines[0]):
            return _count(int(found[1]), "file")
        case "Glob":
            return _count(len(lines), "file")
        case "Read" | "Grep":
            return _count(len(lines), "line") if lines else "empty"
        case _ if name in _PROSE or not lines:
            return "ok"
        case _:
            return f"ok, {_count(len(lines), 'line')}"


def _command(command: str) -> str:
    first, *more = command.strip().splitlines() or [""]
    return f"{first} …" if more else first


def _path(given: Input, workspace: str) -> str:
    told = (_text(given, key) for key in ("file_path", "notebook_path", "path"))
    return _relative(next(filter(None, told), ""), workspace)


def _relative(path: str, workspace: str) -> str:
    root = workspace.rstrip("/")
    return "" if path.rstrip("/") in (root, ".") else path.removeprefix(root + "/")


def _todos(todos: object) -> str:
    entries = [t for t in todos if isinstance(t, Mapping)] if isinstance(todos, Sequence) else []
    done = sum(t.get("status") == "completed" for t in entries)
    doing = next((_text(t, "activeForm") for t in entries if t.get("status") == "in_progress"), "")
    return f"{done} of {len(entries)} done" + (f", {doing}" if doing else "")


def _text(given: Input, key: str) -> str:
    value = given.get(key)
    return value if isinstance(value, str) else ""


def _read(content: object) -> tuple[str, int]:
    """The text of a tool's result, and how many images it contains."""
    if isinstance(content, str):
        return content, 0
    blocks = [b for b in content if isinstance(b, Mapping)] if isinstance(content, list) else []
    text = "\n".join(_text(b, "text") for b in blocks if b.get("type") == "text")
    return text, sum(b.get("type") == "image" for b in blocks)


def _first_error(name: str, text: str) -> str:
    """The line that says what went wrong; it may follow an exit code."""
    if name in SUB_AGENTS:
        return _sub_agent_error(text)
    lines = [cleaned for line in text.splitlines() if (cleaned := _clean(line))]
    if not lines:
        return "failed"
    if (code := _EXIT_CODE.fullmatch(lines[0])) and len(lines) > 1:
        return f"exit code {code[1]}: {lines[1]}"
    return _ADVICE.sub("", _issue(lines))


def _issue(lines: Sequence[str]) -> str:
    """What a heading of the CLI or of a tool announces."""
    if not lines[0].endswith(":"):
        return lines[0]
    named = (line for line in lines[1:] if line.lower().startswith("error:"))
    told = (line for line in lines[1:] if not line.endswith(":"))
    return next(named, next(told, lines[0]))


def _sub_agent_error(text: str) -> str:
    """Our own sentence, because the CLI's names hosts, models, remedies and other tools."""
    if not _API_ERROR.search(text):
        return _SUB_AGENT_FAILED
    status = _HTTP_STATUS.search(text)
    code = code_of(int(status[1]), text) if status else ErrorCode.UPSTREAM_ERROR
    return upstream_error(code).message


def _server_outcome(content: object) -> tuple[str, bool]:
    """The result of a tool of the model's service, and whether it is an error."""
    if isinstance(content, Mapping) and (error := _text(content, "error_code")):
        return error.replace("_", " "), True
    return (_count(len(content), "result") if isinstance(content, list) else "ok"), False


def _clean(text: str) -> str:
    visible = (
        " " if unicodedata.category(char) in _INVISIBLE else char for char in _ESCAPES.sub("", text)
    )
    return " ".join("".join(visible).split())


def _clean_columns(line: str) -> str:
    """The line without control characters, its columns kept. Every kind of space becomes a plain
    one."""
    return "".join(
        " " if char.isspace() or unicodedata.category(char) in _INVISIBLE else char
        for char in _ESCAPES.sub("", line.expandtabs(4))
    ).rstrip()


def _cut(line: str, max_chars: int) -> str:
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
