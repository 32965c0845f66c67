"""`python -m worker.gateway.main`: the gateway of a host.

Needs the cluster secret, the upstream's URL and the host's data folder; uses neither Redis nor
Docker. When told to stop, it lets running model calls finish for a bounded time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from yarl import URL

from infra.metrics.gateway import SESSIONS
from infra.metrics.serve import show_metrics
from infra.runtime.clock import Clock, SystemClock
from infra.runtime.console import complain
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs, fields
from infra.runtime.memory import forbid_dumps, give_back_large_pieces
from infra.runtime.sealing import LoginSealer, Sealed, Sealer
from infra.runtime.settings import MetricsSettings, Settings, SettingsRefused, load_settings
from infra.wire.errors import AgClusterError
from worker.gateway.control import ControlServer, claim_control_socket
from worker.gateway.egress.addresses import IPAddress, IPNetwork, but_not, why_refused_here
from worker.gateway.egress.carrying import EgressLimits
from worker.gateway.egress.mcp import McpSecrets
from worker.gateway.egress.proxy import (
    EgressProxy,
    EgressRules,
    Resolver,
    SystemResolver,
)
from worker.gateway.listeners import SessionListeners
from worker.gateway.mcp_logins import McpLoginDesk
from worker.gateway.model.proxy import UPSTREAM_BODY_MAX_BYTES, ModelLimits, ModelProxy
from worker.gateway.model.side_calls import SideCalls
from worker.gateway.model.upstream import Upstream, UpstreamTimeouts
from worker.gateway.model.upstream_watch import UpstreamWatch
from worker.gateway.sessions import GatewaySession, Listeners, SessionTable, Traffic

log = logging.getLogger(__name__)

WEB_SEARCH = "WebSearch"
"""The agents' tool that makes the model's service search the web."""
_LOOKUP_S = 5.0


@dataclass(frozen=True)
class GatewayConfig:
    """The complete configuration of a gateway."""

    data_dir: Path
    control_socket: Path
    secret: bytes
    upstream_url: str
    egress: EgressRules
    drain_timeout_s: float = 30.0
    model_limits: ModelLimits = field(default_factory=ModelLimits)
    egress_limits: EgressLimits = field(default_factory=EgressLimits)
    timeouts: UpstreamTimeouts = field(default_factory=UpstreamTimeouts)
    metrics: MetricsSettings | None = None
    mcp_secrets: McpSecrets = field(default_factory=McpSecrets)
    denied: tuple[IPNetwork, ...] = ()
    """Networks that tools may not reach, in addition to those that nobody may."""
    neighbours: tuple[str, ...] = ()
    """Hosts of the cluster. Tools may not reach any address that they have at startup."""


@dataclass(frozen=True)
class Outside:
    """What is outside the gateway; tests bring their own. `resolver`: None for the system's."""

    clock: Clock = field(default_factory=SystemClock)
    resolver: Resolver | None = None
    why_refused: Callable[[IPAddress], str | None] = why_refused_here


def config_from(settings: Settings) -> GatewayConfig:
    """Raises `SettingsRefused` if the secret is missing."""
    if settings.secret is None:
        raise SettingsRefused("AGCLUSTER_SECRET: the gateway needs the cluster's secret")
    return GatewayConfig(
        data_dir=settings.data_dir,
        control_socket=settings.gateway_socket,
        secret=settings.secret.get_secret_value().encode(),
        upstream_url=settings.anthropic_base_url,
        egress=EgressRules(
            settings.egress,
            settings.egress_allow,
            frozenset(settings.egress_ports),
            settings.egress_profiles,
        ),
        egress_limits=EgressLimits(
            connections_max=settings.egress_connections_max,
            connections_per_minute=settings.egress_connections_per_minute,
            bytes_per_s=settings.egress_bytes_per_s,
            idle_timeout_s=settings.egress_idle_timeout_s,
            turn_bytes_max=settings.egress_turn_bytes_max,
        ),
        mcp_secrets=_mcp_secrets(settings),
        denied=settings.egress_deny,
        metrics=settings,
        neighbours=_hosts_of(settings.redis_url),
        drain_timeout_s=settings.drain_timeout_s,
        # A conversation grows beyond the size of a single API request.
        model_limits=ModelLimits(
            models=frozenset(settings.open_models),
            is_search_open=WEB_SEARCH in settings.tools,
            body_max_bytes=max(settings.max_body_bytes, UPSTREAM_BODY_MAX_BYTES),
            bodies_max_bytes=settings.model_bodies_max_bytes,
            calls_max=settings.model_calls_max,
            calls_per_minute=settings.model_calls_per_minute,
        ),
    )


