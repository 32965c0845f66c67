"""One request of an agent to an MCP server: sent, and its answer passed back."""

from __future__ import annotations

import asyncio
import logging

from infra.runtime.logs import fields
from worker.gateway.egress.carrying import (
    CarriedBytes,
    CarryingWatch,
    EgressLimits,
    EgressRefused,
    LimitReached,
    Streams,
    watched,
)
from worker.gateway.egress.mcp import (
    McpRefused,
    McpRequest,
    McpSecrets,
    connected_to,
    request_to,
)
from worker.gateway.egress.mcp_answer import ANSWER_MAX_BYTES, McpAnswerRefused, passed_on
from worker.gateway.egress.request import ProxyRequest

log = logging.getLogger(__name__)

HEAD_END = b"\r\n\r\n"


class McpCalls:
    """Carries out the requests to MCP servers."""

    def __init__(self, secrets: McpSecrets, limits: EgressLimits) -> None:
        """`secrets` are the operator's."""
        self._secrets = secrets
        self._limits = limits

    async def ask(self, carried: CarriedBytes, request: ProxyRequest, agent: Streams) -> None:
        """Pass one request on, and its answer back.

        Raises `EgressRefused` as long as nothing of an answer was passed on; later `LimitReached`
        or `OSError`.
        """
        try:
            turn = carried.turn
            asked = request_to(
                request,
                turn.mcp_servers,
                self._secrets,
                turn.callers_secrets.reveal(),
                turn.tokens.of,
            )
            body = await self._read_body(agent[0], asked.body_bytes)
            server = await connected_to(asked)
        except McpRefused as error:
            raise EgressRefused(error.status, error.message, detail=error.detail) from error
        try:
            server[1].writelines((asked.head, body))
            carried.sent = len(body)
            del body
            await self._answer_in_time(carried, asked, agent, server)
        finally:
            server[1].close()
            told = fields(**carried.told, sent=carried.sent, received=carried.received)
            log.info("mcp asked", extra=told)

    async def _read_body(self, reader: asyncio.StreamReader, size: int) -> bytes:
        try:
            async with asyncio.timeout(self._limits.head_timeout_s):
                return await reader.readexactly(size)
        except TimeoutError as error:
            raise EgressRefused(408, "the request's body did not come") from error
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("left before the body's end") from error

    async def _answer_in_time(
        self, carried: CarriedBytes, asked: McpRequest, agent: Streams, server: Streams
    ) -> None:
        """A server that sends a byte now and then would hold its caller for ever."""
        try:
            async with asyncio.timeout(asked.timeout_s) as patience:
                await _answer(agent, server, carried, self._limits)
        except McpAnswerRefused as error:
            raise EgressRefused(502, error.message, detail=error.detail) from error
        except TimeoutError as error:
            if not patience.expired():
                raise
            if not carried.received:
                raise EgressRefused(504, "the MCP server does not answer in time") from error
            raise LimitReached(f"no whole answer within {asked.timeout_s:g} s") from error


async def _answer(
    agent: Streams, server: Streams, carried: CarriedBytes, limits: EgressLimits
) -> None:
    """Pass an answer on to its end. Raises `McpAnswerRefused`, `LimitReached` or `OSError`; the
    latter also if the agent leaves before."""
    refused: list[McpAnswerRefused] = []

    async def pump(leaving: asyncio.Task[None]) -> None:
        for begin in range(0, carried.sent, carried.bounds.chunk_bytes):
            await watch.passed(min(carried.bounds.chunk_bytes, carried.sent - begin))
        await server[1].drain()
        try:
            agent[1].write(await _head(server[0]))
            await _pass_body(agent, server, carried, watch)
        except McpAnswerRefused as error:  # A group would wrap it.
            refused.append(error)
        leaving.cancel()

    async def until_left() -> None:
        while await agent[0].read(carried.bounds.chunk_bytes):
            continue  # What else it writes reaches nobody.
        raise ConnectionResetError("the agent left")

    async with watched(carried, limits) as (watch, group):
        group.create_task(pump(group.create_task(until_left())))
    if refused:
        raise refused[0]


async def _head(server: asyncio.StreamReader) -> bytes:
    """The answer's head as the agent gets it. Raises `McpAnswerRefused`."""
    try:
        return passed_on(await server.readuntil(HEAD_END))
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError) as error:
        detail = type(error).__name__
        raise McpAnswerRefused("the MCP server does not speak HTTP", detail=detail) from error


async def _pass_body(
    agent: Streams, server: Streams, carried: CarriedBytes, watch: CarryingWatch
) -> None:
    """Raises `LimitReached`."""
    while data := await server[0].read(carried.bounds.chunk_bytes):
        carried.received += len(data)
        if carried.received > ANSWER_MAX_BYTES:
            raise LimitReached(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
        await watch.passed(len(data))
        agent[1].write(data)
        await agent[1].drain()
