"""The head of a skill's `SKILL.md`, between two lines of `---`: what it may say.

Claude Code takes more from it than a name and a description: hooks that run commands, tools that
need no permission, servers, another model. What an agent may do is for its profile to say, so a
head with anything else is refused. It is read by lines, strictly, and not as YAML: a head that two
readers could understand differently is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HEAD_MAX_CHARS = 10_000
FIELDS = frozenset(
    {
        "name",
        "description",
        "license",
        "version",
        "metadata",
        "when_to_use",
        "argument-hint",
        "compatibility",
        "author",
        "tags",
    }
)
"""What a head may say. None of it does anything."""

_FENCE = "---"
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?: .*)?")
_ODD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
"""Characters that some readers take for the end of a line or for nothing; tabs, which are no indent
in YAML; Windows' line ends."""
_INNER = re.compile(r"\s*(?:- *)*[\"']?([A-Za-z_-]+)[\"']?\s*:")
_OTHERS = frozenset(
    {
        "agent",
        "agents",
        "allowed-tools",
        "commands",
        "context",
        "disallowed-tools",
        "effort",
        "hooks",
        "lspservers",
        "mcpservers",
        "model",
        "permissions",
        "settings",
        "shell",
        "tools",
    }
)
"""Names that mean something to Claude Code, and stand nowhere in a head, however indented."""


def fault_of_head(text: str) -> str | None:
    """What is wrong with the head of a `SKILL.md`; None if nothing is."""
    first, *lines = text.split("\n")
    if first != _FENCE or _FENCE not in lines:
        return "must begin with `---`, fields and `---`"
    head = lines[: lines.index(_FENCE)]
    joined = "\n".join(head)
    if len(joined) > HEAD_MAX_CHARS:
        return f"its head is longer than {HEAD_MAX_CHARS} characters"
    if _ODD.search(joined) or _FENCE in joined:
        return "its head has tabs, control characters, Windows' line ends or `---`"
    return _fault_of_lines(head)


def _fault_of_lines(head: Sequence[str]) -> str | None:
    named = set[str]()
    for line in head:
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(" ") and named:
            inner = _INNER.match(line)
            if inner and inner[1].lower().replace("_", "-") in _OTHERS:
                return f"its head has `{inner[1]}`: what an agent may do is said in its profile"
            continue
        field = _FIELD.fullmatch(line)
        if field is None:
            return "its head has a line that is no `field: text`"
        if field[1] not in FIELDS:
            return f"its head has `{field[1]}`: what an agent may do is said in its profile"
        if field[1] in named:
            return f"its head has `{field[1]}` twice"
        named.add(field[1])
    return None if "description" in named else "its head has no `description`"
