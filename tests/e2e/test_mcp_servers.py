"""An agent uses an MCP server whose address and key it never sees."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from redis import Redis

from infra.cli.up.state_dir import StateDir
from infra.runtime.clock import SystemClock
from infra.store.keys import Keys
from infra.wire.mcp.logins import decode_sealed_login
from tests.e2e.deployments import GOOD_KEY, Deployment, embedded, free_port
from tests.fakes.mcp_server import RunningMcpServer, mcp_server
from tests.fakes.oauth_service import OAuthService, log_in, oauth_service
from tests.parts import need

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(240)]

SECRET = "mcp-canary-7f3a9c"
ANNAS, BERTS, BERTS_NEW = "annas-canary-91b2", "berts-canary-22c7", "berts-new-canary-03d4"
ANNA, BERT = "sk-ant-anna-canary-0001", "sk-ant-bert-canary-0002"
FINDS_IT = f"echo {base64.b64encode(SECRET.encode()).decode()} | base64 -d"
# Not as an argument of what looks for it, where it would be found.
LOOKS_FOR_IT = (
    f'cat /proc/*/environ /proc/*/cmdline | tr "\\0" "\\n" > /tmp/seen; '
    f"{FINDS_IT} | grep -c -F -f - /tmp/seen"
)


LOCAL_SERVER = Path(__file__).parents[1] / "fakes" / "mcp_stdio.py"
CURL = "tool bash curl -s --noproxy '' -o /dev/null -w '%{http_code}' -d x"
"""Through the proxy, whatever NO_PROXY says."""


@dataclass(frozen=True)
class Scene:
    """A deployment with two agents: one with a server that works, one with a dead one beside it."""

    deployment: Deployment
    server: RunningMcpServer
    service: OAuthService
    """A server that asks for a login."""
    agents: Path

    def ask(
        self, prompt: str, *, model: str = "helper", key: str = GOOD_KEY, **more: Any
    ) -> ChatCompletion:
        with self.deployment.client(key) as client:
            answer: ChatCompletion = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], **more
            )
            return answer

    def ask_as(self, key: str, secret: str | None, prompt: str, *, name: str) -> ChatCompletion:
        """Ask the agent whose server wants a secret of its caller's, in that conversation."""
        headers = {"X-Conversation-ID": name}
        if secret is not None:
            headers["X-AgCluster-MCP-Echo-Token"] = secret
        return self.ask(prompt, model="personal", key=key, extra_headers=headers)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    need("bwrap")
    need("redis")
    agents = tmp_path_factory.mktemp("agents")
    keys = (f"Bearer {key}" for key in (SECRET, ANNAS, BERTS, BERTS_NEW))
    with (
        mcp_server(tmp_path_factory.mktemp("mcp"), *keys) as server,
        oauth_service(tmp_path_factory.mktemp("oauth")) as service,
    ):
        (agents / "member.yaml").write_text(
            f"mcp_servers: {{notes: {{url: '{service.url}', login: true}}}}\n"
        )
        echo = f"""
mcp_servers:
  echo:
    url: {server.url}
    headers: {{Authorization: "Bearer ${{ECHO_KEY}}"}}
"""
        dead = f"  dead: {{url: 'http://127.0.0.1:{free_port()}/mcp'}}\n"
        (agents / "helper.yaml").write_text(echo)
        (agents / "unlucky.yaml").write_text(echo + dead)
        source = json.dumps(LOCAL_SERVER.read_text())
        command = f"{{command: {sys.executable}, args: ['-c', {source}]}}"
        (agents / "local.yaml").write_text(f"mcp_servers: {{local: {command}}}\n")
        (agents / "hasty.yaml").write_text(f"{echo}    timeout_s: 1\n")
        (agents / "personal.yaml").write_text(echo.replace("ECHO_KEY", "caller:ECHO_TOKEN"))
        settings = {
            "AGCLUSTER_AGENTS_DIR": str(agents),
            "AGCLUSTER_MCP_SECRETS": json.dumps({"ECHO_KEY": SECRET}),
            # Private hosts are closed to tools, but not an MCP server that an operator named.
            "AGCLUSTER_EGRESS": "allowlist",
        }
        with embedded("bubblewrap", **settings) as deployment:
            yield Scene(deployment, server, service, agents)


