"""Brings an agent's bundle to this host, before a container is started that sees it."""

from __future__ import annotations

import asyncio

from infra.wire.agents.bundle import BundleRefused
from infra.wire.errors import ContainerFailed
from worker.parts import ConversationParts
from worker.waiting import until_store_answers


class BundleAtHand:
    """The bundles that one conversation's agents need."""

    def __init__(self, parts: ConversationParts) -> None:
        self._parts = parts

    async def bring(self, digest: str) -> None:
        """Have it unpacked here. Keeps trying while Redis is unavailable.

        Raises `ContainerFailed` if it is not kept, is damaged, or does not fit on the disk, and
        `LeaseLost`.
        """
        bundles, profiles = self._parts.folders.bundles, self._parts.profiles
        try:
            if await asyncio.to_thread(bundles.use, digest):
                return
            raw = await until_store_answers(lambda: profiles.bundle(digest), self._parts.clock)
            if raw is None:
                raise ContainerFailed(f"bundle {digest} is not kept")
            await asyncio.to_thread(bundles.put, digest, raw)
        except (BundleRefused, OSError) as error:
            raise ContainerFailed(f"bundle {digest} cannot be used: {error}") from error
