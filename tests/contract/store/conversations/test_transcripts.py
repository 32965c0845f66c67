"""Transcripts: kept once, bounded, of one session, and only by the conversation's owner."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawPart, TranscriptStore
from infra.store.turns.history import TurnBase
from infra.wire.errors import LeaseLost, MalformedMessage
from infra.wire.events import TurnEnded, TurnStarted, encode_event
from infra.wire.link import BaseKind, Transcript
from infra.wire.states import TurnState
from tests.contract.store.scene import W2, C, Scene
from tests.fakes.raw_parts import raw_part

S1, S2, S3 = "session-1", "session-2", "session-3"


def entry(uuid: str | None, text: str = "hello") -> dict[str, Any]:
    return {"type": "user", "text": text} | ({"uuid": uuid} if uuid else {})


def part(*uuids: str | None, subpath: str | None = None) -> RawPart:
    return raw_part(subpath=subpath, entries=tuple(entry(uuid) for uuid in uuids))


async def loaded(scene: Scene, session: str) -> Transcript | None:
    """What an agent would be given."""
    stored = await scene.store.transcripts.load(C, session)
    if stored is None:
        return None
    transcript: Transcript = TypeAdapter(Transcript).validate_json(stored.encode())
    return transcript


async def kept(scene: Scene, session: str) -> list[str | None]:
    transcript = await loaded(scene, session)
    entries = transcript.parts[0].entries if transcript else ()
    return [e.get("uuid") for e in entries]


async def make_own(scene: Scene, lease: Lease, session: str) -> None:
    """A turn that ends in this session."""
    turn = await scene.submit()
    await scene.claim(lease)
    base = TurnBase(kind=BaseKind.FRESH, digest="0" * 16)
    await scene.store.turns.start(lease, turn, base=base)
    first = encode_event(TurnStarted(sdk_session=session, model="m"))
    await scene.store.log.append(lease, turn, [(1, first)])
    end = TurnEnded(state=TurnState.DONE)
    await scene.store.turns.finish(lease, turn, 2, end, idle_timeout_s=60)


async def test_entries_come_back_as_they_were_by_transcript_and_in_order(scene: Scene) -> None:
    lease = await scene.acquire()
    odd: dict[str, Any] = {
        "uuid": "odd",
        "text": 'line\nbreak "quoted" é \U0001f600 \ud800',
        "n": [1, None, {}],
    }
    append = scene.store.transcripts.append
    await append(lease, S1, part("a", "b"))
    await append(lease, S1, part("x", subpath="subagents/agent-ü 1"))
    await append(lease, S1, raw_part(entries=(odd, entry(None))))

    stored = await scene.store.transcripts.load(C, S1)

    assert stored is not None
    found = json.loads(stored.encode())
    assert found["sdk_session"] == S1
    assert [p.get("subpath") for p in found["parts"]] == [None, "subagents/agent-ü 1"]
    assert found["parts"][0]["entries"] == [entry("a"), entry("b"), odd, entry(None)]
    assert found["parts"][1]["entries"] == [entry("x")]


async def test_an_entry_said_twice_is_kept_once(scene: Scene) -> None:
    lease = await scene.acquire()
    append = scene.store.transcripts.append

    assert await append(lease, S1, part("a", "b", "a"))
    assert await append(lease, S1, part("b", "c"))

    assert await kept(scene, S1) == ["a", "b", "c"]


async def test_an_unknown_session_has_no_transcript(scene: Scene) -> None:
    assert await scene.store.transcripts.load(C, S1) is None


async def test_a_long_transcript_is_read_in_pages(scene: Scene) -> None:
    lease = await scene.acquire()
    uuids = [f"u-{i}" for i in range(1234)]
    for first in range(0, len(uuids), 300):
        await scene.store.transcripts.append(lease, S1, part(*uuids[first : first + 300]))

    assert await kept(scene, S1) == uuids


async def test_a_stale_owner_keeps_nothing(scene: Scene) -> None:
    lease = await scene.acquire()
    await scene.lapse()
    await scene.acquire(W2)

    with pytest.raises(LeaseLost):
        await scene.store.transcripts.append(lease, S1, part("a"))

    assert await scene.store.transcripts.load(C, S1) is None


async def test_a_session_that_grows_too_large_is_not_kept_at_all(scene: Scene) -> None:
    small = TranscriptStore(scene.redis, scene.keys, max_bytes=320)
    lease = await scene.acquire()
    assert await small.append(lease, S1, part("a"))
    assert await small.append(lease, S1, part("b", "a"))

    assert not await small.append(lease, S1, part("c"))
    assert not await small.append(lease, S1, part("d"))

    assert await small.load(C, S1) is None
    record = await scene.store.conversations.get(C)
    assert record is not None
    assert record.transcript_full == S1


async def test_a_claim_tells_that_the_session_cannot_be_resumed(scene: Scene) -> None:
    small = TranscriptStore(scene.redis, scene.keys, max_bytes=10)
    lease = await scene.acquire()
    await make_own(scene, lease, S1)
    assert not await small.append(lease, S1, part("a"))
    await scene.submit()

    assert (await scene.claim(lease)).is_transcript_full


async def test_a_new_session_starts_with_room_again(scene: Scene) -> None:
    small = TranscriptStore(scene.redis, scene.keys, max_bytes=160)
    lease = await scene.acquire()
    await make_own(scene, lease, S1)
    assert not await small.append(lease, S1, part("a", "b"))
    assert await small.append(lease, S2, part("a"))

    await make_own(scene, lease, S2)

    record = await scene.store.conversations.get(C)
    assert record is not None
    assert (record.sdk_session, record.transcript_full) == (S2, None)


async def test_the_old_session_stays_until_a_turn_has_ended_in_the_new_one(scene: Scene) -> None:
    lease = await scene.acquire()
    append = scene.store.transcripts.append
    await append(lease, S1, part("a"))
    await make_own(scene, lease, S1)

    await append(lease, S2, part("a", "b"))
    assert (await kept(scene, S1), await kept(scene, S2)) == (["a"], ["a", "b"])

    await make_own(scene, lease, S2)
    assert (await kept(scene, S1), await kept(scene, S2)) == ([], ["a", "b"])
    assert await scene.redis.exists(scene.keys.transcript_seen(C, S1)) == 0


async def test_a_new_session_without_entries_does_not_push_the_old_one_out(scene: Scene) -> None:
    lease = await scene.acquire()
    await scene.store.transcripts.append(lease, S1, part("a"))
    await make_own(scene, lease, S1)

    await make_own(scene, lease, S2)
    assert await kept(scene, S1) == ["a"]

    await scene.store.transcripts.append(lease, S2, part("b"))
    assert (await kept(scene, S1), await kept(scene, S2)) == ([], ["b"])


async def test_forks_that_never_came_to_life_do_not_pile_up(scene: Scene) -> None:
    lease = await scene.acquire()
    append = scene.store.transcripts.append
    await append(lease, S1, part("a"))
    await make_own(scene, lease, S1)

    for number in range(20):
        await append(lease, f"fork-{number}", part("b"))

    held = await scene.redis.hkeys(scene.keys.transcripts(C))  # type: ignore[misc]
    assert sorted(held) == [b"fork-19", b"session-1"]
    assert [
        k async for k in scene.redis.scan_iter(f"{scene.keys.prefix}:*:transcript:fork-1")
    ] == []


@pytest.mark.parametrize(
    ("session", "subpath"),
    [("", None), ("a:b", None), ("x" * 65, None), (S1, "a\nb"), (S1, "x" * 201)],
)
async def test_names_no_sdk_gives_are_refused(
    scene: Scene, session: str, subpath: str | None
) -> None:
    lease = await scene.acquire()

    with pytest.raises(MalformedMessage):
        await scene.store.transcripts.append(lease, session, part("a", subpath=subpath))


async def test_what_is_kept_lives_as_long_as_the_conversation(scene: Scene) -> None:
    await scene.submit()
    lease = await scene.acquire()
    await scene.store.transcripts.append(lease, S1, part("a"))

    for key in (
        scene.keys.transcripts(C),
        scene.keys.transcript(C, S1),
        scene.keys.transcript_seen(C, S1),
    ):
        assert 4_040_000 < await scene.redis.pttl(key) <= 4_050_000