def said(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def shown(answer: ChatCompletion) -> str:
    return str((answer.choices[0].message.model_extra or {}).get("reasoning_content"))


def test_its_tools_are_the_agents_and_its_key_is_the_gateways(scene: Scene) -> None:
    answer = scene.ask('tool mcp__echo__repeat {"text": "good day"}')
    assert "GOOD DAY" in said(answer)
    assert "echo: repeat: good day" in shown(answer)
    asked = scene.server.requests
    assert asked
    assert all(request["is_right"] for request in asked)
    assert {request["method"] for request in asked} <= {"POST", "DELETE"}


def test_they_stay_beside_what_a_request_offers(scene: Scene) -> None:
    name = {"X-Conversation-ID": "mcp-and-an-object"}
    form = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}
    asks = 'tool mcp__echo__repeat {"text": "one"} then json {"a": 1}'
    first = scene.ask(asks, response_format=form, extra_headers=name)
    assert json.loads(said(first)) == {"a": 1}
    assert "echo: repeat: one" in shown(first)
    second = scene.ask('tool mcp__echo__repeat {"text": "two"}', extra_headers=name)
    assert "TWO" in said(second)


def test_nothing_in_the_container_has_the_key(scene: Scene) -> None:
    prompt = f'tool mcp__echo__repeat {{"text": "x"}} then tool bash {LOOKS_FOR_IT}'
    assert said(scene.ask(prompt)).strip().splitlines()[-1].strip() == "0"


def test_an_agent_cannot_use_the_way_for_anything_else(scene: Scene) -> None:
    for target, word in (
        ("http://echo.mcp.internal/.well-known/oauth-protected-resource", "404"),
        ("http://other.mcp.internal/", "404"),
        (scene.server.url, "403"),
    ):
        assert word in said(scene.ask(f"{CURL} {target}")), target


def test_a_dead_server_is_told_and_holds_nobody_up(scene: Scene) -> None:
    answer = scene.ask('tool mcp__echo__repeat {"text": "still here"}', model="unlucky")
    assert "STILL HERE" in said(answer)
    assert "The MCP server dead" in shown(answer)


def test_a_call_that_takes_too_long_is_ended(scene: Scene) -> None:
    assert "timed out" in said(scene.ask('tool mcp__echo__wait {"seconds": 60}', model="hasty"))
    assert "waited" in said(scene.ask('tool mcp__echo__wait {"seconds": 0.1}', model="hasty"))


def test_a_server_may_run_in_the_sandbox(scene: Scene) -> None:
    answer = scene.ask("tool mcp__local__count {}", model="local")
    assert "call 1" in said(answer)
    assert "local: count" in shown(answer)


def test_an_agent_without_it_has_none_of_its_tools(scene: Scene) -> None:
    answer = scene.ask("toolnames", model="claude-sonnet-4.5")
    assert "mcp__" not in said(answer)
    refused = scene.ask(f"{CURL} http://echo.mcp.internal/", model="claude-sonnet-4.5")
    assert "404" in said(refused)


def asked_with(scene: Scene, *secrets: str) -> list[dict[str, str]]:
    """The headers of the requests that came with one of these secrets."""
    wanted = {f"Bearer {secret}" for secret in secrets}
    headers = [request["headers"] for request in scene.server.requests]
    return [one for one in headers if one.get("authorization") in wanted]


def test_each_caller_is_known_to_the_server_by_their_own_secret(scene: Scene) -> None:
    shout = 'tool mcp__echo__repeat {{"text": "{}"}}'
    assert "I AM ANNA" in said(scene.ask_as(ANNA, ANNAS, shout.format("i am anna"), name="same"))
    assert asked_with(scene, ANNAS)
    assert not asked_with(scene, BERTS)
    of_anna = len(asked_with(scene, ANNAS))
    assert "I AM BERT" in said(scene.ask_as(BERT, BERTS, shout.format("i am bert"), name="same"))
    assert asked_with(scene, BERTS)
    assert len(asked_with(scene, ANNAS)) == of_anna


