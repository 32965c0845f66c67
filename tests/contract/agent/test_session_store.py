"""The SDK's own conformance suite, over our transcripts and over the store they end up in.

Listing sessions and their summaries is left out of both, and deleting of the second: a
conversation's transcripts are deleted with it (`tests/contract/store`).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator

import pytest
from claude_agent_sdk import SessionKey, SessionStore, SessionStoreEntry
from claude_agent_sdk.testing import run_session_store_conformance
from claude_agent_sdk.types import SessionListSubkeysKey
from pydantic import TypeAdapter

from agent.memory.session_store import LinkedSessionStore
from agent.memory.transcripts import Transcripts
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.server.connection import connect
from infra.wire.ids import ConversationKey
from infra.wire.link import Transcript, TranscriptAppend
from tests.contract.store.scene import Scene
from tests.fakes.fake_redis import fake_redis
from tests.fakes.redis_server import RealRedis
from worker.turns.link.transcript_lines import read_part

LISTS = frozenset({"list_sessions", "list_session_summaries"})
_TRANSCRIPT = TypeAdapter(Transcript)


class AnsweringTranscripts(Transcripts):
    """With a worker that stores at once."""

    def __init__(self) -> None:
        super().__init__()
        self.attach(self._answer)

    def _answer(self, message: TranscriptAppend) -> None:
        asyncio.get_running_loop().call_soon(self.stored, message.seq)


def linked(transcripts: Transcripts) -> LinkedSessionStore:
    return LinkedSessionStore(transcripts)  # type: ignore[abstract] # the rest is optional


async def test_what_the_agent_keeps_conforms() -> None:
    await run_session_store_conformance(lambda: linked(AnsweringTranscripts()), skip_optional=LISTS)


async def test_a_fork_is_given_nothing_that_came_after_its_entry() -> None:
    """Of a session that was summarised later the CLI makes no fork from before the summary."""
    transcripts, key = AnsweringTranscripts(), SessionKey(project_key="p", session_id="s")
    entries: list[SessionStoreEntry] = [{"type": "user", "uuid": id} for id in "abc"]
    await linked(transcripts).append(key, entries)
    fork = LinkedSessionStore(transcripts, ends_at="b")  # type: ignore[abstract]
    assert await fork.load(key) == entries[:2]
    other = LinkedSessionStore(transcripts, ends_at="z")  # type: ignore[abstract]
    assert await other.load(key) == entries


class AfterTheContainer(SessionStore):
    """Appends as an agent does; loads as its successor does, which has only what is stored.

    A conversation keeps one session, so each session of the suite is one of its own.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._names = secrets.token_hex(4)
        self._leases: dict[str, Lease] = {}

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        lease = await self._lease(key["project_key"], key["session_id"])
        sent: asyncio.Queue[TranscriptAppend] = asyncio.Queue()
        transcripts = Transcripts()
        transcripts.attach(sent.put_nowait)
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(self._store(lease, sent, transcripts))
            await linked(transcripts).append(key, entries)
            worker.cancel()

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        heir = await self._heir(key["project_key"], key["session_id"])
        return await linked(heir).load(key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        return await linked(await self._heir(**key_parts(key))).list_subkeys(key)

    async def _store(
        self, lease: Lease, sent: asyncio.Queue[TranscriptAppend], transcripts: Transcripts
    ) -> None:
        while True:
            message = await sent.get()
            store, part = self._scene.store.transcripts, read_part(message.encode())
            assert await store.append(lease, message.sdk_session, part)
            # Said twice, as after a link was cut: the doubles are dropped by their uuid.
            if all("uuid" in entry for entry in message.part.entries):
                assert await store.append(lease, message.sdk_session, part)
            transcripts.stored(message.seq)

    async def _heir(self, project: str, session: str) -> Transcripts:
        lease = await self._lease(project, session)
        stored = await self._scene.store.transcripts.load(lease.conversation, session)
        heir = Transcripts()
        if stored is not None:
            heir.adopt(project, _TRANSCRIPT.validate_json(stored.encode()))
        return heir

    async def _lease(self, project: str, session: str) -> Lease:
        name = hashlib.sha256(f"{self._names} {project} {session}".encode()).hexdigest()[:24]
        if name not in self._leases:
            self._leases[name], _ = await self._scene.begin(c=ConversationKey(name))
        return self._leases[name]


def key_parts(key: SessionListSubkeysKey) -> dict[str, str]:
    return {"project": key["project_key"], "session": key["session_id"]}


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.redis)])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """A store on fakeredis, then on a redis-server of its own."""
    if request.param == "fake":
        async with fake_redis() as client:
            yield Scene(client, Keys("test"))
        return
    server = RealRedis()
    try:
        server.launch()
        real = connect(server.url, timeout_s=10, name="test")
        yield Scene(real, Keys("test"))
        await real.aclose()
    finally:
        server.remove()


async def test_what_the_store_keeps_conforms(scene: Scene) -> None:
    await run_session_store_conformance(
        lambda: AfterTheContainer(scene),  # type: ignore[abstract] # the rest is optional
        skip_optional=LISTS | {"delete"},
    )
