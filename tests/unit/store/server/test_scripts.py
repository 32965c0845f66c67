"""Every script says what it takes and answers, as its record does, and has no key of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import EnumType
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest

import infra.store.open
from infra.store.keys import Keys
from infra.store.server import scripts
from infra.store.server.calls import Call, shape_of
from infra.store.server.replies import Answer
from infra.wire.states import CONVERSATION_TRANSITIONS, TURN_TRANSITIONS

assert infra.store.open  # With it comes every record of a script.

FOLDER = Path(scripts.__file__).parents[1] / "lua"
CALLS: dict[str, type[Call[Any]]] = {call.script: call for call in Call.__subclasses__()}
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua"))
SHARED = {path.stem: path.read_text() for path in (FOLDER / "shared").glob("*.lua")}
DEFINITION = re.compile(r"^local (?:function )?(\w+)", re.M)


class Head(NamedTuple):
    """What the comment at the head of a script declares."""

    keys: list[str]
    args: dict[str, list[str]]
    """Each with the names of its rows, if it has such."""
    outcomes: list[str]
    answers: dict[str, list[str]]


def code_of(name: str) -> str:
    lines = (FOLDER / f"{name}.lua").read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--"))


def head_of(name: str) -> Head:
    parts = {"KEYS": "none", "ARGS": "", "Returns": ""}
    title = None
    for line in (FOLDER / f"{name}.lua").read_text().splitlines()[2:]:
        if found := re.match(r"-- (KEYS|ARGS|Returns) +(.*)", line):
            title = found[1]
            parts[title] = found[2]
        elif title is None or not line.startswith("--       "):
            break
        else:
            parts[title] += " " + line.removeprefix("--       ")
    keys = [] if parts["KEYS"].startswith("none") else [*_names(parts["KEYS"])]
    told = [part.strip() for part in _without_notes(parts["Returns"]).split("|")]
    answers = re.sub(r"'\w+'( \([^)]*\))?", ",", parts["Returns"]).replace("|", ",")
    return Head(
        keys, _names(parts["ARGS"].split(".")[0]), [t.split("'")[1] for t in told], _names(answers)
    )


def _names(listed: str) -> dict[str, list[str]]:
    """`turn, events (of it, for each: n, payload)`: names, and those of their rows."""
    found = {}
    for name, note in re.findall(r"(\w+)(?: \(([^)]*)\))?(?=,|$| *,)", listed.strip()):
        rows = note.partition("for each: ")[2]
        found[name] = rows.split(", ") if rows else []
    return found


def _without_notes(listed: str) -> str:
    return re.sub(r" \([^)]*\)", "", listed)


def rows_of(hint: Any) -> list[str]:
    """The names of the rows of a record's field, if it has such."""
    row = get_args(hint)[0] if get_origin(hint) is Sequence else None
    return [*getattr(row, "_fields", getattr(row, "__struct_fields__", ()))]


def named(record: type[Any]) -> dict[str, list[str]]:
    hints = get_type_hints(record)
    return {name: rows_of(hints[name]) for name in record.__struct_fields__}


