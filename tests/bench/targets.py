"""What is measured: the scripted model itself, and whatever stands between it and a client.

A target answers the same prompts in one or more lanes; two lanes never share a conversation. Every
target is started and stopped by its own context manager, which raises `NotHere` with the reason
when the machine lacks a part.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from tests.bench import sdk_container, streams
from tests.bench.not_here import NotHere
from tests.bench.processes import started
from tests.bench.streams import Answer, Question
from tests.e2e.deployments import GOOD_KEY, MODEL, embedded, free_port
from tests.parts import missing

AT_ONCE = "count 1"
"""Answered with one delta, at once."""
PACED = "stream {deltas} deltas every {every_ms:g} ms"
PACED_STAND_IN = "stream {deltas} every {every_ms:g} ms"
"""The stand-in agent's scripts are spelled a little differently from the scripted model's."""
LITELLM_START_S = 120.0
INSTALL_S = 1200.0


class Target(Protocol):
    """Something that answers prompts of the script language."""

    name: str
    lanes_max: int
    """Streams it can be asked for at once."""
    paced: str
    """The prompt for stamped deltas at a fixed rate."""
    is_ours: bool
    """Whether a lane nobody used yet is a conversation whose container has to start."""

    @property
    def pids(self) -> Sequence[int]:
        """The roots of its process trees; what runs in containers is not among them."""
        ...

    async def ask(self, prompt: str, *, lane: int) -> Answer:
        """One streamed answer."""
        ...


@dataclass
class HttpTarget:
    """A target behind a URL."""

    name: str
    session: aiohttp.ClientSession
    question: Callable[[int], Question]
    lanes_max: int
    pids: Sequence[int] = ()
    paced: str = PACED
    is_ours: bool = False

    async def ask(self, prompt: str, *, lane: int) -> Answer:
        return await streams.ask(self.session, self.question(lane), prompt)


def direct(session: aiohttp.ClientSession, model_url: str, pid: int) -> HttpTarget:
    """The scripted model without anything between; its CPU is the model's."""
    question = streams.anthropic(model_url, model=MODEL, key=GOOD_KEY)
    return HttpTarget("model asked directly", session, lambda lane: question, 500, [pid])


@contextmanager
def with_docker(session: aiohttp.ClientSession, model_url: str) -> Iterator[HttpTarget]:
    """`agcluster up` with real agents in Docker."""
    if reason := missing("docker") or missing("redis"):
        raise NotHere(reason)
    with embedded("docker", AGCLUSTER_ANTHROPIC_BASE_URL=model_url) as deployment:
        pids = [process.pid for process in deployment.processes]
        name = "AgCluster, real agent in Docker"
        yield cluster(name, session, deployment.base_url, pids=pids, lanes_max=4)


def cluster(
    name: str,
    session: aiohttp.ClientSession,
    base_url: str,
    *,
    pids: Sequence[int],
    lanes_max: int,
    paced: str = PACED,
) -> HttpTarget:
    """Our API; each lane is a conversation of its own."""

    def question(lane: int) -> Question:
        return streams.openai(base_url, model=MODEL, key=GOOD_KEY, conversation=f"bench-{lane}")

    return HttpTarget(name, session, question, lanes_max, pids, paced, is_ours=True)


@contextmanager
def litellm(
    session: aiohttp.ClientSession, model_url: str, program: str | None, folder: Path
) -> Iterator[HttpTarget]:
    """LiteLLM's proxy, one worker, no database, no callbacks.

    Asked for 50 streams at most: it is saturated by then, and more would only take longer.
    """
    if not program:
        raise NotHere("no `litellm` on PATH; pass --litellm or --install-litellm")
    port, key = free_port(), "sk-bench"
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {MODEL}\n"
        "    litellm_params:\n"
        f"      model: anthropic/{MODEL}\n"
        f"      api_base: {model_url}\n"
        f"      api_key: {GOOD_KEY}\n"
        f"general_settings:\n  master_key: {key}\n"
    )
    command = [program, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with started(
        [*command, "--num_workers", "1"],
        log=folder / "litellm.log",
        environ={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        ready_url=f"http://127.0.0.1:{port}/health/liveliness",
        ready_within_s=LITELLM_START_S,
    ) as process:
        question = streams.openai(f"http://127.0.0.1:{port}", model=MODEL, key=key)
        yield HttpTarget("LiteLLM proxy", session, lambda lane: question, 50, [process.pid])


def find_litellm(program: str | None, install_in: Path | None) -> str | None:
    """The program given, the one installed in that folder (now, if need be), or that on PATH."""
    if program or not install_in:
        return program or shutil.which("litellm")
    installed = install_in / "bin" / "litellm"
    if not installed.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(install_in)], check=True, timeout=120)
            pip = [str(install_in / "bin" / "pip"), "install", "-q", "litellm[proxy]"]
            subprocess.run(pip, check=True, timeout=INSTALL_S)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"litellm[proxy] could not be installed: {error}")
            return None
    return str(installed)


@dataclass
class SdkTarget:
    """The Agent SDK in a container of ours, asked without API, Redis or worker."""

    container: sdk_container.SdkContainer
    name: str = "SDK in a container, asked directly"
    lanes_max: int = 1
    pids: Sequence[int] = ()
    paced: str = PACED
    is_ours: bool = False

    async def ask(self, prompt: str, *, lane: int) -> Answer:
        return await self.container.ask(prompt)


@asynccontextmanager
async def sdk(folder: Path) -> AsyncIterator[SdkTarget]:
    """Needs Docker and the agent image; a scripted model of its own listens on a Unix socket."""
    if reason := missing("docker"):
        raise NotHere(reason)
    sockets = folder / "sdk"
    sockets.mkdir()
    for path in (folder, sockets):
        path.chmod(0o755)
    listens = [sys.executable, "-m", "infra.scripted_model", "--uds", str(sockets / "model.sock")]
    with started(listens, log=folder / "sdk-model.log"):
        async with sdk_container.started(sockets) as container:
            target = SdkTarget(container)
            await target.ask(AT_ONCE, lane=0)
            yield target
