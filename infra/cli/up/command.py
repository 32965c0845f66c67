"""`agcluster up`: everything on one machine, started and stopped in order.

Order: checks (settings, folder, lock, port, Redis, isolation), build of the agents' image if it is
missing, Redis, the scripted model (with --demo), then gateway, worker and API at the same time.
Nothing is started before the checks are done. Programs stop in reverse order, and nothing is left
behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which

import httpx
from pydantic import SecretStr

from infra.cli.chat.command import URL as CHAT_URL
from infra.cli.terminal import Terminal
from infra.cli.up.fleet import Fleet, ProgramEnded
from infra.cli.up.isolation import choose_isolation, make_image
from infra.cli.up.ports import free_port, port_fault, tcp_answers
from infra.cli.up.programs import MODULES, Program, bare_environment, environment, python_command
from infra.cli.up.redis_server import (
    HOW_TO_GET,
    find_redis_server,
    redis_command,
    redis_fault,
    socket_url,
)
from infra.cli.up.state_dir import InstanceLock, StateDir
from infra.runtime.lifecycle import stop_signals
from infra.runtime.settings import Isolation, Settings
from infra.store.open import open_store
from infra.wire.base import VERSION
from infra.wire.errors import AgClusterError, StoreUnavailable

READY_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 2.0
METRICS_ORDER = ("api", "worker", "gateway", "exporter")
"""Programs of one machine show their metrics on ports one after the other, in this order."""
"""Drain time in seconds at Ctrl-C, unless configured. Short, because somebody is waiting."""
_STOP_MARGIN_S = 8.0
_RETIRE_MARGIN_S = 30.0
"""Additional seconds for a worker, to interrupt turns and stop many containers on a busy
machine."""
_LEFTOVERS_S = 60.0
_PROBE_TIMEOUT_S = 5.0


class CannotStart(AgClusterError):
    """Something prevents the start; the message says what to do about it."""


@dataclass(frozen=True)
class Plan:
    """What will be started: the final settings, and which parts we run."""

    settings: Settings
    redis_server: str | None
    """The binary of our own Redis; None if the settings name an existing one."""
    model_port: int | None
    """The address of the scripted model; None without --demo."""

    @property
    def url(self) -> str:
        """The API's URL for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.settings.port}"


async def run_up(settings: Settings, terminal: Terminal) -> int:
    """Run until a signal (0) or until a program ends for good (1). Returns the exit code.

    Raises an `AgClusterError` if something prevents the start.
    """
    state = StateDir(settings.data_dir)
    state.make()
    lock = InstanceLock(state)
    try:
        with stop_signals() as stop:
            return await _run(settings, state, lock, stop, terminal)
    finally:
        lock.close()


async def _run(
    settings: Settings, state: StateDir, lock: InstanceLock, stop: asyncio.Event, terminal: Terminal
) -> int:
    begun = time.monotonic()
    failure: AgClusterError | None = None
    async with asyncio.TaskGroup() as group:
        fleet = Fleet(group, terminal, lock_fd=lock.fd)
        stopping = group.create_task(stop.wait())
        work = group.create_task(_start_and_watch(settings, state, lock, fleet, terminal, begun))
        try:
            await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if work.done():
                failure = work.result()
            else:
                terminal.step("stopping (a few seconds)")
                work.cancel()
                await asyncio.wait({work})
            killed = await fleet.stop()
    if failure is not None:
        _tell_failure(failure, terminal)
    if fleet.has_left:
        terminal.step("something is left behind; the next `agcluster up` tidies containers")
    elif failure is None:
        terminal.step("stopped, nothing left behind")
    return 1 if failure or killed or fleet.has_left else 0


async def _start_and_watch(
    settings: Settings,
    state: StateDir,
    lock: InstanceLock,
    fleet: Fleet,
    terminal: Terminal,
    begun: float,
) -> AgClusterError:
    """Start everything and wait for a failure. Returns that, or what prevented the start."""
    try:
        plan = await make_plan(settings, state, terminal)
        await fleet.open(_leftovers(plan))
        lock.describe(plan.url)
        await start_all(plan, state, fleet, terminal)
        tell_ready(plan, terminal, seconds=time.monotonic() - begun)
        return await fleet.failure()
    except AgClusterError as error:
        return error


