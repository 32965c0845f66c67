"""One word, one thing: the glossary and the code agree, in both directions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
PROGRAMS = ("api", "worker", "agent", "infra")
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+) \|(.*)\|$", re.MULTILINE)
STAND_IN = "infra/scripted_model"
"""Plays the Messages API, in that API's own words."""


def rows() -> list[tuple[str, str, str]]:
    return [(row[1], row[2], row[3].strip()) for row in ROW.finditer(GLOSSARY.read_text())]


@cache
def public_classes() -> dict[str, list[str]]:
    """Every public class, with the modules that define one of that name."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for program in PROGRAMS:
        for path in sorted((ROOT / program).rglob("*.py")):
            where = str(path.relative_to(ROOT))
            if where.startswith(STAND_IN):
                continue
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(where)
    return dict(found)


def lives(place: str) -> bool:
    """Whether the code has that place: a path, a module, a name in a module, a key, a setting."""
    if re.fullmatch(r"AGCLUSTER_[A-Z_]+", place):
        return f"`{place}`" in (ROOT / "docs" / "reference" / "settings.md").read_text()
    if place.startswith("agc:"):
        # `<c>` and the like stand for ids; what is left has to be spelt in the key's function.
        fixed = [part for part in re.split(r"<\w+>|…", place.removeprefix("agc:")) if part]
        keys = (ROOT / "infra" / "store" / "keys.py").read_text()
        return all(part.strip(":") in keys for part in fixed)
    if "/" in place:
        return (ROOT / place).exists()
    path = ROOT.joinpath(*place.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def test_the_glossary_can_be_read() -> None:
    assert len(rows()) > 60
    words = [word for word, _, _ in rows()]
    assert sorted({word for word in words if words.count(word) > 1}) == []


@pytest.mark.parametrize(("word", "place"), [(word, place) for word, _, place in rows() if place])
def test_where_a_word_lives_there_is_something(word: str, place: str) -> None:
    named = re.findall(r"`([^`]+)`", place)
    assert named, f"{word}: {place}"
    assert [one for one in named if not lives(one)] == [], word


def test_no_two_things_have_the_same_name() -> None:
    """A reader who meets a class by its name alone knows which one is meant."""
    twice = {name: where for name, where in public_classes().items() if len(where) > 1}
    assert twice == {}


def _words_of(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", name)]


def _stems(word: str) -> set[str]:
    """The word, and what it may be a form of: claims, claimed and claiming are of claim."""
    forms = {word}
    for ending in ("s", "d", "n", "ed", "ing", "er", "ion", "ship"):
        if word.endswith(ending):
            forms |= {word.removesuffix(ending), word.removesuffix(ending) + "e"}
    return forms


def test_a_class_of_one_word_is_in_the_glossary_or_plain() -> None:
    """Such a name explains nothing by itself. A new one gets a line in the glossary, a second word,
    or, where it means here what it means everywhere, its place below."""
    known = {part for word, _, _ in rows() for part in re.split(r"[ /]+", word)}
    named = {
        words[0]: f"{name} ({where[0]})"
        for name, where in public_classes().items()
        if len(words := _words_of(name)) == 1
    }
    unknown = {named[word] for word in named if word not in PLAIN and not _stems(word) & known}
    assert unknown == set()
    assert sorted(PLAIN - named.keys()) == [], "no class has these names any more"


PLAIN = frozenset(
    {
        "ack", "arrived", "caller", "cancellation", "cgroup", "checked", "choice", "chunks",
        "cli", "clock", "close",
        "connections", "contents", "continue", "deleted", "elsewhere", "entry", "examination",
        "finding", "fleet", "folders", "fresh", "gap", "health", "heard", "hearer", "held",
        "hello", "images", "inbox", "interrupt", "interruption", "judged", "launched", "leaving",
        "left", "level", "limits", "listeners", "members", "message", "model", "notice",
        "outcome", "outside", "part", "ping", "places", "plan", "pong", "process", "processes",
        "program", "rate", "rates", "recovery", "refused", "renewal", "replay", "resolver",
        "resubscribed", "rewind", "rules", "said", "sandbox", "script", "scripts", "sealer",
        "section", "settings", "shown", "spent", "stop", "stopping", "store", "submitted",
        "target", "terminal", "timings", "translator", "usage", "verdict", "welcome",
    }
)  # fmt: skip
"""Words that mean here what they mean everywhere, or in the protocol they are a message of."""
