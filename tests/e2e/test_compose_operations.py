"""The composed deployment as its operator handles it: a changed setting, a mistaken one, a restart
of Redis, a look around.

That it ends in order, with no agent left, is looked at when the deployment is taken down
(`tests.e2e.composed`).
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from api.chat.answer.vocabulary import turn_of
from tests.e2e.conftest import COMPOSED
from tests.e2e.deployments import GOOD_KEY, MODEL, ROOT, Deployment, wait_until
from tests.parts import CONTROL_IMAGE
from tests.recipes import recipes

pytestmark = [pytest.mark.timeout(300), COMPOSED]

STREAM = "stream 150 deltas every 100 ms"

DIGESTS = """
local lines = {}
for _, pattern in ipairs(ARGV) do
  local cursor = '0'
  repeat
    local found = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', '1000')
    cursor = found[1]
    for _, key in ipairs(found[2]) do
      local kind, parts = redis.call('TYPE', key).ok, {}
      if kind == 'hash' then
        local held = redis.call('HGETALL', key)
        for i = 1, #held, 2 do
          -- Another worker may take it over meanwhile.
          if held[i] ~= 'owner' and held[i] ~= 'owner_host' and held[i] ~= 'fence' then
            parts[#parts + 1] = held[i] .. '=' .. held[i + 1]
          end
        end
        table.sort(parts)
      elseif kind == 'list' then
        parts = redis.call('LRANGE', key, '0', '-1')
      elseif kind == 'set' then
        parts = redis.call('SMEMBERS', key)
        table.sort(parts)
      elseif kind == 'stream' then
        for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
          parts[#parts + 1] = entry[1] .. table.concat(entry[2], ' ')
        end
      else
        parts = {redis.call('GET', key)}
      end
      lines[#lines + 1] = key .. ' ' .. redis.sha1hex(table.concat(parts, '|'))
    end
  until cursor == '0'
end
return lines
"""
"""The keys that match the patterns, each with a digest of what it holds."""

IN_COMPOSE = {
    "Which conversations are known": "agc:conv:{C}",
    "What is known about one": "{HOST}",
    "Who owns it, and for how long still": "{WORKER}",
    "Which turns wait in it": "{WAITING}",
    "Which will be stopped next for being idle": "{IDLE}",
    "Which turns have not ended": "{TURN}",
    "What became of one": "running",
    "Its last words": "@",
    "Which workers live": "{WORKER}",
    "What one is doing": "ready",
    "List and show them with `agcluster`": "{IDLE}",
    "Look at one with `agcluster`": "{TURN}",
    "List workers with `agcluster`": "{WORKER}",
    "Which API replicas listen": "agc:api:",
    "Nothing may be evicted": "maxmemory_policy:noeviction",
    "Cancel one by hand": "1",
    "Delete one with `agcluster`": "deleted {IDLE}",
    "Drain one with `agcluster`": "drains",
}
"""Words of recipes about what is there in this deployment. All others only have to work."""


def compose(
    deployment: Deployment, *arguments: str, told: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "compose", *arguments],
        cwd=ROOT,
        env=deployment.compose,
        input=told,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def make(deployment: Deployment, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", target],
        cwd=ROOT,
        env=deployment.compose,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def containers(deployment: Deployment) -> dict[str, set[str]]:
    """The running containers of each service."""
    listed = subprocess.run(
        ["docker", "compose", "ps", "--format", "{{.Service}} {{.ID}}"],
        env=deployment.compose,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found: dict[str, set[str]] = {}
    for service, container in (line.split() for line in listed.stdout.splitlines()):
        found.setdefault(service, set()).add(container)
    return found


@contextmanager
def setting(deployment: Deployment, line: str) -> Iterator[None]:
    """A line more in the deployment's `.env`."""
    file = Path(deployment.compose["COMPOSE_ENV_FILES"])
    before = file.read_text()
    file.write_text(f"{before}{line}\n")
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def asked_all_the_time(deployment: Deployment) -> Iterator[list[str]]:
    """What the address answers to a small request, over and over, as long as the block runs."""
    answered: list[str] = []
    over, headers = Event(), {"Authorization": f"Bearer {GOOD_KEY}"}

    def ask() -> None:
        with httpx.Client(base_url=deployment.base_url, timeout=30, headers=headers) as client:
            while not over.wait(0.1):
                try:
                    answer = client.get("/v1/models")
                    answered.append(f"{answer.status_code} {answer.text * answer.is_error}".strip())
                except httpx.HTTPError as error:
                    answered.append(repr(error))

    with ThreadPoolExecutor(1) as beside:
        asking = beside.submit(ask)
        try:
            yield answered
        finally:
            over.set()
            asking.result()


def begun_stream(deployment: Deployment, text: str) -> tuple[str, Iterator[str]]:
    """The first words of an answer, and what comes after them."""
    chunks = deployment.client().chat.completions.create(
        model=MODEL, stream=True, messages=[{"role": "user", "content": text}]
    )
    texts = (c.choices[0].delta.content or "" for c in chunks if c.choices)
    return next(text for text in texts if text), texts


def test_a_link_to_what_was_made_leads_through_the_composed_port(deployment: Deployment) -> None:
    """Nobody has set a public address."""
    prompt = "tool bash mkdir -p outputs && echo made-4711 > outputs/a.csv then echo made"
    answer = deployment.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}]
    )
    (link,) = re.findall(r"\]\((http[^)]*a\.csv)\)", answer.choices[0].message.content or "")
    assert link.startswith(f"{deployment.base_url}/v1/artifacts/")
    assert httpx.get(link).text == "made-4711\n"


