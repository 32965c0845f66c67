"""`agcluster mcp`: logins at agents' MCP servers, and how the servers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.cli.ops.cluster import Json, at, print_json, print_table, with_store
from infra.cli.ops.mcp_login import LoginFailed, log_in
from infra.cli.ops.offered import offered_agents
from infra.cli.terminal import say
from infra.cli.up.state_dir import StateDir
from infra.runtime.clock import SystemClock
from infra.runtime.sealing import LoginSealer
from infra.runtime.settings import Settings
from infra.store.open import Store
from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import AgClusterError
from infra.wire.mcp.logins import SealedLogin, login_name

app = typer.Typer(
    help="Look at agents' MCP servers, log in at them, share them.", no_args_is_help=True
)

Agent = Annotated[str, typer.Argument(help="An agent's name.")]
Server = Annotated[str, typer.Argument(help="The name of one of its MCP servers.")]
Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="The agents' folder [default: AGCLUSTER_AGENTS_DIR, or agents]."),
]


class NoSuchServer(AgClusterError):
    """No agent has such a server, or it takes no login."""


@app.command("status")
def status(folder: Folder = None, as_json: Json = False) -> None:
    """Show each agent's servers: how an agent last found them, and their logins."""

    async def work(store: Store, settings: Settings) -> None:
        rows = [
            row
            for agent, profile in sorted(
                offered_agents(settings, folder or settings.agents_dir).items()
            )
            for row in await _rows(store, agent, profile)
        ]
        if as_json:
            print_json(rows)
            return
        print_table(
            ("agent", "server", "where", "login", "status", "tools", "seen", "by", "said"),
            (
                (row["agent"], row["server"], row["where"], row["login"], row["status"] or "-",
                 "-" if row["tools"] is None else row["tools"], at(row["seen_ms"]) or "-",
                 row["seen_by"] or "-", row["detail"])
                for row in rows
            ),
        )  # fmt: skip

    with_store(work)


async def _rows(store: Store, agent: str, profile: AgentProfile) -> list[dict[str, Any]]:
    servers = profile.mcp_servers
    if not servers:
        return []
    seen = await store.mcp_seen.of(agent)
    logins = await store.mcp_logins.of(
        login_name(agent, name) for name, told in servers.items() if told.login
    )
    rows = []
    for name, told in servers.items():
        state = seen.get(name)
        rows.append(
            {
                "agent": agent,
                "server": name,
                "where": "http" if told.url is not None else "container",
                "login": _login_words(logins.get(login_name(agent, name))) if told.login else "-",
                "status": state.status if state else None,
                "tools": state.tools if state else None,
                "seen_ms": state.seen_ms if state else None,
                "seen_by": state.seen_by if state else None,
                "detail": state.detail if state else "",
            }
        )
    return rows


def _login_words(login: SealedLogin | None) -> str:
    if login is None:
        return "missing"
    if login.fault is not None:
        return login.fault
    until = at(login.expires_ms)
    return "good" if until is None else f"until {until}{', renewed' if login.can_renew else ''}"


@app.command("login")
def login(
    agent: Agent,
    server: Server,
    folder: Folder = None,
    port: Annotated[
        int, typer.Option(help="Port of loopback that the browser comes back to; 0: any.")
    ] = 0,
) -> None:
    """Log in at a server, in a browser. The gateways use and renew the login from then on."""

    async def work(store: Store, settings: Settings) -> None:
        url = _url(offered_agents(settings, folder or settings.agents_dir), agent, server)
        sealer = LoginSealer(_secret(settings))
        made = await log_in(url, say=say, port=port)
        name = login_name(agent, server)
        await store.mcp_logins.keep(
            name,
            SealedLogin(
                sealed=sealer.seal(made, name),
                expires_ms=made.expires_s * 1000 if made.expires_s is not None else None,
                can_renew=made.refresh_token is not None,
                made_ms=SystemClock().unix_ms(),
            ),
        )
        say(f"logged in: {name}")

    with_store(work)


@app.command("logout")
def logout(agent: Agent, server: Server) -> None:
    """Forget a login. Turns that run keep their token until they end."""

    async def work(store: Store, _: Settings) -> None:
        name = login_name(agent, server)
        if not await store.mcp_logins.drop(name):
            raise NoSuchServer(f"there is no login for {name}")
        say(f"logged out: {name}")

    with_store(work)


def _url(agents: Mapping[str, AgentProfile], agent: str, server: str) -> str:
    profile = agents.get(agent)
    told = profile.mcp_servers.get(server) if profile is not None else None
    if told is None or told.url is None:
        raise NoSuchServer(f"agent {agent} has no MCP server {server} with a `url`")
    if not told.login:
        raise NoSuchServer(f"{server} takes no login: say `login: true` in its profile")
    return told.url


def _secret(settings: Settings) -> bytes:
    """The cluster's, or that of an `agcluster up` on this machine."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    own = StateDir(settings.data_dir)
    if not own.secret_file.is_file():
        raise LoginFailed("AGCLUSTER_SECRET: a login is sealed with the cluster's secret")
    return own.secret().encode()
