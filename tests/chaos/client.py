"""A client that asks numbered answers and writes down everything it got, and when.

    told = Telling(Asked("turn-3", numbers=100), prompt=..., conversation="chat-3")
    task = group.create_task(client.ask(told))
    await told.reached(10)            # ten numbers have come
    await some_fault()
    await task                        # told.attempts holds the story

A client that `follows` comes back when its stream breaks: by the answer's id and the last event's
number, or by asking again under its `Idempotency-Key`, at the next replica each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import aiohttp

from tests.chaos.checker import NO_JSON, Arrival, Asked, Attempt, Failure, How, Outcome
from tests.e2e.deployments import MODEL

KEY = "sk-ant-chaos-canary-0b7d1f9a4c66"
"""What no key, value, log or process may show."""
ATTEMPTS_MAX = 40
COME_BACK_S = 0.5
"""Between two attempts to come back."""
HUNG_S = 120.0
"""An answer without an end for this long hangs."""


class Follow(Enum):
    """What a client does when its stream breaks."""

    NOT = auto()
    BY_ID = auto()
    BY_KEY = auto()


@dataclass
class Telling:
    """One turn: what is asked, how the client behaves, and what came of it."""

    asked: Asked
    prompt: str
    conversation: str
    api_key: str = KEY
    history: Sequence[dict[str, str]] = ()
    replica: int = 0
    follow: Follow = Follow.NOT
    stalls_s: float = 0.0
    """It reads nothing for so long after the first number."""
    leaves_after: int | None = None
    """It hangs up after so many numbers."""
    continues: bool = False
    """The turn goes on when its client has left."""
    attempts: list[Attempt] = field(default_factory=list)
    turn: str | None = None
    """The answer's id, once it is known."""
    _heard: int = 0
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def heard(self) -> int:
        """How many texts have come, over all attempts."""
        return self._heard

    @property
    def outcome(self) -> Outcome:
        return self.attempts[-1].outcome

    @property
    def text(self) -> str:
        """What the last answer said."""
        return "".join(arrival.text for arrival in self.attempts[-1].arrivals)

    async def reached(self, texts: int, *, within_s: float = 150.0) -> None:
        """Until so many texts have come, or the turn has ended without. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(lambda: self._heard >= texts or self._is_over())

    async def accepted(self, *, within_s: float = 60.0) -> None:
        """Until its stream has begun: its turn is in the queue. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(lambda: self.turn is not None or self._is_over())

    def _is_over(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].ended_s is not None

    async def note(self, texts: int) -> None:
        """Something came or ended."""
        async with self._news:
            self._heard += texts
            self._news.notify_all()