def test_a_changed_secret_begins_anew_with_the_server(scene: Scene) -> None:
    shout = 'tool mcp__echo__repeat {{"text": "{}"}}'
    scene.ask_as(BERT, BERTS, shout.format("first"), name="changing")
    of_before = len(asked_with(scene, BERTS))
    again = scene.ask_as(BERT, BERTS_NEW, shout.format("second"), name="changing")
    assert "SECOND" in said(again)
    assert len(asked_with(scene, BERTS)) == of_before
    # The agent greets the server and reads its tools as another person, in the same conversation.
    assert "tools/list" in {one.get("mcp-method") for one in asked_with(scene, BERTS_NEW)}
    assert "first" in said(scene.ask_as(BERT, BERTS_NEW, "history", name="changing"))


def test_without_the_callers_secret_they_are_told_which_header_lacks(scene: Scene) -> None:
    answer = scene.ask_as(ANNA, None, "toolnames", name="none")
    assert "mcp__" not in said(answer)
    assert "X-AgCluster-MCP-ECHO-TOKEN" in shown(answer)
    later = scene.ask_as(ANNA, ANNAS, 'tool mcp__echo__repeat {"text": "now"}', name="none")
    assert "NOW" in said(later)


def test_a_callers_secret_is_only_at_the_gateway(scene: Scene) -> None:
    hidden = f"echo {base64.b64encode(ANNAS.encode()).decode()} | base64 -d"
    looks = LOOKS_FOR_IT.replace(FINDS_IT, hidden)
    prompt = f'tool mcp__echo__repeat {{"text": "x"}} then tool bash {looks}'
    assert said(scene.ask_as(ANNA, ANNAS, prompt, name="look")).strip().splitlines()[-1] == "0"
    deployment = scene.deployment
    assert deployment.data_dir is not None
    assert ANNAS not in deployment.output()
    files = [path for path in deployment.data_dir.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if ANNAS.encode() in path.read_bytes()]


def ends_soon(login: str, deployment: Deployment) -> None:
    """The next turn finds that its token ends in a second."""
    assert deployment.data_dir is not None
    with Redis(unix_socket_path=str(StateDir(deployment.data_dir).redis_socket)) as redis:
        raw = redis.hget(Keys().mcp_logins(), login)
        assert isinstance(raw, bytes)
        kept = decode_sealed_login(raw)
        soon = kept.model_copy(update={"expires_ms": SystemClock().unix_ms() + 1000, "made_ms": 0})
        redis.hset(Keys().mcp_logins(), login, soon.encode().decode())


def test_an_operator_logs_in_once_and_the_gateway_renews_it(scene: Scene) -> None:
    before = scene.ask("toolnames", model="member")
    assert "mcp__" not in said(before)
    assert "notes needs a login by its operator" in shown(before)
    env = {
        "AGCLUSTER_DATA_DIR": str(scene.deployment.data_dir),
        "AGCLUSTER_AGENTS_DIR": str(scene.agents),
    }
    assert "logged in: member/notes" in log_in(("member", "notes"), env)
    name = {"X-Conversation-ID": "member"}
    for word in ("one", "two"):
        ends_soon("member/notes", scene.deployment)
        answer = scene.ask(
            f'tool mcp__notes__repeat {{"text": "{word}"}}', model="member", extra_headers=name
        )
        assert word.upper() in said(answer)
    renewals = scene.service.events("refresh")
    assert len(renewals) >= 2
    assert all(one["is_good"] for one in renewals), "each with the newest token"
    assert all(one["is_right"] for one in scene.service.events("mcp")[1:])
    looks = 'cat /proc/*/environ /proc/*/cmdline | tr "\\0" "\\n" | grep -c "^token-[0-9a-f]"'
    assert said(scene.ask(f"tool bash {looks}", model="member")).strip().splitlines()[-1] == "0"


def test_operators_see_how_servers_are(scene: Scene) -> None:
    scene.ask("echo hi", model="unlucky")
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "mcp", "status", "--json"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")},
            "AGCLUSTER_DATA_DIR": str(scene.deployment.data_dir),
            "AGCLUSTER_AGENTS_DIR": str(scene.agents),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows = {(row["agent"], row["server"]): row for row in json.loads(done.stdout)}
    good, dead = rows["unlucky", "echo"], rows["unlucky", "dead"]
    assert (good["status"], good["tools"], good["where"]) == ("connected", 2, "http")
    assert good["seen_ms"]
    assert (dead["status"], dead["tools"]) == ("failed", 0)
    assert rows["local", "local"]["where"] == "container"
    assert rows["member", "notes"]["login"] != "-"
    assert SECRET not in done.stdout
