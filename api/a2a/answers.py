"""How a running task is answered: update by update, or when it has ended or waits."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from typing import Any

from a2a.types import SendMessageResponse, StreamResponse, Task
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.a2a.errors import ProtocolRefusal, ToldFailure, failure_of
from api.a2a.growing import GrowingTask
from api.a2a.service import RunningTask
from api.http.disconnect import HungUp, while_connected
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError

log = logging.getLogger(__name__)

STREAM_HEADERS = {
    "cache-control": "no-cache, no-store",
    "content-type": "text/event-stream; charset=utf-8",
    "x-accel-buffering": "no",
}
_PING = b": ping\n\n"


class Binding:
    """How a binding wraps what it tells. This one: HTTP+JSON."""

    media_type = "application/a2a+json"

    def told(self, result: Any) -> Any:
        """A result."""
        return result

    def failed(self, failure: ToldFailure) -> Any:
        """An error."""
        return {"error": failure.rest()}

    def status(self, failure: ToldFailure) -> int:
        """The HTTP status of an error."""
        return failure.status

    def answer(self, result: Message | None) -> Response:
        """A complete answer."""
        told = {} if result is None else MessageToDict(result)
        return self.answer_with(told)

    def answer_with(self, result: Any) -> Response:
        """A complete answer of plain JSON."""
        return Response(_json(self.told(result)), media_type=self.media_type)

    def plain(self, told: Any) -> Response:
        """Something that no binding wraps."""
        return Response(_json(told), media_type="application/json")

    def refusal(self, error: AgClusterError | ProtocolRefusal) -> Response:
        """A complete answer that is an error."""
        failure = failure_of(error)
        return Response(
            _json(self.failed(failure)),
            self.status(failure),
            dict(failure.headers),
            media_type="application/json",
        )


class RpcBinding(Binding):
    """JSON-RPC 2.0: the answer to the call with this id."""

    media_type = "application/json"

    def __init__(self, id: str | int | None) -> None:
        self._id = id

    def told(self, result: Any) -> Any:
        return {"jsonrpc": "2.0", "id": self._id, "result": result}

    def failed(self, failure: ToldFailure) -> Any:
        return {"jsonrpc": "2.0", "id": self._id, "error": failure.rpc()}

    def status(self, failure: ToldFailure) -> int:
        return failure.rpc_status


class _TaskAnswer(Response):
    """Owns the open turn and leaves it, whatever happens."""

    def __init__(self, running: RunningTask, binding: Binding, *, clock: Clock) -> None:
        super().__init__()
        self._running = running
        self._binding = binding
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        turn = self._running.turn
        has_hung_up = True
        try:
            await while_connected(scope, receive, self._run(scope, receive, send))
            has_hung_up = False
        except HungUp:
            log.debug("client left", extra=fields(turn=turn.id))
        finally:
            turn.leave(hung_up=has_hung_up)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async def _next(self, *, until_s: float = math.inf) -> list[StreamResponse]:
        """The updates of the next events. None if `until_s` (monotonic) came first."""
        relay = self._running.turn.relay
        events = await relay.next(until_s=until_s)
        first = relay.cursor - len(events) + 1
        return self._running.updates.of(events, first=first, at_ms=self._clock.unix_ms())


class WholeTask(_TaskAnswer):
    """The task when it has ended or waits for its user."""

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = GrowingTask(self._running.task)
        try:
            while not self._running.updates.is_ended:
                task.add(await self._next())
            answer = self._binding.answer(SendMessageResponse(task=task.told()))
        except AgClusterError as error:
            answer = self._binding.refusal(error)
        await self._running.turn.answered()
        await answer(scope, receive, send)


class TaskStream(_TaskAnswer):
    """The task, then its updates as server-sent events, up to one that ends it or waits.

    The first event is the task as it stands. If this replica has to stop, or cannot go on, an error
    ends the stream; the task runs on, and any replica lets its client subscribe to it again.
    """

    def __init__(
        self,
        running: RunningTask,
        binding: Binding,
        *,
        clock: Clock,
        ping_interval_s: float,
        send_timeout_s: float,
    ) -> None:
        super().__init__(running, binding, clock=clock)
        self._ping_interval_s = ping_interval_s
        self._send_timeout_s = send_timeout_s

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _begin(send)
        await self._send(send, [StreamResponse(task=self._running.task)])
        try:
            while not self._running.updates.is_ended:
                until_s = self._clock.monotonic() + self._ping_interval_s
                await self._send(send, await self._next(until_s=until_s))
        except HungUp:
            raise
        except AgClusterError as error:
            log.info("stream failed", extra=fields(turn=self._running.turn.id, code=error.code))
            failed = self._binding.failed(failure_of(error))
            await self._write(send, b"event: error\n" + event_of(failed))
        await self._running.turn.answered()
        await self._write(send, b"", more=False)

    async def _send(self, send: Send, updates: list[StreamResponse]) -> None:
        told = [event_of(self._binding.told(MessageToDict(update))) for update in updates]
        await self._write(send, b"".join(told) or _PING)

    async def _write(self, send: Send, body: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            log.warning("client reads nothing; dropped")
            raise HungUp("the client reads nothing") from None


class LoneTask(Response):
    """A stream of nothing but the task: it waits for its user."""

    def __init__(self, task: Task, binding: Binding) -> None:
        told = event_of(binding.told(MessageToDict(StreamResponse(task=task))))
        super().__init__(told, headers=STREAM_HEADERS)


async def _begin(send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def event_of(told: Any) -> bytes:
    """An event of a stream."""
    return b"data: " + _json(told) + b"\n\n"


def _json(told: Any) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()
