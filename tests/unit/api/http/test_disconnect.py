"""Work ends when its client leaves, however that is learned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message

from api.http.client import offered
from api.http.disconnect import HungUp, while_connected
from infra.wire.errors import ErrorCode, RequestRefused


class Line:
    """A connection that a test hangs up. `owes_body`: it cannot tell yet."""

    is_clogged = False

    def __init__(self, *, owes_body: bool = False) -> None:
        self.tell: Callable[[], None] | None = None
        self._owes_body = owes_body

    def push(self, body: bytes) -> bool:
        return False

    def on_departure(self, tell: Callable[[], None] | None) -> bool:
        self.tell = tell
        return not self._owes_body

    def hang_up(self) -> None:
        assert self.tell is not None
        self.tell()

    @property
    def scope(self) -> dict[str, Any]:
        return {"type": "http", "extensions": offered(self)}


async def never() -> Message:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def nothing() -> str:
    await asyncio.sleep(0)
    return "done"


async def test_work_is_cancelled_when_the_connection_says_so() -> None:
    line = Line()
    was_cancelled = False

    async def work() -> None:
        nonlocal was_cancelled
        line.hang_up()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    with pytest.raises(HungUp):
        await while_connected(line.scope, never, work())
    assert was_cancelled


async def test_work_that_ends_leaves_nobody_waiting() -> None:
    line = Line()
    assert await while_connected(line.scope, never, nothing()) == "done"
    assert line.tell is None


async def test_what_went_wrong_says_more_than_a_client_that_left_meanwhile() -> None:
    line = Line()

    async def work() -> None:
        line.hang_up()
        raise RequestRefused("bad", code=ErrorCode.INVALID_REQUEST)

    with pytest.raises(RequestRefused):
        await while_connected(line.scope, never, work())


async def test_a_deadline_of_the_work_itself_is_no_hang_up() -> None:
    line = Line()

    async def work() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await while_connected(line.scope, never, work())


@pytest.mark.parametrize("line", [None, Line(owes_body=True)], ids=["none", "owes a body"])
async def test_a_connection_that_cannot_tell_is_watched(line: Line | None) -> None:
    scope = line.scope if line else {"type": "http"}
    assert await while_connected(scope, never, nothing()) == "done"
    with pytest.raises(HungUp):
        await while_connected(scope, gone, asyncio.Event().wait())


async def test_a_follower_that_owes_a_body_just_leaves() -> None:
    """Its stream watches for its leaving, and so reads what it sends."""

    async def receive() -> Message:
        raise RequestRefused("too slow", code=ErrorCode.REQUEST_TIMEOUT)

    line = Line(owes_body=True)
    with pytest.raises(HungUp):
        await while_connected(line.scope, receive, asyncio.Event().wait())
