"""One streamed answer, measured: when its first text came and how old each delta was on arrival.

The scripted model writes the time it sent a delta into the delta itself (`stream N deltas every D
ms`), and the stand-in agent does the same by the machine's monotonic clock. So the age of a delta
can be read off wherever it arrives: as an event of the Messages API, as a chunk of an OpenAI
completion, joined with its neighbours or alone. All ends share one machine's clocks.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ANSWER_TIMEOUT_S = 120.0
_STAMP = re.compile(rb"(\d+)@(\d{11,19}) ")
_ANTHROPIC_TEXT = re.compile(rb'"text_delta",\s*"text":\s*"[^"]')
_OPENAI_TEXT = re.compile(rb'"content":\s*"[^"]')


class Incomplete(Exception):
    """An answer that lost, doubled or reordered deltas: its times mean nothing."""


@dataclass
class Answer:
    """What one streamed answer looked like from outside. Times in seconds."""

    first_delta_s: float = 0.0
    ages_s: list[float] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)

    def check(self, deltas: int) -> Answer:
        """Itself when all stamped deltas are there, once and in order. Raises `Incomplete`."""
        if self.indexes != list(range(deltas)):
            raise Incomplete(f"{len(self.indexes)} of {deltas} deltas: {self.indexes[:8]} ...")
        return self


@dataclass(frozen=True)
class Question:
    """How to ask one target over HTTP, and how its text looks on the wire."""

    url: str
    headers: Mapping[str, str]
    body: Callable[[str], dict[str, Any]]
    text: re.Pattern[bytes]


def anthropic(base_url: str, *, model: str, key: str) -> Question:
    """The Messages API."""

    def body(prompt: str) -> dict[str, Any]:
        return {
            "model": model,
            "max_tokens": 1024,
            "stream": True,
            "messages": [{"role": "user", "content": prompt}],
        }

    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    return Question(f"{base_url}/v1/messages", headers, body, _ANTHROPIC_TEXT)


def openai(base_url: str, *, model: str, key: str, conversation: str | None = None) -> Question:
    """Chat completions, in a named conversation or without one."""

    def body(prompt: str) -> dict[str, Any]:
        return {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}

    headers = {"authorization": f"Bearer {key}"}
    if conversation:
        headers["x-conversation-id"] = conversation
    return Question(f"{base_url}/v1/chat/completions", headers, body, _OPENAI_TEXT)


async def ask(
    session: aiohttp.ClientSession,
    question: Question,
    prompt: str,
    *,
    within_s: float = ANSWER_TIMEOUT_S,
) -> Answer:
    """Ask and read to the end. Raises `Incomplete` for an answer that is no stream of text."""
    answer = Answer()
    began_s = time.perf_counter()
    async with asyncio.timeout(within_s), _posted(session, question, prompt) as response:
        async for lines in _whole_lines(response.content):
            arrived = now()
            if not answer.first_delta_s and question.text.search(lines):
                answer.first_delta_s = time.perf_counter() - began_s
            read_stamps(answer, lines, arrived)
            if b'{"error"' in lines:
                raise Incomplete(f"the stream ended in an error: {lines[:300]!r}")
    if not answer.first_delta_s:
        raise Incomplete(f"{question.url} answered without text")
    return answer


async def _whole_lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """All lines that are there, at once: the client must not be what is slow."""
    rest = b""
    async for chunk in content.iter_any():
        lines, end, rest = (rest + chunk).rpartition(b"\n")
        if end:
            yield lines


@dataclass(frozen=True)
class Moment:
    """Now, by both clocks that stamps are written with, in ns."""

    unix: int
    monotonic: int

    def since(self, stamp: int) -> float:
        """Seconds since a stamp; Unix time is the only one with 19 digits."""
        return ((self.unix if stamp >= 10**18 else self.monotonic) - stamp) / 1e9


def now() -> Moment:
    return Moment(time.time_ns(), time.monotonic_ns())


def read_stamps(answer: Answer, lines: bytes, arrived: Moment) -> None:
    """Take note of every stamped delta."""
    for index, stamp in _STAMP.findall(lines):
        answer.indexes.append(int(index))
        answer.ages_s.append(arrived.since(int(stamp)))


@asynccontextmanager
async def _posted(
    session: aiohttp.ClientSession, question: Question, prompt: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    posted = session.post(question.url, json=question.body(prompt), headers=question.headers)
    async with posted as response:
        if response.status != 200:
            raise Incomplete(f"{question.url}: {response.status} {await response.text()}")
        yield response


@asynccontextmanager
async def client_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections are reused, without a bound on their number.

    They are given up before uvicorn's 5 s are over, or a request would meet a closing door.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
        timeout=aiohttp.ClientTimeout(total=None),  # `ask` has its own
    ) as session:
        yield session