def test_every_script_has_a_record_and_every_record_a_script() -> None:
    assert sorted(CALLS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_head_record_and_script_name_the_same(name: str) -> None:
    """What is passed is declared and read; what is read is declared and passed."""
    head, code, call = head_of(name), code_of(name), CALLS[name]
    assert (FOLDER / f"{name}.lua").read_text().startswith(f"-- {name}: ")

    assert scripts.load(call, Keys()).keys == tuple(head.keys)
    assert set(re.findall(r"\bK\.(\w+)", code)) == set(head.keys)
    assert head.args == named(call)
    assert set(re.findall(r"\bA\.(\w+)", code)) == set(head.args)
    for rows in head.args.values():
        assert set(rows) <= set(re.findall(r"\.(\w+)", code))
    assert "ARGV" not in code
    assert not re.search(r"\bKEYS\b", code.replace("'HKEYS'", ""))


@pytest.mark.parametrize("name", NAMES)
def test_head_script_and_answer_name_the_same(name: str) -> None:
    head, code = head_of(name), code_of(name)
    answer: type[Any] = CALLS[name].answer
    outcome, *others = answer.__struct_fields__
    words = get_type_hints(answer)["outcome"]
    known = [*words] if isinstance(words, EnumType) else get_args(words)

    assert outcome == "outcome"
    assert sorted(set(head.outcomes)) == sorted(known)
    assert head.answers == {name: rows for name, rows in named(answer).items() if name != "outcome"}
    strings = set(re.findall(r"'([^']*)'", code))
    assert strings >= {*known, *others}
    for rows in head.answers.values():
        assert strings >= set(rows)
    assert re.findall(r"return \{+'(\w+)'", code) == [
        word for word in re.findall(r"return \{+'(\w+)'", code) if word in known
    ]


class Row(NamedTuple):
    n: int
    payload: bytes


class EchoAnswer(Answer, frozen=True):
    outcome: Literal["ok"]


class EchoCall(Call[EchoAnswer], frozen=True):
    name: str | None
    is_there: bool
    events: Sequence[Row]


def test_a_call_travels_in_the_order_of_its_fields() -> None:
    call = EchoCall(name=None, is_there=True, events=[Row(1, b"a"), Row(2, b"b")])

    assert shape_of(EchoCall).names == ("name", "is_there")
    assert shape_of(EchoCall).arguments(call) == ["", 1, 1, b"a", 2, b"b"]


@pytest.mark.parametrize("name", [*NAMES, *(f"shared/{part}" for part in SHARED)])
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
    """Writes of `state` outside the helpers: only the birth of a turn, a conversation, a file."""
    source = (FOLDER / f"{name}.lua").read_text()
    births = re.findall(r"HSET'[^)]*?'state', ([^,)]+)", source)

    assert set(births) <= {"'queued'", "'cold'", "'uploading'"}
    assert births == [] or name in ("submit", "acquire", "restore", "begin_file")


def test_the_tables_in_a_script_are_those_of_the_wire() -> None:
    source = scripts.load(CALLS["finish"], Keys()).source
    for name, table in (
        ("TURN_NEXT", TURN_TRANSITIONS),
        ("CONVERSATION_NEXT", CONVERSATION_TRANSITIONS),
    ):
        block = source.split(f"local {name} = {{")[1].split("\n}")[0]
        rows = dict(re.findall(r"(\w+) = \{([^}]*)\}", block))
        steps = {old: set(re.findall(r"(\w+) = true", news)) for old, news in rows.items()}
        assert steps == {old.value: {n.value for n in news} for old, news in table.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_what_it_uses_of_the_shared_parts_and_no_more(name: str) -> None:
    """All of it took as long as several commands, in every call."""
    parts = "\n".join(SHARED.values())
    shared = {*DEFINITION.findall(parts), "KEY", "TURN_NEXT", "CONVERSATION_NEXT", "FILE_NEXT"}
    source = scripts.load(CALLS[name], Keys()).source
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))
    defined = [n for n in DEFINITION.findall(code) if n in shared]

    assert len(defined) == len(set(defined))
    for one in shared & set(re.findall(r"\w+", code)):
        assert one in defined or re.search(rf"local .*\b{one}\b|['.]{one}\b", code), one
        uses = [m.start() for m in re.finditer(rf"\b{one}\b", code)]
        assert one not in defined or len(uses) > 1, f"{one} is not used"


def test_a_shared_definition_uses_only_what_stands_before_it() -> None:
    """Lua would take a name that comes later for one that nobody has defined."""
    assert sorted(scripts.SHARED) == sorted(SHARED)
    text = "\n".join(SHARED[part] for part in scripts.SHARED)
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    begins = [(found.start(), found[1]) for found in DEFINITION.finditer(code)]
    places = {name: place for place, name in begins}
    assert len(places) == len(begins)
    for (start, name), (end, _) in zip(begins, [*begins[1:], (len(code), "")], strict=True):
        used = set(re.findall(r"(?<![.'\w])\w+(?=\()", code[start:end])) & places.keys()
        assert [one for one in used if places[one] > start] == [], name


def test_another_prefix_is_another_script() -> None:
    one, two = (scripts.load(CALLS["finish"], Keys(prefix)) for prefix in ("one", "two"))

    assert one.sha != two.sha
    assert "two:" not in one.source
