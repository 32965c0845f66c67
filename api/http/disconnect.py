"""Stops work for a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from infra.wire.errors import AgClusterError, RequestRefused

T = TypeVar("T")


class HungUp(AgClusterError):
    """The client closed its connection before its answer was complete."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client disconnects (raises `HungUp`).

    Our errors are raised as they are, not wrapped in a group.
    """
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
