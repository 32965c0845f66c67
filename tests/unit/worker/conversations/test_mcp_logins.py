"""The logins of a turn's agent, renewed by one worker of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from infra.runtime.clock import SystemClock
from infra.store.keys import Keys
from infra.store.mcp_logins import McpLogins
from infra.wire.agents.mcp import McpServer
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import GatewayUnavailable, StoreUnavailable
from infra.wire.ids import ConversationKey
from infra.wire.mcp.logins import RenewedLogin, RenewLogin, SealedLogin
from tests.fakes.worker_stage import Stage
from worker.conversations.mcp_logins import RENEW_BEFORE_MS, TurnLogins

AGENT = AgentRef(name="helper", digest="0" * 32)
SERVER = McpServer(url="https://mcp.example.com/", login=True)
PROFILE = AgentProfile(mcp_servers={"notes": SERVER, "open": McpServer(url="https://a.example/")})
NAME = "helper/notes"
C = ConversationKey("c" * 24)


class RenewingGateway:
    """Renews after a while, unless it fails."""

    def __init__(
        self,
        fault: str | None = None,
        *,
        is_down: bool = False,
        meanwhile: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`meanwhile`: what happens while it renews."""
        self.asked: list[RenewLogin] = []
        self.meanwhile = meanwhile
        self.fault = fault
        self.is_down = is_down

    async def renew_login(self, command: RenewLogin) -> RenewedLogin:
        self.asked.append(command)
        await asyncio.sleep(0.1)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.is_down:
            raise GatewayUnavailable("it is gone")
        now_ms = SystemClock().unix_ms()
        if self.fault is not None:
            return RenewedLogin(
                login=SealedLogin(
                    sealed=command.sealed,
                    expires_ms=now_ms,
                    can_renew=True,
                    made_ms=now_ms,
                    fault=self.fault,
                )
            )
        return RenewedLogin(
            login=SealedLogin(
                sealed=f"{command.sealed}+",
                expires_ms=now_ms + 2 * RENEW_BEFORE_MS,
                can_renew=True,
                made_ms=now_ms,
            )
        )


@pytest.fixture
def logins(redis: Redis) -> McpLogins:
    return McpLogins(redis, Keys("test"))


async def ending(logins: McpLogins, in_ms: int) -> None:
    """There is a login whose token ends then."""
    end_ms = SystemClock().unix_ms() + in_ms
    await logins.keep(NAME, SealedLogin(sealed="s", expires_ms=end_ms, can_renew=True))


async def sealed_for_turn(logins: McpLogins, gateway: RenewingGateway) -> str | None:
    found = await TurnLogins(logins, gateway, SystemClock()).of(AGENT, PROFILE)
    assert found.keys() <= {"notes"}
    return found["notes"].sealed if found else None


async def test_many_turns_that_find_it_due_renew_it_once(logins: McpLogins) -> None:
    await ending(logins, 1000)
    gateway = RenewingGateway()
    asked = (sealed_for_turn(logins, gateway) for _ in range(8))
    assert set(await asyncio.gather(*asked)) == {"s+"}
    assert len(gateway.asked) == 1
    assert await sealed_for_turn(logins, gateway) == "s+"
    assert len(gateway.asked) == 1


async def test_one_that_lasts_is_left_alone(logins: McpLogins) -> None:
    await ending(logins, 2 * RENEW_BEFORE_MS)
    gateway = RenewingGateway()
    assert await sealed_for_turn(logins, gateway) == "s"
    assert gateway.asked == []


async def test_without_a_login_there_is_none(logins: McpLogins) -> None:
    assert await sealed_for_turn(logins, RenewingGateway()) is None
    assert await TurnLogins(logins, RenewingGateway(), SystemClock()).of(None, None) == {}


@pytest.mark.parametrize("gateway", [RenewingGateway("no answer"), RenewingGateway(is_down=True)])
async def test_a_renewal_that_fails_leaves_the_token_of_before(
    logins: McpLogins, gateway: RenewingGateway
) -> None:
    await ending(logins, 1000)
    assert await sealed_for_turn(logins, gateway) == "s"
    kept = (await logins.of([NAME]))[NAME]
    assert kept.fault == gateway.fault
    # It is not asked again with every turn.
    await sealed_for_turn(logins, gateway)
    assert len(gateway.asked) == (1 if gateway.fault else 2)


