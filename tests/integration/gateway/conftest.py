"""A real gateway in the test's event loop, between a real client and the scripted model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
import uvloop

from infra.runtime.clock import SystemClock
from infra.runtime.sealing import SealContext, Sealer
from infra.runtime.settings import EgressPolicy
from infra.wire.agents.mcp import McpServer
from infra.wire.gateway import OpenSession, OpenTurn, TurnMeter
from infra.wire.ids import ConversationKey, Fence, TenantId, TurnId
from infra.wire.options import NO_OPTIONS, NO_TURN_OPTIONS, ConversationOptions, TurnOptions
from infra.wire.socket_folder import MODEL_SOCKET
from tests.fakes.scripted_model import RunningModel, running_model
from worker.gateway.egress.proxy import EgressRules
from worker.gateway.main import GatewayConfig, Outside, serve
from worker.gateway_client.client import GatewayClient

SECRET = b"a secret of the cluster with 32 bytes and more"
KEY = "sk-ant-canary-0123456789abcdef"
CONVERSATION = ConversationKey("c" * 24)
TENANT = TenantId("t" * 20)
TURN = TurnId("turn_" + "1" * 32)
PATIENCE_S = 20.0


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway's process runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path: names of Unix sockets are."""
    made = Path(tempfile.mkdtemp(prefix="agc-gw-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def model() -> AsyncIterator[RunningModel]:
    async with running_model() as running:
        yield running


@dataclass
class Host:
    """One host: its gateway, which can be restarted, its worker's client, and its agents."""

    config: GatewayConfig
    surroundings: Outside = field(default_factory=Outside)
    worker: GatewayClient = field(init=False)

    def __post_init__(self) -> None:
        self.worker = GatewayClient(self.config.control_socket, timeout_s=PATIENCE_S)

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[asyncio.Event]:
        """Runs in the block; the event stops it earlier."""
        stop, is_ready = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                serve(self.config, stop, surroundings=self.surroundings, is_ready=is_ready)
            )
            async with asyncio.timeout(PATIENCE_S):
                await is_ready.wait()
            try:
                yield stop
            finally:
                stop.set()

    def folder(self, conversation: ConversationKey = CONVERSATION) -> Path:
        made = self.config.data_dir / "s" / conversation
        made.mkdir(parents=True, mode=0o700, exist_ok=True)
        return made

    async def open_session(
        self, conversation: ConversationKey = CONVERSATION, *, fence: int = 1
    ) -> Path:
        folder = self.folder(conversation)
        request = OpenSession(socket_dir=str(folder), fence=Fence(fence))
        await self.worker.open_session(conversation, request)
        return folder

    async def open_turn(
        self,
        turn: TurnId = TURN,
        *,
        key: str = KEY,
        fence: int = 1,
        lasts_s: float = 60.0,
        models: tuple[str, ...] = (),
        budget_tokens: int | None = None,
        options: ConversationOptions = NO_OPTIONS,
        mcp_servers: Mapping[str, McpServer] | None = None,
        turn_options: TurnOptions = NO_TURN_OPTIONS,
    ) -> OpenTurn:
        expires_ms = self.surroundings.clock.unix_ms() + int(lasts_s * 1000)
        context = SealContext(TENANT, CONVERSATION, turn, expires_ms)
        request = OpenTurn(
            turn=turn,
            tenant=TENANT,
            conversation=CONVERSATION,
            fence=Fence(fence),
            sealed_key=Sealer(SECRET).seal(key, context),
            expires_ms=expires_ms,
            models=models,
            budget_tokens=budget_tokens,
            options=options,
            mcp_servers=mcp_servers or {},
            turn_options=turn_options,
        )
        await self.worker.open_turn(request)
        return request

    async def close_turn(self, turn: TurnId = TURN) -> TurnMeter:
        return await self.worker.close_turn(CONVERSATION, turn)


@asynccontextmanager
async def agent_at(folder: Path, name: str = MODEL_SOCKET) -> AsyncIterator[aiohttp.ClientSession]:
    """What the CLI is to the gateway: an HTTP client on the session's socket."""
    connector = aiohttp.UnixConnector(path=str(folder / name))
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(
        "http://api.local", connector=connector, timeout=timeout
    ) as session:
        yield session


def asking(prompt: str, *, stream: bool = True, model: str = "claude-test") -> dict[str, object]:
    """The body of a model call."""
    return {
        "model": model,
        "max_tokens": 100,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }


@pytest.fixture
def config(data_dir: Path) -> GatewayConfig:
    """The upstream is filled in where there is one."""
    return GatewayConfig(
        data_dir=data_dir,
        control_socket=data_dir / "gateway" / "control.sock",
        secret=SECRET,
        upstream_url="http://127.0.0.1:9",
        egress=EgressRules(EgressPolicy.PUBLIC),
        drain_timeout_s=0.0,
    )


HostMaker = Callable[..., Host]


@pytest.fixture
async def make_host(config: GatewayConfig) -> AsyncIterator[HostMaker]:
    """Hosts whose gateway is not running yet; keywords change the gateway's config."""
    async with AsyncExitStack() as closing:

        def make(*, surroundings: Outside | None = None, **changes: object) -> Host:
            changed = replace(config, **changes)  # type: ignore[arg-type] # fields by name
            host = Host(changed, surroundings or Outside(clock=SystemClock()))
            closing.push_async_callback(host.worker.aclose)
            return host

        yield make


@pytest.fixture
async def host(make_host: HostMaker, model: RunningModel) -> AsyncIterator[Host]:
    """A host with a running gateway in front of the scripted model."""
    made = make_host(upstream_url=model.url)
    async with made.gateway():
        yield made