def test_a_rollout_restarts_what_reads_the_setting_and_the_address_keeps_answering(
    deployment: Deployment,
) -> None:
    """Once each change of a setting killed the gateway in the middle of model calls, replaced all
    replicas at once, and cut what was streamed through the balancer.
    """
    before = containers(deployment)
    with (
        ThreadPoolExecutor(1) as beside,
        setting(deployment, "AGCLUSTER_PING_INTERVAL_S=9"),
        asked_all_the_time(deployment) as answered,
    ):
        seen, rest = begun_stream(deployment, STREAM)
        stream = beside.submit("".join, rest)
        done = make(deployment, "rollout")
        text = seen + stream.result()
    assert done.returncode == 0, done.stderr
    assert set(answered) == {"200"}
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(150))
    after = containers(deployment)
    assert not before.pop("api") & after["api"]
    assert len(after.pop("api")) == 2
    assert before == after
    assert "exit code" not in done.stderr


def test_a_rollout_of_everything_is_not_seen_by_a_running_turn(deployment: Deployment) -> None:
    """Gateway, worker and replicas are replaced while a turn has a model call open. The turn's
    second call goes through the new gateway.
    """
    said = [f"first-{number} " for number in range(200)]
    first = {"say": [said, {"tool": "bash true"}], "pace_ms": 100}
    before, agents = containers(deployment), set(deployment.containers())
    with (
        ThreadPoolExecutor(1) as beside,
        setting(
            deployment,
            "AGCLUSTER_PING_INTERVAL_S=8\nAGCLUSTER_MAX_TURNS=90\nAGCLUSTER_MODEL_CALLS_MAX=7",
        ),
        asked_all_the_time(deployment) as answered,
    ):
        seen, rest = begun_stream(deployment, f"message {json.dumps(first)} then {STREAM}")
        agent = set(deployment.containers()) - agents
        stream = beside.submit("".join, rest)
        done = make(deployment, "rollout")
        text = seen + stream.result()
    assert done.returncode == 0, done.stderr
    assert "exit code" not in done.stderr
    assert set(answered) == {"200"}
    words = text.split()
    assert words[:200] == [word.strip() for word in said]
    second = [int(number) for number in re.findall(r"(\d+)@\d+", text)]
    assert second == list(range(150))
    after = containers(deployment)
    for replaced in ("api", "worker", "gateway"):
        assert not before.pop(replaced) & after.pop(replaced), replaced
    assert before == after
    assert len(agent) == 1
    assert agent <= set(deployment.containers())


