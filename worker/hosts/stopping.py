"""Stops many containers at once, when a worker leaves for good.

One after the other, a hundred of them would take longer than a worker has to exit. A host works on
several at a time, and one that does not stop does not delay the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from infra.runtime.logs import fields
from infra.wire.errors import ContainerFailed
from worker.hosts.host import ContainerHost, ContainerId

log = logging.getLogger(__name__)


async def stop_at_once(host: ContainerHost, containers: Iterable[ContainerId]) -> None:
    """Kill and remove all of them; they have had their time to end.

    A failure is logged. Takes as long as the host's slowest call, which has a deadline.
    """
    async with asyncio.TaskGroup() as group:
        for container in containers:
            group.create_task(_stop(host, container))


async def _stop(host: ContainerHost, container: ContainerId) -> None:
    try:
        await host.stop(container, grace_s=0)
    except ContainerFailed as error:
        log.error("container not stopped: %s", error, extra=fields(id=container))
