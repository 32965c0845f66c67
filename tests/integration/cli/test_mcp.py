"""`agcluster mcp login` and `logout`, at a real MCP server that asks for a login."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from infra.runtime.clock import SystemClock
from infra.runtime.sealing import LoginSealer
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.connection import connect
from infra.wire.errors import KeyNotOpened
from infra.wire.mcp.logins import OpenLogin, RenewLogin
from tests.fakes.oauth_service import OAuthService, log_in, oauth_service
from tests.fakes.redis_server import real_redis
from tests.parts import need
from worker.gateway.mcp_logins import LOGIN_OVER, McpLoginDesk

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

SECRET = "test-secret-test-secret-test-secret-"


@pytest.fixture
async def store() -> AsyncIterator[tuple[Store, str]]:
    need("redis")
    async with (
        real_redis() as server,
        aclosing(connect(server.url, timeout_s=20, name="test")) as redis,
    ):
        yield store_on(redis, Keys("agc")), server.url


def around(service: OAuthService, url: str, folder: Path) -> dict[str, str]:
    """The environment of an operator, with an agent whose server asks for a login."""
    profile = f"mcp_servers: {{notes: {{url: '{service.url}', login: true}}}}\n"
    (folder / "helper.yaml").write_text(profile)
    (folder / "own.yaml").write_text("extends: reviewer\n")  # One that ships.
    return {
        "AGCLUSTER_REDIS_URL": url,
        "AGCLUSTER_SECRET": SECRET,
        "AGCLUSTER_AGENTS_DIR": str(folder),
    }


def said_by(env: dict[str, str], *args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "mcp", *args],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_login_is_kept_sealed_and_renewed_once(
    store: tuple[Store, str], tmp_path: Path
) -> None:
    kept_in, url = store
    async with AsyncExitStack() as around_it:
        group = await around_it.enter_async_context(asyncio.TaskGroup())
        service = around_it.enter_context(oauth_service(tmp_path))
        env = around(service, url, tmp_path)
        said = log_in(("helper", "notes"), env)
        assert "logged in: helper/notes" in said
        assert [one["method"] for one in service.events("authorize")] == ["S256"]
        kept = (await kept_in.mcp_logins.of(["helper/notes"]))["helper/notes"]
        assert kept.can_renew
        assert kept.expires_ms is not None
        login = LoginSealer(SECRET.encode()).open(kept.sealed, "helper/notes")
        assert login.url == service.url
        for hidden in (login.access_token, str(login.refresh_token)):
            assert hidden not in said + kept.model_dump_json()

        desk = McpLoginDesk(LoginSealer(SECRET.encode()), SystemClock(), group)
        renewed = (await desk.renew(RenewLogin(name="helper/notes", sealed=kept.sealed))).login
        assert renewed.fault is None
        # A worker that lost the answer asks again, and gets it.
        again = await desk.renew(RenewLogin(name="helper/notes", sealed=kept.sealed))
        assert again.login == renewed
        assert [one["is_good"] for one in service.events("refresh")] == [True]
        opened = desk.open(OpenLogin(name="helper/notes", sealed=renewed.sealed))
        assert opened.access_token != login.access_token
        with pytest.raises(KeyNotOpened):
            desk.open(OpenLogin(name="other/notes", sealed=renewed.sealed))

        late = McpLoginDesk(LoginSealer(SECRET.encode()), SystemClock(), group)
        over = (await late.renew(RenewLogin(name="helper/notes", sealed=kept.sealed))).login
        assert (over.fault, over.can_renew) == (LOGIN_OVER, False)

        assert "logged out" in said_by(env, "logout", "helper", "notes")[1]
        assert await kept_in.mcp_logins.of(["helper/notes"]) == {}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("login", "nobody", "notes"), "has no MCP server"),
        (("login", "helper", "nothing"), "has no MCP server"),
        (("logout", "helper", "notes"), "there is no login"),
    ],
)
async def test_what_is_not_there_is_said(
    store: tuple[Store, str], tmp_path: Path, args: tuple[str, ...], told: str
) -> None:
    service = OAuthService("http://127.0.0.1:9/mcp", tmp_path / "none")
    code, said = said_by(around(service, store[1], tmp_path), *args)
    assert code == 1
    assert told in said
