"""What one tenant, or one address, may do at once and in a minute."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from infra.store.access.rates import TIMEOUT_S, Rates
from infra.store.keys import Keys
from infra.store.server.connection import connect
from infra.wire.errors import StoreUnavailable
from infra.wire.events import TextDelta
from tests.fakes.echo_worker import Gate, Script
from tests.fakes.running_api import KEY, RunningApi, running_api, until
from tests.integration.api.test_key_check import checked_api

OTHER = {"authorization": "Bearer sk-ant-somebody-else"}
HELD: Script = {"hold": [TextDelta(text="so far"), Gate("rest")]}


def bad(n: int, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-ant-guess-{n:04}", **more}


async def test_requests_of_a_key_are_counted_by_the_minute_over_all_replicas() -> None:
    limits = {"tenant_requests_per_min": 3}
    async with (
        running_api(settings=limits) as here,
        running_api(settings=limits, store=here.store, has_worker=False) as there,
    ):
        first = await here.chat("one", stream=True)
        second = await there.http.get("/v1/sessions")
        third = await there.http.get("/v1/chat/completions/chatcmpl-" + "0" * 32)
        fourth = await here.chat("four")
        listed = await here.http.get("/v1/models")
        other = await here.chat("five", headers=OTHER)
        keys = " ".join(str(key) for key in await here.store.redis.keys("*rate*"))
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 404]
    assert fourth.status_code == 429
    assert fourth.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(fourth.headers["retry-after"]) <= 60
    told = [a.headers["x-ratelimit-remaining-requests"] for a in (first, second, third, fourth)]
    assert told == ["2", "1", "0", "0"]
    assert fourth.headers["x-ratelimit-limit-requests"] == "3"
    assert re.fullmatch(r"\d+\.\ds", fourth.headers["x-ratelimit-reset-requests"])
    assert [listed.status_code, other.status_code] == [200, 200]
    assert "x-ratelimit-limit-requests" not in listed.headers
    assert KEY not in keys


async def test_without_a_limit_nothing_is_counted_or_told() -> None:
    async with running_api(settings={"tenant_requests_per_min": 0}) as api:
        answer = await api.chat("hi")
        assert await api.store.redis.keys("*rate*") == []
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_answers_a_key_has_open_are_bounded_followers_included() -> None:
    stays = {"x-on-disconnect": "continue"}
    async with running_api(HELD, settings={"tenant_streams_max": 2}) as api:
        async with asyncio.TaskGroup() as group:
            held = group.create_task(api.chat("hold", stream=True, headers=stays))
            await until(lambda: api.worker.requests)
            path = f"/v1/chat/completions/{api.worker.requests[0].turn}"
            followed = group.create_task(api.http.get(path, params={"stream": "true"}))
            await until(lambda: api.deps.drain.open_count == 2)
            one_more = await api.chat("hi")
            follower = await api.http.get(path, params={"stream": "true"})
            other = await api.chat("hi", headers=OTHER)
            submitted = len(api.worker.requests)
            api.worker.gates["rest"].set()
        again = await api.chat("hi")
    for refused in (one_more, follower):
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "tenant_limit_exceeded"
        assert refused.headers["retry-after"]
    assert submitted == 2, "a refused request starts nothing"
    assert {held.result().status_code, followed.result().status_code} == {200}
    assert [other.status_code, again.status_code] == [200, 200]


async def test_bad_keys_of_an_address_are_bounded_and_good_ones_still_come_in() -> None:
    async with checked_api(key_failures_per_min=3) as (api, upstream):
        assert (await api.chat("hi")).status_code == 200
        upstream.status = 401
        tried = [await api.chat("hi", headers=bad(n)) for n in range(5)]
        asked = len(upstream.keys)
        malformed = await api.chat("hi", headers={"authorization": "Bearer nope"})
        upstream.status = 200
        unknown = await api.chat("hi", headers=bad(9))
        known = await api.chat("hi")
        keys = b" ".join(await api.store.redis.keys("*rate*"))
    assert [a.status_code for a in tried] == [401, 401, 401, 429, 429]
    assert tried[-1].headers["retry-after"]
    assert asked == 4, "beyond the bound the upstream is not asked"
    assert [malformed.status_code, unknown.status_code, known.status_code] == [429, 429, 200]
    assert b"127.0.0.1" not in keys


async def test_bad_keys_are_counted_by_the_callers_address_behind_a_trusted_proxy() -> None:
    async with checked_api(key_failures_per_min=1, trusted_proxies=["127.0.0.0/8"]) as (api, up):
        up.status = 401

        async def tried(n: int, address: str) -> int:
            return (
                await api.chat("hi", headers=bad(n, **{"x-forwarded-for": address}))
            ).status_code

        statuses = [await tried(1, "192.0.2.1"), await tried(2, "192.0.2.1")]
        # The nearest address that is no proxy counts, whatever the caller wrote before it.
        statuses += [await tried(3, "198.51.100.9, 192.0.2.1"), await tried(4, "192.0.2.2")]
        # One customer has all the addresses of an IPv6 network.
        statuses += [await tried(5, "2001:db8::1"), await tried(6, "2001:db8::ffff")]
    assert statuses == [401, 429, 429, 401, 401, 429]


async def test_x_forwarded_for_of_others_is_not_believed() -> None:
    async with checked_api(key_failures_per_min=1) as (api, upstream):
        upstream.status = 401
        answers = [
            await api.chat("hi", headers=bad(n, **{"x-forwarded-for": f"192.0.2.{n}"}))
            for n in range(2)
        ]
    assert [a.status_code for a in answers] == [401, 429]


async def test_limits_let_everybody_in_while_redis_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fakeredis cannot go away for one part only: here the counting alone has lost its Redis."""
    async with lost_redis() as rates:
        limits = {"tenant_requests_per_min": 1, "key_failures_per_min": 1}
        async with running_api(settings=limits) as api:
            count_with(api, rates)
            answers = [await api.chat("hi") for _ in range(3)]
            bad = [await api.chat("hi", headers={"authorization": "Bearer no"}) for _ in range(2)]
    assert [a.status_code for a in answers] == [200] * 3
    assert [a.status_code for a in bad] == [401] * 2
    told = [r for r in caplog.records if r.name == "api.access.admission"]
    assert len(told) == 1


async def test_silent_redis_holds_nobody_up_for_long() -> None:
    async with black_hole() as url, aclosing(connect(url, timeout_s=30, name="test")) as redis:
        rates = Rates(redis, Keys("test"))
        async with asyncio.timeout(TIMEOUT_S + 5):
            with pytest.raises(StoreUnavailable):
                await rates.hit("requests", "t", per_min=1)


def count_with(api: RunningApi, rates: Rates) -> None:
    # The one part of the admission that a test must be able to lose.
    api.deps.admission._rates = rates


@asynccontextmanager
async def lost_redis() -> AsyncIterator[Rates]:
    async with aclosing(connect("redis://127.0.0.1:1", timeout_s=1, name="test")) as redis:
        yield Rates(redis, Keys("test"))


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Takes connections and never says a word."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
