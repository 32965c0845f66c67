"""Transcript entries are read as the bytes they are, whatever an agent puts into them."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from infra.store.conversations.transcripts import RawEntry
from infra.wire.errors import MalformedMessage
from infra.wire.link import TranscriptAppend, TranscriptPart
from worker.turns.link.transcript_lines import ENTRIES_MAX, read_head, read_part

MB = 1024 * 1024


def line(entries: bytes, *, seq: bytes = b"3", session: bytes = b"s-1") -> bytes:
    return b'{"type":"transcript_append","seq":%b,"sdk_session":"%b","part":{"entries":%b}}' % (
        seq,
        session,
        entries,
    )


def test_what_an_agent_sends_is_read_entry_by_entry() -> None:
    entries = (
        {"uuid": "a", "text": 'braces } ] and "quotes"', "deep": [{"uuid": "not this one"}]},
        {"no": "name"},
        {"uuid": 7},
    )
    sent = TranscriptAppend(
        seq=12, sdk_session="s-1", part=TranscriptPart(subpath="subagents/é", entries=entries)
    ).encode()

    head, part = read_head(sent), read_part(sent)

    assert (head.seq, head.sdk_session, part.subpath) == (12, "s-1", "subagents/é")
    assert [entry.uuid for entry in part.entries] == ["a", "", ""]
    assert [json.loads(entry.json) for entry in part.entries] == list(entries)


def test_entries_are_the_very_bytes() -> None:
    raw = b'{ "uuid":"a" , "n":1.50 }'
    assert read_part(line(b"[" + raw + b"]")).entries == (RawEntry("a", raw),)


@pytest.mark.parametrize(
    "entries",
    [
        b"7",
        b"[7]",
        b'["text"]',
        b"[[]]",
        b"[{}",
        b'[{"a":1}{"b":2}]',
        b'[{"a":nothing}]',
        b'[{"a":"\xff"}]',
        b'[{"a":"' + b"\xc3" + b'"}]',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_list_of_objects_is_refused(entries: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_part(line(entries))


@pytest.mark.parametrize("entries", [b"[{}%b]", b"[7%b]", b"[{}%b"])
def test_a_line_of_tiny_values_takes_no_memory(entries: bytes) -> None:
    """The bound is on objects: each of these bytes was one, and 63 MB of them took gigabytes."""
    said = line(entries % (b",{}" * MB))
    tracemalloc.start()
    with pytest.raises(MalformedMessage):
        read_part(said)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MB


def test_as_many_entries_as_an_agent_sends_at_once_are_taken() -> None:
    assert len(read_part(line(b"[" + b"{}," * (ENTRIES_MAX - 1) + b"{}]")).entries) == ENTRIES_MAX


def test_a_name_is_short() -> None:
    """Redis keeps the names of a session's entries beside them, outside its bound."""
    (entry,) = read_part(line(b'[{"uuid":"%b"}]' % (b"x" * 1000))).entries
    assert entry.uuid == ""


@pytest.mark.parametrize(
    ("seq", "session"), [(b"-1", b"s"), (b"9" * 40, b"s"), (b"1", b"a b"), (b"1", b"x" * 65)]
)
def test_a_head_that_names_nothing_we_know_is_refused(seq: bytes, session: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_head(line(b"[]", seq=seq, session=session))


def test_errors_do_not_hold_what_was_sent() -> None:
    for broken in (line(b'[{"a":SECRET}]'), line(b'["SECRET"]'), line(b'[{"a":"SECRET\xff"}]')):
        with pytest.raises(MalformedMessage) as caught:
            read_part(broken)
        assert "SECRET" not in str(caught.value)
        assert caught.value.__cause__ is None
