"""Sessions, fences, turns and what they cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from infra.runtime.sealing import LoginSealer, SealContext, Sealer
from infra.wire.errors import KeyNotOpened
from infra.wire.gateway import OpenSession, OpenTurn, SealKey, TurnMeter
from infra.wire.ids import ConversationKey, Fence, TenantId, TurnId
from infra.wire.mcp.logins import McpLogin, OpenLogin
from tests.fakes.manual_clock import ManualClock
from worker.gateway.keys import KeyWiped
from worker.gateway.mcp_logins import McpLoginDesk
from worker.gateway.sessions import (
    GatewaySession,
    KeyState,
    NoSession,
    SessionTable,
    StaleFence,
    TurnOver,
)

SEALER = Sealer(b"s" * 32)
LOGIN_SEALER = LoginSealer(b"secret")
URL = "https://mcp.example.com/"
C = ConversationKey("c" * 24)
TENANT = TenantId("t" * 20)


class PaperListeners:
    """Sockets that exist on paper."""

    def __init__(self) -> None:
        self.are_in_place = True
        self.is_closed = False

    def stop(self) -> None:
        self.are_in_place = False

    async def aclose(self) -> None:
        self.is_closed = True


class Desk:
    """A table and everything that was made for it."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.clock = ManualClock()
        self.sessions: list[GatewaySession] = []
        self.made: list[PaperListeners] = []
        self.table = SessionTable(
            listen=self._listen,
            sealer=SEALER,
            mcp_sealer=SEALER,
            logins=McpLoginDesk(LOGIN_SEALER, self.clock, group),
            clock=self.clock,
            group=group,
        )

    async def open_session(self, fence: int, folder: str = "/s/c") -> None:
        await self.table.open_session(C, OpenSession(socket_dir=folder, fence=Fence(fence)))

    def open_turn(
        self,
        name: str,
        fence: int,
        *,
        lasts_s: int = 60,
        key: str = "k",
        logins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`logins`: the token of each server."""
        expires_ms = self.clock.unix_ms() + lasts_s * 1000
        context = SealContext(TENANT, C, TurnId(name), expires_ms)
        self.table.open_turn(
            OpenTurn(
                turn=TurnId(name),
                tenant=TENANT,
                conversation=C,
                fence=Fence(fence),
                sealed_key=SEALER.seal(key, context),
                expires_ms=expires_ms,
                mcp_logins={name: _login(name, token) for name, token in logins.items()},
            )
        )

    async def _listen(self, session: GatewaySession) -> PaperListeners:
        assert session.folder.is_absolute()
        self.sessions.append(session)
        self.made.append(PaperListeners())
        return self.made[-1]


def _login(server: str, token: str) -> OpenLogin:
    made = McpLogin(url=URL, access_token=token, token_endpoint=URL, client_id="c")
    return OpenLogin(name=server, sealed=LOGIN_SEALER.seal(made, server))


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with asyncio.TaskGroup() as group:
        made = Desk(group)
        yield made
        await made.table.aclose()


async def test_opening_again_keeps_what_is_under_way(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    turn = desk.sessions[0].running_turn()
    await desk.open_session(2)
    desk.open_turn("a", 2)
    assert desk.sessions[0].running_turn() is turn
    assert len(desk.made) == 1


async def test_a_turn_that_is_opened_again_has_the_newer_tokens(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1, logins={"notes": "one", "other": "kept"})
    tokens = desk.sessions[0].running_turn().tokens
    desk.open_turn("a", 2, logins={"notes": "two"})
    assert desk.sessions[0].running_turn().tokens is tokens
    assert [tokens.of(name, URL) for name in ("notes", "other")] == ["two", "kept"]
    desk.table.close_turn(C, TurnId("a"), Fence(2))
    assert tokens.of("notes", URL) is None


async def test_sockets_that_vanished_or_moved_are_made_again(desk: Desk) -> None:
    await desk.open_session(1)
    desk.made[0].are_in_place = False
    await desk.open_session(1)
    await desk.open_session(1, folder="/s/elsewhere")
    assert len(desk.made) == 3
    assert desk.sessions[0].folder == Path("/s/elsewhere")


async def test_a_stale_owner_changes_nothing(desk: Desk) -> None:
    await desk.open_session(5)
    desk.open_turn("a", 5)
    with pytest.raises(StaleFence):
        await desk.open_session(4)
    with pytest.raises(StaleFence):
        desk.open_turn("b", 4)
    with pytest.raises(StaleFence):
        desk.table.close_turn(C, TurnId("a"), Fence(4))
    with pytest.raises(StaleFence):
        await desk.table.close_session(C, Fence(4))
    assert desk.sessions[0].running_turn().id == "a"


async def test_a_turn_needs_its_session(desk: Desk) -> None:
    with pytest.raises(NoSession):
        desk.open_turn("a", 1)


async def test_a_key_of_another_turn_is_refused_and_the_open_turn_stays(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    foreign = OpenTurn(
        turn=TurnId("b"),
        tenant=TENANT,
        conversation=C,
        fence=Fence(1),
        sealed_key=SEALER.seal("k", SealContext(TENANT, C, TurnId("x"), 2**50)),
        expires_ms=2**50,
    )
    with pytest.raises(KeyNotOpened):
        desk.table.open_turn(foreign)
    assert desk.sessions[0].running_turn().id == "a"


async def test_a_new_turn_ends_the_one_before(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    before = desk.sessions[0].running_turn()
    desk.open_turn("b", 1, key="other")
    assert before.state is KeyState.CLOSED
    assert before.key.is_wiped
    assert desk.sessions[0].running_turn().key.reveal() == "other"


async def test_closing_wipes_the_key_and_may_be_repeated(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    turn = desk.sessions[0].running_turn()
    assert "k" not in repr(turn.key).removeprefix("TurnKey([key])")
    for _ in range(2):
        assert desk.table.close_turn(C, TurnId("a"), Fence(1)) == TurnMeter(
            instance=desk.table.instance
        )
    with pytest.raises(KeyWiped):
        turn.key.reveal()
    with pytest.raises(TurnOver):
        desk.sessions[0].running_turn()


async def test_closing_another_turn_leaves_the_open_one(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("b", 1)
    desk.table.close_turn(C, TurnId("a"), Fence(1))
    assert desk.sessions[0].running_turn().id == "b"


async def test_expiry_wipes_the_key(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1, lasts_s=30)
    turn = desk.sessions[0].running_turn()
    await desk.clock.advance(29)
    assert not turn.key.is_wiped
    await desk.clock.advance(2)
    assert turn.state is KeyState.EXPIRED
    assert turn.key.is_wiped


async def test_a_closed_turn_does_not_expire(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1, lasts_s=30)
    turn = desk.sessions[0].running_turn()
    desk.table.close_turn(C, TurnId("a"), Fence(1))
    await desk.clock.advance(60)
    assert turn.state is KeyState.CLOSED


async def test_what_is_under_way_ends_with_its_turn(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    turn = desk.sessions[0].running_turn()
    is_inside = asyncio.Event()

    async def call() -> None:
        async with turn.while_open():
            is_inside.set()
            await asyncio.Event().wait()

    async def expect() -> None:
        with pytest.raises(TurnOver):
            await call()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(expect())
        await is_inside.wait()
        desk.table.close_turn(C, TurnId("a"), Fence(1))
    with pytest.raises(TurnOver):
        await call()


async def test_a_timeout_inside_a_turn_is_not_its_end(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    with pytest.raises(TimeoutError):
        async with desk.sessions[0].running_turn().while_open():
            raise TimeoutError


async def test_closing_a_session_ends_its_turn_and_its_sockets(desk: Desk) -> None:
    await desk.open_session(1)
    desk.open_turn("a", 1)
    turn = desk.sessions[0].running_turn()
    await desk.table.close_session(C, Fence(1))
    await desk.table.close_session(C, Fence(1))
    await desk.clock.advance(0)
    assert turn.key.is_wiped
    assert not desk.made[0].are_in_place
    assert desk.made[0].is_closed
    assert desk.table.status().sessions == 0


async def test_a_call_waits_for_the_first_turn_only(desk: Desk) -> None:
    await desk.open_session(1)
    session = desk.sessions[0]
    await session.wait_first_turn(0.0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(session.wait_first_turn(5.0))
        await desk.clock.advance(0)
        assert not waiting.done()
        desk.open_turn("a", 1)
    desk.table.close_turn(C, TurnId("a"), None)
    async with asyncio.timeout(1):
        await session.wait_first_turn(5.0)


async def test_the_key_of_an_open_turn_is_sealed_for_one_other_turn_only(desk: Desk) -> None:
    other, called = ConversationKey("d" * 24), TurnId("turn_called")

    def asked(fence: int = 2, turn: str = "turn_1") -> SealKey:
        return SealKey(
            turn=TurnId(turn),
            conversation=C,
            fence=Fence(fence),
            for_turn=called,
            for_conversation=other,
        )

    await desk.open_session(2)
    with pytest.raises(NoSession):
        desk.table.seal_key(asked())
    desk.open_turn("turn_1", 2, lasts_s=60, key="sk-secret")
    with pytest.raises(NoSession):
        desk.table.seal_key(asked(turn="turn_2"))
    with pytest.raises(StaleFence):
        desk.table.seal_key(asked(fence=1))
    sealed = desk.table.seal_key(asked())
    now_ms = desk.clock.unix_ms()
    assert sealed.expires_ms == now_ms + 60_000, "no later than the caller's"
    right = SealContext(TENANT, other, called, sealed.expires_ms)
    assert SEALER.open(sealed.sealed_key, right, now_ms=now_ms) == "sk-secret"
    for wrong in (
        SealContext(TENANT, C, called, sealed.expires_ms),
        SealContext(TENANT, other, TurnId("turn_1"), sealed.expires_ms),
        SealContext(TenantId("u" * 20), other, called, sealed.expires_ms),
    ):
        with pytest.raises(KeyNotOpened):
            SEALER.open(sealed.sealed_key, wrong, now_ms=now_ms)
    desk.table.close_turn(C, TurnId("turn_1"), Fence(2))
    with pytest.raises(NoSession):
        desk.table.seal_key(asked())
