"""What `agcluster doctor` checks in the container of one program: that program, and no other.

Nothing is installed or started: it reports whether the program that runs here answers, and whether
its dependencies do. Changes nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path

import httpx

from infra.cli.file_store_doctor import look_at_files
from infra.cli.findings import Finding, Verdict
from infra.cli.up.isolation import probe_isolations
from infra.cli.up.redis_server import redis_fault
from infra.runtime.settings import Settings
from infra.store.open import open_store
from infra.wire.errors import AgClusterError
from infra.wire.states import WorkerState

MODULES = {
    "api.main": "api",
    "worker.main": "worker",
    "worker.gateway.main": "gateway",
    "worker.engine_proxy.main": "engine-proxy",
}
_TIMEOUT_S = 5.0

Look = Callable[[Settings], Awaitable[Finding]]


PROGRAM = "_AGCLUSTER_PROGRAM"
"""Set in the environment of a container that sees the host's processes, so that process 1 says
nothing."""


def running_program(
    proc: Path = Path("/proc"), environ: Mapping[str, str] = os.environ
) -> str | None:
    """The program that this container is for; None if it is for something else.

    It is process 1, or the program that an init there was told to start, unless the environment
    says otherwise.
    """
    if (told := environ.get(PROGRAM)) in MODULES.values():
        return told
    try:
        words = (proc / "1" / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    for word, following in itertools.pairwise(words):
        if Path(word).name == "launch.py" and following in MODULES:
            return MODULES[following]
        if Path(word).name == "agcluster" and following in MODULES.values():
            return following
    return None


async def examine_program(program: str, settings: Settings) -> list[Finding]:
    """Check the program and its dependencies."""
    return [await look(settings) for look in _LOOKS[program]]


async def _redis(settings: Settings) -> Finding:
    if settings.redis_url is None:
        return Finding("redis", Verdict.MISSING, "AGCLUSTER_REDIS_URL is not set", "set it")
    if fault := await redis_fault(settings, timeout_s=_TIMEOUT_S):
        return Finding("redis", Verdict.MISSING, fault, "start it, or mend AGCLUSTER_REDIS_URL")
    return Finding("redis", Verdict.OK, "the Redis of AGCLUSTER_REDIS_URL answers")


async def _secret(settings: Settings) -> Finding:
    if settings.secret is None:
        remedy = "the same for API and gateways: make env"
        return Finding("secret", Verdict.MISSING, "AGCLUSTER_SECRET is not set", remedy)
    return Finding("secret", Verdict.OK, "given by AGCLUSTER_SECRET")


async def _api(settings: Settings) -> Finding:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return await _health(f"http://{host}:{settings.port}/health/ready", "api", None)


async def _gateway(settings: Settings) -> Finding:
    transport = httpx.AsyncHTTPTransport(uds=str(settings.gateway_socket))
    return await _health("http://gateway/health", "gateway", transport)


async def _health(url: str, name: str, transport: httpx.AsyncHTTPTransport | None) -> Finding:
    try:
        async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S) as client:
            answer = await client.get(url)
    except httpx.HTTPError as error:
        text = f"does not answer ({type(error).__name__})"
        return Finding(name, Verdict.MISSING, text, "its log says why")
    if answer.status_code == httpx.codes.OK:
        return Finding(name, Verdict.OK, "runs and is ready")
    return Finding(name, Verdict.NOTE, f"answers, but is not ready: {answer.text[:200]}")


async def _worker(settings: Settings) -> Finding:
    try:
        async with aclosing(
            open_store(settings, name="agcluster-cli", timeout_s=_TIMEOUT_S)
        ) as store:
            alive = await store.workers.alive()
    except AgClusterError as error:
        return Finding("worker", Verdict.MISSING, f"the registry cannot be read: {error}")
    ours = [one for one in alive if one.host == settings.host_name]
    if not ours:
        text = f"no worker of host {settings.host_name} has told Redis that it lives"
        return Finding("worker", Verdict.MISSING, text, "its log says why")
    told = ", ".join(f"{one.worker} is {one.state}" for one in ours)
    if any(one.state is WorkerState.FAILING for one in ours):
        remedy = "its log says why, on the line `engine failing`; it tries again by itself"
        return Finding("worker", Verdict.NOTE, told, remedy)
    return Finding("worker", Verdict.OK, told)


async def _workers(settings: Settings) -> Finding:
    """The workers of the cluster, because an API replica needs one."""
    try:
        async with aclosing(
            open_store(settings, name="agcluster-cli", timeout_s=_TIMEOUT_S)
        ) as store:
            alive = await store.workers.alive()
    except AgClusterError as error:
        return Finding("workers", Verdict.NOTE, f"unknown: {error}")
    ready = sum(one.state is WorkerState.READY for one in alive)
    text = f"{ready} of {len(alive)} ready"
    if ready:
        return Finding("workers", Verdict.OK, text)
    return Finding("workers", Verdict.NOTE, text, "turns wait until one is")


async def _isolation(settings: Settings) -> Finding:
    try:
        found = await probe_isolations(settings)
    except AgClusterError as error:
        return Finding("isolation", Verdict.MISSING, str(error))
    if found.chosen is None:
        return Finding("isolation", Verdict.MISSING, "nothing isolates agents here", found.advice)
    details = "\n".join(one.detail for one in found.findings if one.name == found.chosen)
    if found.needs_image and found.image and not found.image.is_usable:
        text = f"{found.image.name} {found.image.detail}"
        return Finding("isolation", Verdict.MISSING, text, "agcluster build-image, on the host")
    return Finding("isolation", Verdict.OK, f"{found.chosen}: {details}")


async def _engine(settings: Settings) -> Finding:
    found = await _isolation(settings)
    return Finding("engine", found.verdict, found.text, found.remedy)


async def _upstream(settings: Settings) -> Finding:
    url = settings.anthropic_base_url
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            answer = await client.get(f"{url}/v1/models")
    except httpx.HTTPError as error:
        text = f"{url} does not answer ({type(error).__name__})"
        return Finding("upstream", Verdict.NOTE, text, "look at AGCLUSTER_ANTHROPIC_BASE_URL")
    return Finding("upstream", Verdict.OK, f"{url} answers (HTTP {answer.status_code})")


_LOOKS: dict[str, tuple[Look, ...]] = {
    "api": (_secret, _redis, look_at_files, _workers, _upstream, _api),
    "worker": (_redis, look_at_files, _isolation, _gateway, _worker),
    "gateway": (_secret, _upstream, _gateway),
    "engine-proxy": (_engine,),
}
"""The program itself comes last, because its dependencies explain why it does not answer."""
