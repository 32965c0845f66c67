"""The agents' way to the internet: an HTTP proxy on `egress.sock`.

A name is resolved once, all its addresses are checked, and the proxy connects to an address that it
checked, because a second lookup could give a different answer. Private, loopback, link-local and
metadata addresses are refused whatever the policy. The proxy works only while a turn is open; open
connections are closed when the turn ends. Every decision is logged with conversation, turn and host
and, when a connection ends, the bytes that passed. A policy can only see names: the server of an
allowed name may pass on what it receives.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from infra.metrics.gateway import EGRESS, EGRESS_BYTES, count_egress_refusal
from infra.runtime.logs import bind, fields
from infra.runtime.settings import EgressPolicy, EgressProfile
from worker.gateway.bounds import Pace, Places, PlacesTaken, TooFast
from worker.gateway.egress.addresses import IPAddress, why_refused_here
from worker.gateway.egress.carrying import (
    CHUNK_BYTES,
    CarriedBytes,
    EgressBounds,
    EgressLimits,
    EgressRefused,
    LimitReached,
    Streams,
    exchange,
)
from worker.gateway.egress.mcp import McpSecrets, is_mcp
from worker.gateway.egress.mcp_calls import McpCalls
from worker.gateway.egress.request import BadProxyRequest, ProxyRequest, parse_request
from worker.gateway.sessions import GatewaySession, Turn, TurnOver

log = logging.getLogger(__name__)

HEAD_MAX_BYTES = 64 * 1024
_LOOKUP_THREADS = 32
_CLOSED = EgressProfile(policy=EgressPolicy.NONE)


class Resolver(Protocol):
    """Resolves names to addresses."""

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        """All addresses of a name. Raises `OSError`."""
        ...


class SystemResolver:
    """The machine's resolver, in threads of its own.

    An agent can make lookups hang; lookups of the model's server must not wait behind them.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="egress-lookup")

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _look_up, host)

    def close(self) -> None:
        """Drop the waiting lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class EgressRules:
    """The deployment's policy and those of its profiles. An entry `.example.org` includes the
    subdomains."""

    policy: EgressPolicy
    allow: tuple[str, ...] = ()
    ports: frozenset[int] = frozenset({80, 443})
    profiles: Mapping[str, EgressProfile] = field(default_factory=dict)

    def of(self, profile: str | None) -> EgressRules:
        """The rules of a turn. An unknown profile allows nothing."""
        if profile is None:
            return self
        found = self.profiles.get(profile, _CLOSED)
        return replace(self, policy=found.policy, allow=found.allow)

    def check(self, request: ProxyRequest) -> None:
        """Raises `EgressRefused` for a host or a port that is not allowed."""
        if self.policy is EgressPolicy.NONE:
            raise EgressRefused(403, "this deployment gives agents no internet access")
        if request.port not in self.ports:
            listed = ", ".join(map(str, sorted(self.ports)))
            raise EgressRefused(403, f"port {request.port} is not open (open: {listed})")
        if self.policy is EgressPolicy.ALLOWLIST and not self._is_listed(request.host):
            raise EgressRefused(403, f"host {request.host} is not on this deployment's allowlist")

    def _is_listed(self, host: str) -> bool:
        host = host.lower().rstrip(".")
        return any(_matches(host, entry.lower().rstrip(".")) for entry in self.allow)


class EgressProxy:
    """Serves the connections that arrive on `egress.sock`."""

    def __init__(
        self,
        rules: EgressRules,
        resolver: Resolver,
        *,
        limits: EgressLimits | None = None,
        mcp_secrets: McpSecrets | None = None,
        why_refused: Callable[[IPAddress], str | None] = why_refused_here,
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        self._limits = limits or EgressLimits()
        self._mcp = McpCalls(mcp_secrets or McpSecrets(), self._limits)
        self._why_refused = why_refused

    def bounds(self) -> EgressBounds:
        """The limits of one session."""
        return EgressBounds(self._limits)

    async def serve(self, session: GatewaySession, bounds: EgressBounds, agent: Streams) -> None:
        """Serve one connection of the session's agent until it ends. Raises nothing except
        cancellation."""
        try:
            with bounds.all.take():
                await self._serve(session, bounds, agent)
        except PlacesTaken:
            bounds.log.info("egress overrun", conversation=session.conversation)
        except (TurnOver, LimitReached) as error:
            told = fields(conversation=session.conversation, reason=error)
            log.info("egress cut off", extra=told)
        except OSError as error:
            # Either side may disconnect at any time.
            log.debug("egress connection lost: %s", error)
        except Exception:
            # The boundary of one connection: a bug here must not end those of other tenants.
            log.exception("egress failed", extra=fields(conversation=session.conversation))
        finally:
            agent[1].close()

    async def _serve(self, session: GatewaySession, bounds: EgressBounds, agent: Streams) -> None:
        told: dict[str, object] = {"conversation": session.conversation}
        try:
            request = await self._read_request(agent[0])
            told |= {"host": request.host, "port": request.port}
            with _taken(bounds.carrying):
                turn = _running_turn(session)
                told["turn"] = turn.id
                bind(turn=turn.id, conversation=session.conversation)
                async with turn.while_open():
                    await _until_due(bounds.rate)
                    carried = CarriedBytes(turn, bounds, told)
                    if is_mcp(request):
                        with _taken(bounds.mcp):
                            EGRESS.labels("mcp").inc()
                            await self._mcp.ask(carried, request, agent)
                        return
                    server = await self._open(self._rules.of(turn.options.egress_profile), request)
                    await self._carry(carried, request, agent, server)
        except EgressRefused as refused:
            count_egress_refusal(refused.status)
            bounds.log.info(
                "egress refused", **told, reason=refused.message, address=refused.detail
            )
            await self._say(agent, refused)

    async def _read_request(self, reader: asyncio.StreamReader) -> ProxyRequest:
        try:
            async with asyncio.timeout(self._limits.head_timeout_s):
                head = await reader.readuntil(b"\r\n\r\n")
            return parse_request(head)
        except TimeoutError as error:
            raise EgressRefused(408, "no request came") from error
        except asyncio.LimitOverrunError as error:
            raise EgressRefused(431, "the request's head is too large") from error
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("left before asking") from error
        except BadProxyRequest as error:
            raise EgressRefused(400, str(error)) from error

    async def _carry(
        self, carried: CarriedBytes, request: ProxyRequest, agent: Streams, server: Streams
    ) -> None:
        """Pass bytes on until both sides are done."""
        address = server[1].get_extra_info("peername")[0]
        EGRESS.labels("allowed").inc()
        log.info("egress allowed", extra=fields(**carried.told, address=address))
        try:
            if request.is_tunnel:
                agent[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server[1].write(request.opening)
            await exchange(agent, server, carried, self._limits)
        finally:
            server[1].close()
            EGRESS_BYTES.labels("sent").inc(carried.sent)
            EGRESS_BYTES.labels("received").inc(carried.received)
            told = fields(**carried.told, sent=carried.sent, received=carried.received)
            log.info("egress over", extra=told)

    async def _open(self, rules: EgressRules, request: ProxyRequest) -> Streams:
        """Connect to an address that was checked. Raises `EgressRefused`."""
        rules.check(request)
        addresses = await self._addresses(request.host)
        for address in addresses:
            if why := self._why_refused(address):
                # Names neither the address nor what is there, because that would map our networks.
                raise EgressRefused(
                    403,
                    f"host {request.host} is not on the internet, or not open to agents",
                    detail=f"{address} ({why})",
                )
        for address in addresses:
            try:
                async with asyncio.timeout(self._limits.connect_timeout_s):
                    return await asyncio.open_connection(str(address), request.port)
            except (OSError, TimeoutError) as error:
                log.debug("no connection to %s: %s", address, error)
        raise EgressRefused(502, f"host {request.host} does not answer on port {request.port}")

    async def _addresses(self, host: str) -> Sequence[IPAddress]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass  # It is a name.
        try:
            async with asyncio.timeout(self._limits.lookup_timeout_s):
                found = await self._resolver.resolve(host)
        except (OSError, TimeoutError) as error:
            raise EgressRefused(502, f"host {host} is not known") from error
        if not found:
            raise EgressRefused(502, f"host {host} has no address")
        return found

    async def _say(self, agent: Streams, refused: EgressRefused) -> None:
        """Answer with the reason, for people and models to read."""
        body = f"egress refused: {refused.message}\n".encode()
        head = (
            f"HTTP/1.1 {refused.status} Egress Refused\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        reader, writer = agent
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                writer.write(head.encode() + body)
                await writer.drain()
                writer.write_eof()
                # Closing with unread bytes would reset the connection and lose the answer.
                while await reader.read(CHUNK_BYTES):
                    continue


@contextmanager
def _taken(places: Places) -> Iterator[None]:
    try:
        with places.take():
            yield
    except PlacesTaken as error:
        raise EgressRefused(429, f"too many connections: {error}") from error


async def _until_due(rate: Pace) -> None:
    try:
        await rate.wait()
    except TooFast as error:
        raise EgressRefused(429, str(error)) from error


def _running_turn(session: GatewaySession) -> Turn:
    try:
        return session.running_turn()
    except TurnOver as error:
        raise EgressRefused(403, f"no internet access between turns: {error}") from error


def _matches(host: str, entry: str) -> bool:
    if entry.startswith("."):
        return host == entry[1:] or host.endswith(entry)
    return host == entry


def _look_up(host: str) -> list[IPAddress]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
