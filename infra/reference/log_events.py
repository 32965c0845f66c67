"""Finds what the programs log, in their own source: each line's level, words and fields.

A line is a call of `log.info(…)` and its like with a text that is known beforehand. `%s` in it
stands for what differs. The fields are those that `fields(…)` is given by name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("api", "worker", "agent", "infra")
LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
}


@dataclass(frozen=True, order=True)
class LogEvent:
    """One line that may be logged."""

    logger: str
    words: str
    level: str
    fields: tuple[str, ...]


def log_events(root: Path) -> list[LogEvent]:
    """All of them below the root, each once."""
    found: set[LogEvent] = set()
    for program in PROGRAMS:
        for file in sorted((root / program).rglob("*.py")):
            logger = ".".join(file.relative_to(root).with_suffix("").parts)
            found.update(_events_in(ast.parse(file.read_text()), logger))
    return sorted(found)


def _events_in(module: ast.AST, logger: str) -> Iterator[LogEvent]:
    for node in ast.walk(module):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in LEVELS or not _is_log(node.func.value) or not node.args:
            continue
        for words in _words(node.args[0]):
            yield LogEvent(logger, words, LEVELS[node.func.attr], _fields(node))


def _is_log(value: ast.expr) -> bool:
    name = value.id if isinstance(value, ast.Name) else getattr(value, "attr", "")
    return name in ("log", "_log", "turned_away")


def _words(said: ast.expr) -> Iterator[str]:
    if isinstance(said, ast.Constant) and isinstance(said.value, str):
        yield said.value
    elif isinstance(said, ast.IfExp):
        yield from _words(said.body)
        yield from _words(said.orelse)


def _fields(call: ast.Call) -> tuple[str, ...]:
    """The fields by name, of `extra=fields(…)` or, for a rated log, of the call itself."""
    given = [word.arg for word in call.keywords if word.arg and word.arg != "extra"]
    for word in call.keywords:
        if word.arg == "extra" and isinstance(word.value, ast.Call):
            given += [inner.arg for inner in word.value.keywords if inner.arg]
    return tuple(name for name in given if name not in ("exc_info", "stack_info"))