def test_a_name_that_is_no_setting_stops_a_rollout_before_it_begins(
    deployment: Deployment,
) -> None:
    """Compose passes on the names it knows, so none of the programs would see a mistaken one."""
    before = containers(deployment)
    with setting(deployment, "AGCLUSTER_PROT=8001"):
        done = make(deployment, "rollout")
    assert done.returncode != 0
    assert "AGCLUSTER_PROT: is not a setting" in done.stderr + done.stdout
    assert containers(deployment) == before


def redis(deployment: Deployment, *command: str) -> str:
    """What redis-cli says, as the worker's user, who may read all that is ours."""
    cli = 'REDISCLI_AUTH="$REDIS_WORKER_PASSWORD" exec redis-cli --user worker "$@"'
    return compose(deployment, "exec", "-T", "redis", "sh", "-c", cli, "-", *command).stdout


def kept_of(deployment: Deployment, turn: str) -> dict[str, str]:
    """What Redis holds of a turn and of its conversation: digests of the contents, by key."""
    c = redis(deployment, "HGET", f"agc:turn:{turn}", "conv").strip()
    lines = redis(deployment, "EVAL", DIGESTS, "0", f"agc:conv:{c}*", f"agc:turn:{turn}*")
    return dict(line.split() for line in lines.splitlines())


def asked(deployment: Deployment, name: str, text: str) -> str:
    return answered(deployment, name, text).choices[0].message.content or ""


def answered(deployment: Deployment, name: str, text: str) -> ChatCompletion:
    return deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        extra_headers={"X-Conversation-ID": name},
    )


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_a_restart_of_redis_in_mid_stream_loses_nothing(deployment: Deployment, end: str) -> None:
    """With the users that were shipped, Redis skipped most of its append-only file when it loaded
    it: streams ended, and conversations were gone.
    """
    quiet = f"quiet-{uuid.uuid4()}"
    turn = turn_of(answered(deployment, quiet, "echo before").id)
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        stream=True,
        messages=[{"role": "user", "content": "stream 60 deltas every 100 ms"}],
        extra_headers={"X-Conversation-ID": f"streamed-{uuid.uuid4()}"},
    )
    texts = (c.choices[0].delta.content or "" for c in chunks if c.choices)
    seen = next(text for text in texts if text)
    # Not earlier: that its client had the whole answer is noted behind the answer.
    kept = kept_of(deployment, turn)
    assert {key.rpartition(":")[2] for key in kept} >= {"accepted", "events", "turns"}

    if end == "kill":
        compose(deployment, "kill", "redis")
        done = compose(deployment, "start", "redis")
    else:
        done = compose(deployment, "restart", "redis")
    assert done.returncode == 0, done.stderr

    seen += "".join(texts)
    assert [int(word.split("@")[0]) for word in seen.split()] == list(range(60))
    assert kept_of(deployment, turn) == kept
    assert '"echo before"' in asked(deployment, quiet, "history")


