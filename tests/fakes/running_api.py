"""An API replica served on loopback, with an echo worker behind it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai
from fakeredis import FakeAsyncRedis, FakeServer

from api.deps import ApiDeps
from api.main import listen, serve_until
from api.replica import running_replica, upstream_client
from infra.runtime.clock import SystemClock
from infra.runtime.settings import Settings
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.connection import connect
from infra.wire.ids import TurnId, WorkerId
from tests.fakes.echo_worker import EchoWorker, Step
from tests.fakes.redis_server import real_redis

KEY = "sk-ant-test-0123456789"
MODEL = "claude-sonnet-4-5-20250929"
SETTINGS = Settings.model_validate(
    {
        "secret": "test-secret-test-secret-test-secret-",
        "port": 0,
        "key_check": False,
        "upstream_models": False,
        "drain_timeout_s": 0,
        "drain_notice_s": 0.2,
        "commit_after_s": 20,
        "shipped_agents": False,
    }
)


@dataclass
class RunningApi:
    """What a test talks to and looks at."""

    deps: ApiDeps
    store: Store
    worker: EchoWorker
    url: str
    http: httpx.AsyncClient
    """With the key and the URL."""
    stop: asyncio.Event

    def openai(self, **options: Any) -> openai.AsyncOpenAI:
        """The official client; close it (`async with`)."""
        defaults: dict[str, Any] = {"api_key": KEY, "max_retries": 0, "timeout": 30}
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **(defaults | options))

    async def chat(self, prompt: str, **more: Any) -> httpx.Response:
        """One turn; `headers` go to the headers, all else into the body."""
        headers = more.pop("headers", None)
        return await self.http.post(
            "/v1/chat/completions", json=body(prompt, **more), headers=headers
        )


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}


class InlineQueue:
    """Placement without Redis' blocking pops, which fakeredis leaves running behind a test."""

    def __init__(self) -> None:
        self.hints: asyncio.Queue[TurnId] = asyncio.Queue()

    async def enqueue(self, turn: TurnId, owner: WorkerId | None) -> None:
        self.hints.put_nowait(turn)

    async def enqueue_side(self, turn: TurnId) -> None:
        self.hints.put_nowait(turn)


async def until(is_true: Callable[[], object], *, timeout_s: float = 20) -> None:
    """For what no signal tells: state inside the product that a test must not reach into."""
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


@asynccontextmanager
async def real_store() -> AsyncIterator[Store]:
    """A store on a redis-server of its own: several times as fast as fakeredis under load."""
    async with (
        real_redis() as server,
        aclosing(connect(server.url, timeout_s=20, name="test")) as redis,
    ):
        yield store_on(redis, Keys("test"))


@asynccontextmanager
async def running_api(
    script: Mapping[str, Sequence[Step]] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    store: Store | None = None,
    has_worker: bool = True,
    is_heard_live: Callable[[int], bool] = lambda n: True,
    log_every: int = 1,
) -> AsyncIterator[RunningApi]:
    """Everything up, on fakeredis unless a store is given; torn down in order."""
    async with AsyncExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory())
        given = (
            SETTINGS.model_dump(exclude_unset=True) | {"data_dir": folder} | dict(settings or {})
        )
        chosen = Settings.model_validate(given)
        hints = None
        if store is None:
            redis = FakeAsyncRedis(server=FakeServer())
            held.push_async_callback(redis.aclose)
            queue: Any = InlineQueue()
            hints = queue.hints
            store = replace(store_on(redis, Keys("test")), queue=queue)
        worker = EchoWorker(
            store, script, hints=hints, is_heard_live=is_heard_live, log_every=log_every
        )
        if has_worker:
            await held.enter_async_context(worker.running())
        upstream = await held.enter_async_context(upstream_client())
        deps = await held.enter_async_context(
            running_replica(chosen, store=store, upstream=upstream, clock=SystemClock())
        )
        listener = listen(chosen)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stop = asyncio.Event()
        async with (
            asyncio.TaskGroup() as group,
            httpx.AsyncClient(
                base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=30
            ) as http,
        ):
            group.create_task(serve_until(stop, deps, listener))
            try:
                yield RunningApi(deps, store, worker, url, http, stop)
            finally:
                stop.set()
