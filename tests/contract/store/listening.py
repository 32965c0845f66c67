"""A plain subscriber, to see what scripts publish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Self

from infra.store.server.channel import listen
from tests.contract.store.scene import Scene


class Listener:
    """Subscribed from `async with` on; `next` is the next message."""

    def __init__(self, scene: Scene, channel: str) -> None:
        self._messages: AsyncGenerator[bytes | None, None] = listen(
            scene.redis, channel, purpose="test"
        )

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(10):
            assert await anext(self._messages) is None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._messages.aclose()

    async def next(self) -> bytes:
        async with asyncio.timeout(10):
            message = await anext(self._messages)
        assert message is not None
        return message
