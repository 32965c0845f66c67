"""The records of spares: nothing that a worker may have written in one is taken for granted."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, Fence, WorkerId
from worker.hosts.pool.records import SpareRecord, SpareRecords

SPARE, C, D = (ConversationKey(letter * 24) for letter in "abc")
ME = WorkerId("host-1-me")


@pytest.fixture
def records(tmp_path: Path) -> SpareRecords:
    return SpareRecords(tmp_path)


FIELDS = {"spare": SPARE, "worker": ME, "claimed_by": C, "fence": 5, "is_settled": True}


@pytest.mark.parametrize(
    "wrong",
    [
        {"spare": D},
        {"spare": None},
        {"worker": 5},
        {"claimed_by": "/srv/others"},
        {"claimed_by": "../../x"},
        {"claimed_by": C + "\n"},
        {"claimed_by": C.upper()},
        {"claimed_by": ""},
        {"claimed_by": 5},
        {"claimed_by": [C]},
        {"fence": "5"},
        {"fence": 5.0},
        {"fence": True},
        {"fence": None},
        {"is_settled": 1},
        {"one_more": 1},
    ],
    ids=str,
)
async def test_a_record_with_a_wrong_field_is_no_record(
    records: SpareRecords, wrong: dict[str, object]
) -> None:
    records.make(SpareRecord(SPARE, ME))
    written = records._path / SPARE
    written.write_text(json.dumps(FIELDS))
    assert records.get(SPARE) == SpareRecord(SPARE, ME, C, Fence(5), is_settled=True)
    written.write_text(json.dumps(FIELDS | wrong))
    assert records.get(SPARE) is None


@pytest.mark.parametrize("written", [b"[" * 1000, b"\xff", b"[]", b'"x"', b"null", b""])
async def test_what_is_no_record_at_all_is_none(records: SpareRecords, written: bytes) -> None:
    records.make(SpareRecord(SPARE, ME))
    (records._path / SPARE).write_bytes(written)
    assert records.get(SPARE) is None


async def test_nobody_waits_for_a_pipe_in_the_place_of_a_record(records: SpareRecords) -> None:
    records.make(SpareRecord(SPARE, ME))
    written = records._path / SPARE
    written.unlink()
    os.mkfifo(written)
    writer = os.open(written, os.O_RDWR)
    try:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(records.get, SPARE) is None
    finally:
        os.close(writer)  # Who waits for it after all goes on.
