"""Stops work for a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope

from api.http.client import connection_of
from infra.wire.errors import AgClusterError, RequestRefused

T = TypeVar("T")


class HungUp(AgClusterError):
    """The client closed its connection before its answer was complete."""


async def while_connected(scope: Scope, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client disconnects (raises `HungUp`).

    The connection tells if it can (`api.http.client`); otherwise a task waits for it. Our errors
    are raised as they are, not wrapped in a group.
    """
    connection = connection_of(scope)
    block = asyncio.timeout(None)

    def leave() -> None:
        block.reschedule(asyncio.get_running_loop().time())

    try:
        async with block:
            if connection is None or not connection.on_departure(leave):
                return await _watched(receive, work)
            try:
                return await work
            finally:
                connection.on_departure(None)
    except TimeoutError:
        if block.expired():
            raise HungUp("the client hung up") from None
        raise


async def _watched(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    failure: AgClusterError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_until_gone(receive))
            try:
                result = await work
            except AgClusterError as error:
                failure = error
            watcher.cancel()
    except* HungUp:
        # If the work itself failed at the same moment, that error says more.
        failure = failure or HungUp("the client hung up")
    if failure is not None:
        raise failure
    return result


async def _until_gone(receive: Receive) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except RequestRefused as error:
        # The client does not send the rest of a body that nobody needs.
        raise HungUp(error.message) from error
    raise HungUp("the client hung up")
