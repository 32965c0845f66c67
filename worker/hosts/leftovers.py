"""`python -m worker.hosts.leftovers`: stops every agent of this host whose worker was killed.

The last step of an `agcluster up` that had to kill its worker, or was killed itself: no other
worker will continue with these agents. It uses the container host and nothing else, neither Redis
nor conversations. The next worker finds the records and sees that the agents are gone.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import aclosing

from infra.runtime.console import complain
from infra.runtime.logs import configure_logs, fields
from infra.runtime.settings import Settings, load_settings
from infra.wire.errors import AgClusterError
from worker.hosts.host import ContainerHost
from worker.hosts.isolation import choose_host
from worker.hosts.stopping import stop_at_once

log = logging.getLogger(__name__)

_LOOKS = 5
"""Seconds in which a call that the worker made before it died may still create a container."""


async def stop_leftovers(host: ContainerHost) -> int:
    """Stop everything until nothing is left. Returns how many are left nevertheless.

    Raises `ContainerFailed`.
    """
    left = [one.id for one in await host.list()]
    for _ in range(_LOOKS):
        if not left:
            break
        log.info("stopping what a worker left", extra=fields(containers=len(left)))
        await stop_at_once(host, left)
        left = [one.id for one in await host.list()]
    return len(left)


async def _run(settings: Settings) -> int:
    async with aclosing(await choose_host(settings)) as host:
        return await stop_leftovers(host)


def main() -> int:
    """Exit status 1 if something is left, or nothing could be done."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        return 1 if asyncio.run(_run(settings)) else 0
    except AgClusterError as error:
        complain(f"agcluster: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