class ChaosClient:
    """All clients of one cluster. Knows its replicas, as a balancer would."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self._http = http
        self._urls = urls

    async def ask(self, telling: Telling) -> None:
        """One turn from the question to its end, breaks and all. Never raises for what a server
        or a network does: that is in `telling.attempts`.
        """
        await self._attempt(telling, How.ASK)
        while _may_follow(telling):
            await asyncio.sleep(COME_BACK_S)
            telling.replica += 1
            by_id = telling.follow is Follow.BY_ID and telling.turn is not None
            await self._attempt(telling, How.RESUME if by_id else How.REPEAT)

    async def ask_whole(self, telling: Telling) -> None:
        """The same without a stream; whatever is answered counts as complete."""
        where = telling.replica % len(self._urls)
        attempt = Attempt(How.ASK, f"api-{where}", time.monotonic())
        telling.attempts.append(attempt)
        turns = f"{self._urls[where]}/v1/chat/completions"
        body = {"model": MODEL, "messages": [{"role": "user", "content": telling.prompt}]}
        try:
            async with (
                asyncio.timeout(HUNG_S),
                self._http.post(turns, json=body, headers=_headers(telling)) as answer,
            ):
                raw = await answer.read()
                if answer.status == 200:
                    attempt.is_done = bool(json.loads(raw)["choices"][0]["message"]["content"])
                else:
                    attempt.failure = _failure(raw, answer.status, answer.headers)
        except (aiohttp.ClientError, OSError) as error:
            attempt.broke = repr(error)
        except TimeoutError:
            return
        attempt.ended_s = time.monotonic()

    async def cancel(self, telling: Telling) -> None:
        """Cancel its turn by its id, at another replica; one that cannot be asked is no error."""
        url = self._urls[(telling.replica + 1) % len(self._urls)]
        path = f"{url}/v1/chat/completions/{telling.turn}/cancel"
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                asyncio.timeout(COME_BACK_S * 20),
                self._http.post(path, headers=_headers(telling)) as answer,
            ):
                await answer.read()

    async def _attempt(self, telling: Telling, how: How) -> None:
        where = telling.replica % len(self._urls)
        attempt = Attempt(how, f"api-{where}", time.monotonic())
        cursor = _cursor(telling)
        telling.attempts.append(attempt)
        try:
            async with (
                asyncio.timeout(HUNG_S),
                self._opened(telling, how, self._urls[where], cursor) as answer,
            ):
                await _read(answer, telling, attempt)
        except (aiohttp.ClientError, OSError) as error:
            attempt.broke = repr(error)
        except TimeoutError:
            await telling.note(0)
            return  # It hangs: the attempt has no end.
        attempt.ended_s = time.monotonic()
        await telling.note(0)

    @asynccontextmanager
    async def _opened(
        self, telling: Telling, how: How, url: str, cursor: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        turns = f"{url}/v1/chat/completions"
        headers = _headers(telling)
        if how is How.RESUME:
            headers["last-event-id"] = str(cursor)
            async with self._http.get(
                f"{turns}/{telling.turn}?stream=true", headers=headers
            ) as answer:
                yield answer
            return
        if telling.follow is not Follow.NOT:
            headers["idempotency-key"] = f"key-of-{telling.asked.name}"
        if telling.continues:
            headers["x-on-disconnect"] = "continue"
        messages = [*telling.history, {"role": "user", "content": telling.prompt}]
        body = {"model": MODEL, "stream": True, "messages": messages}
        async with self._http.post(turns, json=body, headers=headers) as answer:
            yield answer


def _headers(telling: Telling) -> dict[str, str]:
    return {
        "authorization": f"Bearer {telling.api_key}",
        "x-conversation-id": telling.conversation,
        "x-event-ids": "true",
    }


def _may_follow(telling: Telling) -> bool:
    """A broken stream is followed; so is a server that says it is leaving, or away for now."""
    if telling.follow is Follow.NOT or len(telling.attempts) >= ATTEMPTS_MAX:
        return False
    last = telling.attempts[-1]
    if last.outcome is Outcome.BROKEN:
        return True
    return last.failure is not None and last.failure.code in ("shutting_down", "store_unavailable")


def _cursor(telling: Telling) -> int:
    """The number of the last event seen."""
    return max((a.id for one in telling.attempts for a in one.arrivals), default=0)


async def _read(answer: aiohttp.ClientResponse, telling: Telling, attempt: Attempt) -> None:
    if answer.status != 200:
        attempt.failure = _failure(await answer.read(), answer.status, answer.headers)
        return
    id, rest = 0, b""
    async for data in answer.content.iter_any():
        now_s = time.monotonic()
        before = len(attempt.arrivals)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                id = int(line[4:])
            elif line.startswith(b":"):
                attempt.pings_s.append(now_s)
            elif line.startswith(b"data: "):
                _take(line[6:], id, now_s, telling, attempt)
        if (new := len(attempt.arrivals) - before) > 0 or not before:
            await telling.note(new)
            if telling.leaves_after is not None and telling.heard >= telling.leaves_after:
                attempt.has_left = True
                return
        if telling.stalls_s and attempt.arrivals:
            stall_s, telling.stalls_s = telling.stalls_s, 0.0
            await asyncio.sleep(stall_s)


def _take(data: bytes, id: int, now_s: float, telling: Telling, attempt: Attempt) -> None:
    if data == b"[DONE]":
        attempt.is_done = True
        return
    chunk = json.loads(data)
    telling.turn = chunk.get("id", telling.turn)
    if error := chunk.get("error"):
        attempt.failure = Failure(error["code"], error["message"])
        return
    for choice in chunk["choices"]:
        if text := choice["delta"].get("content"):
            attempt.arrivals.append(Arrival(now_s, id, text))


def _failure(raw: bytes, status: int, headers: Any) -> Failure:
    """An error before the first byte, as its client reads it."""
    try:
        error = json.loads(raw)["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        code, message = NO_JSON, raw[:200].decode(errors="replace")
    return Failure(code, message, status, headers.get("retry-after"))


@asynccontextmanager
async def chaos_client(urls: Sequence[str]) -> AsyncIterator[ChaosClient]:
    """Clients without a bound on their number; no connection is used twice, for a balancer would
    not keep one to a server that is gone.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
    ) as http:
        yield ChaosClient(http, urls)
