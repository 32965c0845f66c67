"""What is measured: the scripted model itself, and whatever stands between it and a client.

A target answers the same prompts in one or more lanes; two lanes never share a conversation. Every
target is started and stopped by its own context manager, which raises `NotHere` with the reason
when the machine lacks a part.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from tests.bench import sdk_container, streams
from tests.bench.processes import started
from tests.bench.streams import Answer, Question
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment, embedded, free_port
from tests.parts import missing

WARM_UP = "count 1"
LITELLM_START_S = 120.0


class NotHere(Exception):
    """A target this machine cannot start; the message says what is missing."""


class Target(Protocol):
    """Something that answers prompts of the script language."""

    name: str
    lanes_max: int
    """Streams it can be asked for at once."""

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

    async def ask(self, prompt: str, *, lane: int) -> Answer:
        return await streams.ask(self.session, self.question(lane), prompt)


def direct(session: aiohttp.ClientSession, model_url: str, pid: int) -> HttpTarget:
    """The scripted model without anything between; its CPU is the model's."""
    question = streams.anthropic(model_url, model=MODEL, key=GOOD_KEY)
    return HttpTarget("model asked directly", session, lambda lane: question, 500, [pid])


@contextmanager
def with_docker(session: aiohttp.ClientSession) -> Iterator[tuple[HttpTarget, Deployment]]:
    """The whole cluster on this machine with real agents in Docker."""
    if reason := missing("docker") or missing("redis"):
        raise NotHere(reason)
    with embedded("docker") as deployment:
        yield (
            _cluster("AgCluster, real agent in Docker", session, deployment, lanes_max=4),
            deployment,
        )


def _cluster(
    name: str, session: aiohttp.ClientSession, deployment: Deployment, *, lanes_max: int
) -> HttpTarget:
    def question(lane: int) -> Question:
        return streams.openai(
            deployment.base_url, model=MODEL, key=GOOD_KEY, conversation=f"bench-{lane}"
        )

    pids = [process.pid for process in deployment.processes]
    return HttpTarget(name, session, question, lanes_max, pids)


@contextmanager
def litellm(
    session: aiohttp.ClientSession, model_url: str, program: str | None, folder: Path
) -> Iterator[HttpTarget]:
    """LiteLLM's proxy, one worker, no database, no callbacks."""
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
        yield HttpTarget("LiteLLM proxy", session, lambda lane: question, 500, [process.pid])


def install_litellm(folder: Path) -> str:
    """LiteLLM in an environment of its own under `folder`. Raises `NotHere` when that fails."""
    program = folder / "bin" / "litellm"
    if program.exists():
        return str(program)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
        pip = [str(folder / "bin" / "pip"), "install", "-q", "litellm[proxy]"]
        subprocess.run(pip, check=True, timeout=1200)
    except (subprocess.SubprocessError, OSError) as error:
        raise NotHere(f"litellm[proxy] could not be installed: {error}") from error
    return str(program)


@dataclass
class SdkTarget:
    """The Agent SDK in a container of ours, asked without API, Redis or worker."""

    container: sdk_container.SdkContainer
    name: str = "SDK in a container, asked directly"
    lanes_max: int = 1
    pids: Sequence[int] = ()

    async def ask(self, prompt: str, *, lane: int) -> Answer:
        return await self.container.ask(prompt)


@asynccontextmanager
async def sdk(sockets: Path) -> AsyncIterator[SdkTarget]:
    """`sockets` holds `model.sock`, on which the scripted model listens."""
    if reason := missing("docker"):
        raise NotHere(reason)
    async with sdk_container.started(sockets) as container:
        yield SdkTarget(container)