async def test_who_logs_out_during_a_renewal_is_logged_out(logins: McpLogins) -> None:
    await ending(logins, 1000)
    gateway = RenewingGateway(meanwhile=lambda: logins.drop(NAME))
    assert await sealed_for_turn(logins, gateway) is None
    assert await logins.of([NAME]) == {}


async def test_who_logs_in_during_a_renewal_has_the_new_login(logins: McpLogins) -> None:
    await ending(logins, 1000)
    new = SealedLogin(sealed="new", can_renew=True)
    gateway = RenewingGateway(meanwhile=lambda: logins.keep(NAME, new))
    assert await sealed_for_turn(logins, gateway) == "new"
    assert await logins.of([NAME]) == {NAME: new}


async def test_a_renewed_login_is_kept_although_the_store_is_gone_for_a_while(
    logins: McpLogins, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ending(logins, 1000)
    keep, tries = logins.keep_renewed, iter((True, False))

    async def keep_later(name: str, before: str, login: SealedLogin) -> bool:
        if next(tries):
            raise StoreUnavailable("gone for a while")
        return await keep(name, before, login)

    monkeypatch.setattr(logins, "keep_renewed", keep_later)
    assert await sealed_for_turn(logins, RenewingGateway()) == "s+"
    assert (await logins.of([NAME]))[NAME].sealed == "s+"


async def test_a_renewal_that_took_too_long_leaves_that_of_another_alone(logins: McpLogins) -> None:
    first = await logins.begin_renewal(NAME)
    assert first is not None
    await logins.end_renewal(NAME, "another")
    assert await logins.begin_renewal(NAME) is None
    await logins.end_renewal(NAME, first)
    assert await logins.begin_renewal(NAME) is not None


async def test_a_login_that_was_renewed_is_kept_once(logins: McpLogins) -> None:
    await ending(logins, 1000)
    new = SealedLogin(sealed="s+", made_ms=1)
    assert await logins.keep_renewed(NAME, "s", new)
    # After a lost answer it is said again.
    assert await logins.keep_renewed(NAME, "s", new)
    assert not await logins.keep_renewed(NAME, "s", SealedLogin(sealed="late"))
    assert await logins.of([NAME]) == {NAME: new}


@pytest.mark.parametrize(
    ("lasts_ms", "left_ms", "is_renewed"),
    [(120_000, 50_000, True), (120_000, 70_000, False), (10**8, RENEW_BEFORE_MS - 9, True)],
)
async def test_a_token_is_renewed_when_half_of_its_life_is_over(
    logins: McpLogins, lasts_ms: int, left_ms: int, is_renewed: bool
) -> None:
    now_ms = SystemClock().unix_ms()
    end_ms = now_ms + left_ms
    one = SealedLogin(sealed="s", expires_ms=end_ms, can_renew=True, made_ms=end_ms - lasts_ms)
    await logins.keep(NAME, one)
    gateway = RenewingGateway()
    await sealed_for_turn(logins, gateway)
    assert bool(gateway.asked) is is_renewed


async def test_a_turn_that_outlasts_its_token_gets_the_next_one(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.conversations.mcp_logins.LOOK_S", 0.05)
    async with Stage(redis) as stage:
        await stage.worker()
        digest = await stage.store.profiles.keep(PROFILE, ttl_s=60)
        await stage.store.mcp_logins.keep(NAME, SealedLogin(sealed="first"))
        agent = AgentRef(name="helper", digest=digest)
        turn = await stage.ask(C, "wait 1000", agent=agent)
        await stage.until_logged(turn, 1)
        assert tokens(stage) == ["first"]
        # Another conversation's turn has renewed it.
        await stage.store.mcp_logins.keep(NAME, SealedLogin(sealed="second"))
        await stage.ended(turn)
        assert tokens(stage) == ["first", "second"], "told once"
        assert stage.gateway.closed == [turn]
        assert stage.gateway.turns == {}, "what is over stays over"


def tokens(stage: Stage) -> list[str]:
    """What the gateway was told, one after the other."""
    return [one.mcp_logins["notes"].sealed for one in stage.gateway.opened]