async def make_plan(settings: Settings, state: StateDir, terminal: Terminal) -> Plan:
    """Check everything that the start depends on. Starts nothing, except the build of a missing
    image.

    Raises `CannotStart`, `NoIsolation` or `ImageNotBuilt`.
    """
    if fault := port_fault(settings.host, settings.port):
        raise CannotStart(fault)
    redis_server = None
    if settings.redis_url is None:
        redis_server = find_redis_server()
        if redis_server is None:
            raise CannotStart(f"no Redis: {HOW_TO_GET}")
    elif fault := await redis_fault(settings, patience_s=settings.redis_patience_s):
        raise CannotStart(fault)
    settings = complete(settings, state)
    model_port = free_port() if settings.demo else None
    if model_port is not None:
        upstream = {"anthropic_base_url": f"http://127.0.0.1:{model_port}"}
        settings = settings.model_copy(update=upstream)
    terminal.step("looking for something to isolate agents with")
    found = await choose_isolation(settings)
    settings = settings.model_copy(update={"isolation": found.chosen})
    terminal.detail(isolation_of(settings))
    if found.needs_image:
        await make_image(settings, terminal)
    return Plan(settings, redis_server, model_port)


def isolation_of(settings: Settings) -> str:
    """The isolation in words."""
    if settings.isolation is Isolation.DOCKER:
        return f"Docker ({settings.agent_image}, {settings.container_runtime})"
    return "bubblewrap"


def complete(settings: Settings, state: StateDir) -> Settings:
    """The settings, completed with everything that a whole deployment on one machine needs."""
    update: dict[str, object] = {"retire_on_exit": True}
    if settings.secret is None:
        update["secret"] = SecretStr(state.secret())
    if settings.redis_url is None:
        update["redis_url"] = socket_url(state.redis_socket)
        if "cluster" not in settings.model_fields_set:
            # Two instances on one machine must not treat each other's containers as orphans.
            digest = hashlib.sha256(str(state.root).encode()).hexdigest()[:8]
            update["cluster"] = f"up-{digest}"
    if settings.port == 0:
        update["port"] = free_port()
    if settings.public_url is None and settings.host in ("127.0.0.1", "::1", "localhost"):
        # Nothing but this machine's browsers can reach it.
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        update["public_url"] = f"http://{host}:{update.get('port', settings.port)}"
    if settings.demo and "questions" not in settings.model_fields_set:
        update["questions"] = True  # A part of the tour.
    if "drain_timeout_s" not in settings.model_fields_set:
        update["drain_timeout_s"] = DRAIN_TIMEOUT_S
    if "drain_notice_s" not in settings.model_fields_set:
        update["drain_notice_s"] = 0.0  # There is no load balancer in front of it.
    return settings.model_copy(update=update)


async def start_all(plan: Plan, state: StateDir, fleet: Fleet, terminal: Terminal) -> None:
    """Start the programs, each when its dependencies are ready. Raises `ProgramEnded`."""
    if plan.redis_server is not None:
        terminal.step(f"starting Redis ({plan.redis_server}), data in {state.redis}")
        redis = fleet.launch(_redis(plan, state))
        await fleet.wait_ready(redis, lambda _: _redis_answers(plan), timeout_s=READY_TIMEOUT_S)
    if plan.model_port is not None:
        terminal.step("starting the scripted model")
        model = fleet.launch(_model(plan, plan.model_port))
        listens = partial(_model_listens, plan.model_port)
        await fleet.wait_ready(model, listens, timeout_s=READY_TIMEOUT_S)
    terminal.step("starting gateway, worker and API")
    # All at once, because most of their startup is imports; each waits for those it needs.
    gateway = fleet.launch(_ours(plan, "gateway", rank=2))
    worker = fleet.launch(_ours(plan, "worker", rank=3))
    api = fleet.launch(_ours(plan, "api", rank=4))
    if plan.settings.metrics_port:
        fleet.launch(_ours(plan, "exporter", rank=5))
    await fleet.wait_ready(gateway, lambda _: _gateway_answers(plan), timeout_s=READY_TIMEOUT_S)
    await fleet.wait_ready(worker, partial(_worker_beats, plan), timeout_s=READY_TIMEOUT_S)
    await fleet.wait_ready(api, lambda _: _api_is_ready(plan), timeout_s=READY_TIMEOUT_S)


