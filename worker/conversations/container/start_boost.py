"""Takes the CPUs of its start from a container once its agent works (`container_start_cpus`).

A start has to do two things at once, a CLI's boot and Python's imports; a turn has not. Beside the
turn, because nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from infra.runtime.logs import fields
from infra.wire.errors import ContainerFailed
from worker.hosts.host import Container, ContainerId
from worker.parts import HostParts

log = logging.getLogger(__name__)


class StartBoost:
    """The CPUs of one conversation's container. `run` is its task."""

    def __init__(self, parts: HostParts, *, container: Callable[[], Container | None]) -> None:
        """`container` returns the conversation's current container."""
        self._host = parts.host
        self._cpus = parts.isolation.container_cpus
        self._is_needed = parts.isolation.container_start_cpus > self._cpus
        self._container = container
        self._limited: ContainerId | None = None
        self._over = asyncio.Event()

    def over(self) -> None:
        """The agent has sent an event. Called with each turn's first: a container may be from
        another worker, and a limit that failed is tried again."""
        container = self._container()
        if self._is_needed and container is not None and container.id != self._limited:
            self._over.set()

    async def run(self) -> None:
        """Limit containers whose start is over, until cancelled."""
        while True:
            await self._over.wait()
            self._over.clear()
            if (container := self._container()) is None:
                continue
            if container.form.cpus is not None:
                self._limited = container.id  # Its own limit holds from its start on.
                continue
            try:
                await self._host.limit_cpus(container.id, self._cpus)
            except ContainerFailed as error:
                told = fields(id=container.id)
                log.warning("container keeps its first CPUs: %s", error, extra=told)
            else:
                self._limited = container.id
