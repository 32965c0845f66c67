"""Every script says what it takes, and has no key of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.store.keys import Keys
from infra.store.server import scripts
from infra.wire.states import CONVERSATION_TRANSITIONS, TURN_TRANSITIONS

FOLDER = Path(scripts.__file__).parents[1] / "lua"
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem != "prelude")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_begins_with_its_signature(name: str) -> None:
    lines = (FOLDER / f"{name}.lua").read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("--"))
    code = "\n".join(line for line in lines if not line.lstrip().startswith("--"))

    assert lines[0].startswith(f"-- {name}: ")
    assert "-- KEYS  " in header
    assert "-- Returns " in header
    assert ("-- ARGV  " in header) == ("ARGV" in code)


@pytest.mark.parametrize("name", [*NAMES, "prelude"])
def test_no_script_holds_a_key_literal(name: str) -> None:
    source = (FOLDER / f"{name}.lua").read_text()
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))

    assert "agc" not in code
    for literal in re.findall(r"'([^']*)'", code):
        # Names of fields are put together too, but no word stands beside their colon.
        is_name = re.search(r"\w:|:\w", literal)
        assert not is_name or " " in literal or literal.startswith('{"'), literal


@pytest.mark.parametrize("name", NAMES)
def test_a_script_moves_states_only_by_the_tables(name: str) -> None:
    """Writes of `state` outside the two helpers: only a turn's and a conversation's birth."""
    source = (FOLDER / f"{name}.lua").read_text()
    births = re.findall(r"HSET'[^)]*?'state', ([^,)]+)", source)

    assert set(births) <= {"'queued'", "'cold'"}
    assert births == [] or name in ("submit", "acquire", "restore")


def test_the_tables_in_a_script_are_those_of_the_wire() -> None:
    source = scripts.load("finish", Keys()).source
    for name, table in (
        ("TURN_NEXT", TURN_TRANSITIONS),
        ("CONVERSATION_NEXT", CONVERSATION_TRANSITIONS),
    ):
        block = source.split(f"local {name} = {{")[1].split("\n}")[0]
        rows = dict(re.findall(r"(\w+) = \{([^}]*)\}", block))
        steps = {old: set(re.findall(r"(\w+) = true", news)) for old, news in rows.items()}
        assert steps == {old.value: {n.value for n in news} for old, news in table.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_what_it_uses_of_the_prelude_and_no_more(name: str) -> None:
    """All of it took as long as several commands, in every call."""
    definition = r"^local (?:function )?(\w+)"
    prelude = (FOLDER / "prelude.lua").read_text()
    shared = {*re.findall(definition, prelude, re.M), "KEY", "TURN_NEXT", "CONVERSATION_NEXT"}
    source = scripts.load(name, Keys()).source
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))
    defined = [n for n in re.findall(definition, code, re.M) if n in shared]

    assert len(defined) == len(set(defined))
    for one in shared & set(re.findall(r"\w+", code)):
        assert one in defined or re.search(rf"local .*\b{one}\b|['.]{one}\b", code), one
        uses = [m.start() for m in re.finditer(rf"\b{one}\b", code)]
        assert one not in defined or len(uses) > 1, f"{one} is not used"


def test_another_prefix_is_another_script() -> None:
    one, two = (scripts.load("finish", Keys(prefix)) for prefix in ("one", "two"))

    assert one.sha != two.sha
    assert "two:" not in one.source
