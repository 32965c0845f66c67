"""How long a chat's client waits for an answer, and what it does when the connection is cut."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from infra.cli.chat.client import ChatClient, ChatFailed


class Hours:
    """A clock that the service turns."""

    now_s = 0.0


@pytest.fixture
def hours() -> Hours:
    return Hours()


def chunk(number: int, text: str) -> bytes:
    told = {"id": "chatcmpl-1", "choices": [{"delta": {"content": text}}]}
    return f"id: {number}\ndata: {json.dumps(told)}\n\n".encode()


class Cut(httpx.SyncByteStream):
    """Text, minutes of pings, then nothing more."""

    def __init__(self, hours: Hours) -> None:
        self._hours = hours

    def __iter__(self) -> Iterator[bytes]:
        yield chunk(1, "one ")
        for _ in range(12):
            self._hours.now_s += 10
            yield b": ping\n\n"
        raise httpx.ReadError("cut")


def client(answer: httpx.MockTransport, hours: Hours) -> ChatClient:
    def wait(seconds: float) -> None:
        hours.now_s += seconds

    http = httpx.Client(transport=answer, base_url="http://service/v1")
    return ChatClient(http, name="n", model="m", wait=wait, now=lambda: hours.now_s)


def test_a_long_silence_before_a_cut_costs_no_word(hours: Hours) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            return httpx.Response(200, stream=Cut(hours))
        return httpx.Response(200, content=chunk(2, "two") + b"data: [DONE]\n\n")

    said = "".join(piece.text for piece in client(httpx.MockTransport(answer), hours).ask("go"))
    assert said == "one two"
    assert [request.method for request in asked] == ["POST", "GET"]
    assert asked[1].url.params["starting_after"] == "1"


def test_a_service_that_stays_away_is_given_up(hours: Hours) -> None:
    tries = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries == 1:
            return httpx.Response(200, stream=Cut(hours))
        raise httpx.ConnectError("refused")

    with pytest.raises(ChatFailed, match="does not answer any more"):
        list(client(httpx.MockTransport(answer), hours).ask("go"))
    assert tries > 10


def test_a_service_that_is_not_there_is_said_at_once(hours: Hours) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ChatFailed, match=r"http://service/v1/ cannot be reached: refused"):
        list(client(httpx.MockTransport(answer), hours).ask("go"))
    assert hours.now_s == 0
