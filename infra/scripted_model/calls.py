"""A tool call from its words. Pure."""

from __future__ import annotations

import json

from infra.scripted_model.replies import ToolUse


def tool_use(spec: str) -> ToolUse | None:
    """A call from its words: a short form, or a tool's name and its input; None for neither."""
    name, _, rest = spec.partition(" ")
    rest = rest.strip()
    if not rest.startswith("{") and (short := _short_call(name.lower(), rest)):
        return short
    try:
        given = json.loads(rest) if rest else {}
    except ValueError:
        return None
    return ToolUse(name, given) if name and isinstance(given, dict) else None


def _short_call(name: str, rest: str) -> ToolUse | None:
    first, _, second = rest.partition(" ")
    match name:
        case "bash":
            return ToolUse("Bash", {"command": rest, "description": "scripted"})
        case "read":
            return ToolUse("Read", {"file_path": rest})
        case "write":
            return ToolUse("Write", {"file_path": first, "content": second})
        case "grep":
            where = {"path": second} if second else {}
            return ToolUse("Grep", {"pattern": first, "output_mode": "content", **where})
    return None
