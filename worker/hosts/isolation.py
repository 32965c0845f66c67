"""Chooses what isolates agents on this machine, and reports what is available.

A worker calls `choose_host` when it starts: Docker if an engine answers, otherwise bubblewrap,
otherwise `NoIsolation` with what to install. A tool never runs unisolated. `python -m
worker.hosts.isolation` prints the same findings as JSON for `agcluster doctor`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import TypeVar

from infra.runtime.clock import Clock
from infra.runtime.console import complain, tell
from infra.runtime.logs import configure_logs, fields
from infra.runtime.settings import Isolation, Settings, SettingsRefused, load_settings
from infra.wire.errors import ContainerFailed, NoIsolation
from worker.hosts.bubblewrap.host import BubblewrapHost, BubblewrapOptions
from worker.hosts.docker.engine import ImageStore, engine_address
from worker.hosts.docker.host import DockerHost, DockerOptions
from worker.hosts.host import ContainerHost

_CANDIDATES = {
    Isolation.AUTO: (Isolation.DOCKER, Isolation.BUBBLEWRAP),
    Isolation.DOCKER: (Isolation.DOCKER,),
    Isolation.BUBBLEWRAP: (Isolation.BUBBLEWRAP,),
}

log = logging.getLogger(__name__)
HostT = TypeVar("HostT", bound=ContainerHost)


@dataclass(frozen=True)
class IsolationFinding:
    """One kind of isolation on this machine. `detail` says why it cannot be used, and what to
    do."""

    name: str
    is_usable: bool
    detail: str


@dataclass(frozen=True)
class Probe:
    """All findings; `chosen` is what a worker would use. `image` is None without an engine.

    `advice` says what to install if nothing is chosen.
    """

    findings: tuple[IsolationFinding, ...]
    chosen: str | None
    image: IsolationFinding | None
    advice: str | None = None


def host_of(
    kind: Isolation, settings: Settings, *, clock: Clock | None = None, engine: str | None = None
) -> ContainerHost:
    """The host of one kind, unchecked. `engine` replaces the environment's engine."""
    if kind is Isolation.DOCKER:
        return DockerHost(
            settings.host_name,
            DockerOptions(
                image=settings.agent_image,
                own_images=frozenset(settings.agent_images),
                cluster=settings.cluster,
                runtime=settings.container_runtime,
                engine=engine or engine_address(),
                start_timeout_s=settings.container_start_timeout_s,
            ),
            clock=clock,
        )
    return BubblewrapHost(
        settings.host_name,
        BubblewrapOptions(
            cluster=settings.cluster,
            data_dir=settings.data_dir,
            start_timeout_s=settings.container_start_timeout_s,
        ),
        clock=clock,
    )


async def choose_host(
    settings: Settings,
    *,
    clock: Clock | None = None,
    make: Callable[..., ContainerHost] = host_of,
) -> ContainerHost:
    """A checked host, which the caller closes. Raises `NoIsolation` with what to install."""
    refusals = []
    for kind in _CANDIDATES[settings.isolation]:
        host = make(kind, settings, clock=clock)
        try:
            await host.check()
        except NoIsolation as error:
            refusals.append(f"{kind.value}: {error}")
            await host.aclose()
        except BaseException:
            await host.aclose()
            raise
        else:
            log.info("agents are isolated", extra=fields(isolation=host.name))
            return host
    raise NoIsolation(_advice(refusals))


async def probe(settings: Settings, *, make: Callable[..., ContainerHost] = host_of) -> Probe:
    """Check every kind, whatever the settings prefer."""
    findings = []
    for kind in _CANDIDATES[Isolation.AUTO]:
        async with aclosing(make(kind, settings)) as host:
            try:
                await host.check()
            except NoIsolation as error:
                findings.append(IsolationFinding(kind.value, False, str(error)))
            else:
                findings.append(IsolationFinding(kind.value, True, "works"))
    usable = {finding.name for finding in findings if finding.is_usable}
    allowed = [kind.value for kind in _CANDIDATES[settings.isolation]]
    chosen = next((name for name in allowed if name in usable), None)
    image = await asyncio.to_thread(_image, settings) if "docker" in usable else None
    refusals = [f"{one.name}: {one.detail}" for one in findings if one.name in allowed]
    return Probe(tuple(findings), chosen, image, None if chosen else _advice(refusals))


def _image(settings: Settings) -> IsolationFinding:
    store = ImageStore(timeout_s=20)
    try:
        if store.sources(settings.agent_image) is None:
            return IsolationFinding(
                settings.agent_image,
                False,
                "missing: build it with `agcluster build-image`",
            )
        return IsolationFinding(settings.agent_image, True, "is there")
    except ContainerFailed as error:
        return IsolationFinding(settings.agent_image, False, str(error))
    finally:
        store.close()


def _advice(refusals: list[str]) -> str:
    if sys.platform == "darwin":
        what = "On macOS use `docker compose up` (Docker Desktop, OrbStack or Colima)."
    elif sys.platform == "linux":
        what = (
            "Install Docker Engine (https://docs.docker.com/engine/install/), or bubblewrap: "
            "`apt install bubblewrap`, `dnf install bubblewrap`, `apk add bubblewrap` or "
            "`pip install 'agcluster[embedded]'`."
        )
    else:
        what = "Run it on Linux, or in WSL 2 on Windows."
    return "nothing here can isolate an agent. " + "; ".join(refusals) + ". " + what


def main() -> int:
    """Print the probe as JSON. Exit code 1 if nothing can isolate an agent."""
    try:
        settings = load_settings()
    except SettingsRefused as error:
        complain(str(error))
        return 2
    configure_logs("WARNING", settings.log_format)
    found = asyncio.run(probe(settings))
    tell(json.dumps(asdict(found), indent=2))
    return 0 if found.chosen else 1


if __name__ == "__main__":
    sys.exit(main())