@pytest.mark.parametrize("service", ["api", "worker", "gateway", "engine-proxy"])
def test_doctor_in_a_container_looks_at_its_program(deployment: Deployment, service: str) -> None:
    """It spoke of `up` and its port, and missed a redis-server, in a healthy container."""
    done = compose(deployment, "exec", "-T", service, "agcluster", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"This {service} works." in done.stdout
    assert "`up" not in done.stdout
    assert "agcluster up" not in done.stdout
    assert "MISSING" not in done.stdout


def test_recipes_run_beside_the_deployment_as_they_are_written(deployment: Deployment) -> None:
    """One shell of the service `ops`, every recipe of operations.md after the other."""
    idle, busy = f"idle-{uuid.uuid4()}", f"busy-{uuid.uuid4()}"
    asked(deployment, idle, "echo hello")
    with ThreadPoolExecutor(2) as beside, closing(deployment.client()) as client:

        def begun(text: str) -> openai.Stream[ChatCompletionChunk]:
            return client.chat.completions.create(
                model=MODEL,
                stream=True,
                messages=[{"role": "user", "content": text}],
                extra_headers={"X-Conversation-ID": busy},
            )

        chunks = begun("stream 600 deltas every 100 ms")
        turn = next(turn_of(chunk.id) for chunk in chunks if chunk.choices[0].delta.content)
        waiting = beside.submit(lambda: next(iter(begun("echo later"))))
        try:
            known = _known(deployment, {"IDLE": idle, "C": busy, "TURN": turn})
            said = _said_by_recipes(deployment, known)
        finally:
            chunks.close()
            client.close()
            with suppress(openai.OpenAIError, StopIteration, httpx.HTTPError):
                waiting.result()
    failed = {title: told for title, (code, told) in said.items() if code}
    assert not failed
    assert not [title for title, (_, told) in said.items() if re.search("ERR |NOPERM", told)]
    for title, word in IN_COMPOSE.items():
        assert word.format(**known) in said[title][1], title
    # The worker that was drained is started again by the engine.
    wait_until("another worker", lambda: bool(_listed(deployment, "workers", "list")), 60)


def _known(deployment: Deployment, named: dict[str, str]) -> dict[str, str]:
    """The ids that the recipes want, found as an operator would: with `agcluster`."""
    sessions = _listed(deployment, "sessions", "list")
    keys = {one["label"]: one["conversation"] for one in sessions}
    (worker,) = _listed(deployment, "workers", "list")
    waits = f"agc:conv:{keys[named['C']]}:todo"

    def first_waiting() -> str:
        return redis(deployment, "LRANGE", waits, "0", "0").strip()

    wait_until("a turn that waits", lambda: bool(first_waiting()), 30)
    return {
        "IDLE": keys[named["IDLE"]],
        "C": keys[named["C"]],
        "TURN": named["TURN"],
        "WAITING": first_waiting(),
        "TENANT": next(one["tenant"] for one in sessions),
        "WORKER": worker["worker"],
        "HOST": worker["host"],
    }


def _listed(deployment: Deployment, *command: str) -> list[dict[str, Any]]:
    done = compose(deployment, "exec", "-T", "api", "agcluster", *command, "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _said_by_recipes(deployment: Deployment, known: dict[str, str]) -> dict[str, tuple[int, str]]:
    """The exit code and the output of each recipe. Those that change something come last."""
    last = ("Stop ", "Cancel ", "Delete ", "Check a key again", "Drain ")
    ordered = sorted(
        recipes(),
        # A worker that was drained is not there to be named again; a message to it does no harm.
        key=lambda recipe: (recipe.title.startswith(last), recipe.title == "Drain one"),
    )
    script = [f"export {name}='{value}'" for name, value in known.items()]
    for number, recipe in enumerate(ordered):
        script += [f"echo '<<{number}'", f"(set -e\n{recipe.commands}) 2>&1", 'echo ">>$?"']
    told = "\n".join(script)
    done = compose(deployment, "run", "--rm", "-T", "ops", told=told)
    found = re.findall(r"^<<(\d+)\n(.*?)^>>(\d+)$", done.stdout, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == len(ordered), done.stdout + done.stderr
    return {ordered[int(n)].title: (int(code), said) for n, said, code in found}


REACHED = """
import socket, sys
for name, port in (("agcluster", 8000), ("redis", 6379), ("api", 8000), ("gateway", 8000)):
    try:
        socket.create_connection((name, port), timeout=2).close()
        print(name)
    except OSError:
        pass
"""


def test_a_chat_server_in_the_front_network_reaches_the_balancer_only(
    deployment: Deployment,
) -> None:
    network = f"{deployment.compose['COMPOSE_PROJECT_NAME']}_front"
    run = ["docker", "run", "--rm", "--network", network, "--entrypoint", "python", CONTROL_IMAGE]
    seen = subprocess.run(
        [*run, "-c", REACHED], capture_output=True, text=True, check=True, timeout=60
    )
    assert seen.stdout.split() == ["agcluster"]