def tell_ready(plan: Plan, terminal: Terminal, *, seconds: float) -> None:
    """Print the box, and a line to copy."""
    settings = plan.settings
    model = next(iter([*settings.model_aliases, *settings.models]), "any")
    model = "claude-sonnet-4.5" if "claude-sonnet-4.5" in settings.model_aliases else model
    terminal.box(
        f"AgCluster {VERSION} is ready ({seconds:.1f} s)",
        [
            ("base URL", f"{plan.url}/v1"),
            ("API key", "any, such as sk-ant-demo" if settings.demo else "your Anthropic key"),
            ("models", f"{model}, …" + (" code-assistant, …" if settings.shipped_agents else "")),
            ("agents run in", isolation_of(settings)),
            ("upstream", "the scripted model" if settings.demo else settings.anthropic_base_url),
            ("data", str(settings.data_dir)),
            ("talk to it", _chat_command(plan)),
            ("stop", "Ctrl-C"),
        ],
    )
    body = json.dumps(
        {
            "model": model,
            "stream": True,
            "messages": [{"role": "user", "content": "What can you do?"}],
        }
    )
    key = "sk-ant-demo" if settings.demo else "$ANTHROPIC_API_KEY"
    terminal.plain(
        [
            "",
            f"curl -N {plan.url}/v1/chat/completions -H 'Content-Type: application/json' \\",
            f"  -H \"Authorization: Bearer {key}\" -d '{body}'",
            "",
        ]
    )


def _chat_command(plan: Plan) -> str:
    """What to type in another terminal."""
    key = "OPENAI_API_KEY=sk-ant-demo " if plan.settings.demo else ""
    url = f" --url {plan.url}/v1" if f"{plan.url}/v1" != CHAT_URL else ""
    own = Path(sys.argv[0])
    is_on_path = which("agcluster") is not None or own.name != "agcluster"
    return f"{key}{'agcluster' if is_on_path else own} chat{url}"


def _tell_failure(failure: AgClusterError, terminal: Terminal) -> None:
    if isinstance(failure, ProgramEnded):
        for line in failure.last_lines:
            terminal.program_line(failure.name, line)
    terminal.step(f"stopped: {failure}")


def _redis(plan: Plan, state: StateDir) -> Program:
    assert plan.redis_server is not None
    return Program(
        name="redis",
        command=redis_command(plan.redis_server, folder=state.redis, socket=state.redis_socket),
        rank=0,
        environ=bare_environment(),
        stop_timeout_s=_STOP_MARGIN_S,
        is_quiet=True,
    )


def _model(plan: Plan, port: int) -> Program:
    arguments = ("--host", "127.0.0.1", "--port", str(port), "--demo")
    return Program(
        name="model",
        command=python_command("infra.scripted_model", *arguments),
        rank=1,
        environ=bare_environment(),
        is_quiet=True,
    )


def _ours(plan: Plan, name: str, *, rank: int) -> Program:
    settings = plan.settings
    if settings.metrics_port:
        shift = METRICS_ORDER.index(name)
        update = {"metrics_port": settings.metrics_port + shift}
        settings = settings.model_copy(update=update)
    patience_s = settings.drain_timeout_s + _STOP_MARGIN_S
    if name == "worker":
        patience_s += settings.disconnect_grace_s + _RETIRE_MARGIN_S
    return Program(
        name=name,
        command=python_command(MODULES[name]),
        rank=rank,
        environ=environment(settings, program=name),
        stop_timeout_s=patience_s,
    )


def _leftovers(plan: Plan) -> Program:
    """The command to run if the worker was killed, because its agents would outlive it."""
    return Program(
        name="leftovers",
        command=python_command("worker.hosts.leftovers"),
        rank=0,
        environ=environment(plan.settings, program="leftovers"),
        stop_timeout_s=_LEFTOVERS_S,
    )


async def _redis_answers(plan: Plan) -> bool:
    return await redis_fault(plan.settings, timeout_s=_PROBE_TIMEOUT_S) is None


async def _model_listens(port: int, _: int) -> bool:
    return await tcp_answers("127.0.0.1", port)


async def _gateway_answers(plan: Plan) -> bool:
    transport = httpx.AsyncHTTPTransport(uds=str(plan.settings.gateway_socket))
    return await _is_healthy("http://gateway/health", transport)


async def _worker_beats(plan: Plan, pid: int) -> bool:
    """Whether this very process is in the registry."""
    settings = plan.settings
    async with aclosing(
        open_store(settings, name="agcluster-cli", timeout_s=_PROBE_TIMEOUT_S)
    ) as store:
        try:
            alive = await store.workers.alive()
        except StoreUnavailable:
            return False
    return any(one.host == settings.host_name and one.pid == pid for one in alive)


async def _api_is_ready(plan: Plan) -> bool:
    return await _is_healthy(f"{plan.url}/health/ready", httpx.AsyncHTTPTransport())


async def _is_healthy(url: str, transport: httpx.AsyncHTTPTransport) -> bool:
    async with httpx.AsyncClient(transport=transport, timeout=_PROBE_TIMEOUT_S) as client:
        try:
            return (await client.get(url)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