async def serve(
    config: GatewayConfig,
    stop: asyncio.Event,
    *,
    surroundings: Outside | None = None,
    is_ready: asyncio.Event | None = None,
) -> None:
    """Run until `stop` is set. Afterwards every socket is gone.

    Raises `GatewayRunsAlready` or `SocketRefused`.
    """
    outside = surroundings or Outside()
    traffic = Traffic()
    with ExitStack() as closing:
        bound = claim_control_socket(config.control_socket)
        closing.callback(bound.close)
        resolver = outside.resolver
        if resolver is None:
            resolver = own_resolver = SystemResolver()
            closing.callback(own_resolver.close)
        async with (
            Upstream(config.upstream_url, timeouts=config.timeouts) as upstream,
            asyncio.TaskGroup() as group,
        ):
            watch = UpstreamWatch(upstream, outside.clock)
            watching = group.create_task(watch.run())
            model = ModelProxy(upstream, watch, config.model_limits, traffic)
            egress = await _egress(config, resolver, outside)

            async def listen(session: GatewaySession) -> Listeners:
                made = SessionListeners(session, model=model, egress=egress, group=group)
                await made.start(inside=config.data_dir)
                return made

            sealer = Sealer(config.secret)
            logins = McpLoginDesk(LoginSealer(config.secret), outside.clock, group)
            table = SessionTable(
                listen=listen,
                sealer=sealer,
                mcp_sealer=Sealer(config.secret, Sealed.MCP_SECRETS),
                logins=logins,
                clock=outside.clock,
                group=group,
            )
            side_calls = SideCalls(
                upstream,
                watch,
                sealer=sealer,
                clock=outside.clock,
                traffic=traffic,
                ledger=table.ledger,
                body_max_bytes=config.model_limits.body_max_bytes,
            )
            control = ControlServer(table, side_calls, watch, bound)
            look = partial(_look, table)
            showing = group.create_task(show_metrics(config.metrics, look=look))
            try:
                await control.start()
                log.info("gateway up", extra=_told(config, table))
                if is_ready is not None:
                    is_ready.set()
                await stop.wait()
                await _finish_calls(traffic, config.drain_timeout_s)
                await logins.settled()
            finally:
                showing.cancel()
                watching.cancel()
                await control.aclose()
                await table.aclose()
    log.info("gateway down", extra=fields(instance=table.instance))


def _look(table: SessionTable) -> None:
    SESSIONS.set(table.status().sessions)


async def _egress(config: GatewayConfig, resolver: Resolver, outside: Outside) -> EgressProxy:
    denied = (*config.denied, *await _networks_of(config.neighbours, resolver))
    return EgressProxy(
        config.egress,
        resolver,
        limits=config.egress_limits,
        mcp_secrets=config.mcp_secrets,
        why_refused=but_not(denied, outside.why_refused),
    )


async def _networks_of(hosts: Sequence[str], resolver: Resolver) -> list[IPNetwork]:
    """The current addresses of these names. A name that cannot be resolved has none that an agent
    could reach."""
    found: list[IPNetwork] = []
    for host in hosts:
        try:
            async with asyncio.timeout(_LOOKUP_S):
                found += map(ipaddress.ip_network, await resolver.resolve(host))
        except (OSError, TimeoutError) as error:
            log.warning("neighbour not found", extra=fields(host=host, reason=type(error).__name__))
    return found


def _mcp_secrets(settings: Settings) -> McpSecrets:
    told = settings.mcp_secrets
    try:
        return McpSecrets(told.get_secret_value() if told else "")
    except ValueError as error:
        raise SettingsRefused(f"AGCLUSTER_MCP_SECRETS: {error}") from None


def _hosts_of(url: str | None) -> tuple[str, ...]:
    """The hosts of a Redis URL; several with ports if it names Sentinels."""
    parts = urlsplit(url or "").netloc.rpartition("@")[2].split(",")
    return tuple(host for part in parts if (host := urlsplit(f"//{part}").hostname))


async def _finish_calls(traffic: Traffic, timeout_s: float) -> None:
    """Wait for a moment without model calls, because a broken call makes its agent start the
    message again.

    New calls are accepted meanwhile. If they were refused, they would use up the agent's few
    retries before a successor listens.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await traffic.wait_idle()
    except TimeoutError:
        log.warning("model calls are cut off", extra=fields(waited_s=timeout_s))


def _told(config: GatewayConfig, table: SessionTable) -> dict[str, object]:
    return fields(
        instance=table.instance,
        socket=config.control_socket,
        upstream=URL(config.upstream_url).with_user(None),
        egress=config.egress.policy,
    )


async def _run(config: GatewayConfig) -> None:
    with stop_signals() as stop:
        await serve(config, stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop if available: it passes twice as many deltas per core."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def main() -> int:
    """Exit status 2 for invalid settings, 1 for a failed start."""
    try:
        settings = load_settings()
        config = config_from(settings)
    except SettingsRefused as error:
        complain(f"agcluster gateway: {error}")
        return 2
    configure_logs(settings.log_level, settings.log_format)
    forbid_dumps()
    give_back_large_pieces()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(config))
    except AgClusterError as error:
        complain(f"agcluster gateway: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
