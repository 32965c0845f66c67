"""Where keys, prompts and answers are found, and where they are not, with every part real.

Canaries are planted through the API: a caller's key, what is asked and answered, what a tool says.
While turns run and after them everything is searched that an operator, a backup, a neighbour or the
agent itself could look at. Each kind of place gets one more canary that has to be found there.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
import redis

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import Deployment, embedded, wait_until
from tests.e2e.secret_scan import (
    Canary,
    Client,
    Specimen,
    Tap,
    called,
    descendants,
    docker,
    files_below,
    inspected,
    is_in_memory,
    kinds,
    letters,
    names_in_commands,
    processes,
    redis_at_rest,
)
from tests.e2e.secret_turns import Caller, Evidence, Planted, run_turns, text_in, user
from tests.parts import AGENT_IMAGE, need

pytestmark = pytest.mark.timeout(240)

composed = pytest.mark.parametrize("deployment", KINDS[2:], indirect=True, scope="package")
each_isolation = pytest.mark.parametrize("deployment", KINDS[:2], indirect=True, scope="package")

IN_REDIS = {"redis values", "redis commands", "redis messages", "redis slowlog", "redis files"}
ELSEWHERE = {"redis names", "environments", "arguments", "logs", "host files", "errors"}
OF_DOCKER = {"docker inspect", "docker logs"}
THE_AGENTS_OWN = {"workspaces", "what an agent sees", "kept files"}
TO_THE_CALLER = {"answers"}

# --- Gathering -----------------------------------------------------------------------------------


def gather(deployment: Deployment, planted: Planted) -> Evidence:
    """Plant, run every kind of turn, and look everywhere, meanwhile and afterwards."""
    assert deployment.data_dir is not None
    evidence = Evidence(planted)
    evidence.cluster_secret = (deployment.data_dir / "secret").read_text().strip()
    socket = deployment.data_dir / "redis" / "redis.sock"
    with ExitStack() as stack:
        client = stack.enter_context(redis.Redis(unix_socket_path=str(socket)))
        stack.enter_context(telling_all(client))
        commands = stack.enter_context(Tap(socket, "MONITOR"))
        messages = stack.enter_context(Tap(socket, "PSUBSCRIBE *"))
        run_turns(deployment, evidence, lambda: look_meanwhile(deployment, evidence))
        wait_until("every turn's end", lambda: not client.zcard("agc:turns:open"), 30)
        stack.enter_context(controls(deployment, client, evidence))
        hear_all(client, commands, messages)
        client.save()
        evidence.specimens += [
            Specimen("redis commands", "MONITOR", commands.heard),
            Specimen("redis messages", "PSUBSCRIBE *", messages.heard),
            Specimen("redis names", "in commands", names_in_commands(commands.heard)),
            *redis_at_rest(client),
            *files_of(deployment),
            *files_below(deployment.data_dir / "redis", "redis files"),
            *processes(),
            *containers_of(deployment),
        ]
    return evidence


def gather_composed(deployment: Deployment, planted: Planted) -> Evidence:
    """The same where Redis lets nobody look: its files, and all there is of containers."""
    evidence = Evidence(planted)
    run_turns(deployment, evidence, lambda: look_meanwhile(deployment, evidence))
    [store] = services(deployment)["redis"]
    evidence.specimens += [
        Specimen("redis files", "/data", docker("cp", f"{store}:/data", "-")),
        *files_of(deployment),
        *processes(),
        *containers_of(deployment),
    ]
    return evidence


def look_meanwhile(deployment: Deployment, evidence: Evidence) -> None:
    """While a turn runs and its key is in use."""
    evidence.specimens += [*files_of(deployment), *processes(), *containers_of(deployment)]
    wanted = evidence.planted.key.text.encode()
    for name, pids in programs(deployment).items():
        evidence.in_memory[name] = any(is_in_memory(pid, wanted) for pid in pids)
        evidence.core_limits[name] = {core_limit(pid) for pid in pids}


def core_limit(pid: int) -> str:
    found = re.search(r"Max core file size +(\S+)", Path(f"/proc/{pid}/limits").read_text())
    return found[1] if found else "?"


# --- Where to look -------------------------------------------------------------------------------


def programs(deployment: Deployment) -> dict[str, set[int]]:
    """The processes of a deployment by the name of their program."""
    if deployment.kind == "compose":
        return {
            name: {main_process(id) for id in ids}
            for name, ids in services(deployment).items()
            if name in ("api", "worker", "gateway", "redis", "engine-proxy")
        }
    names = {
        "api.main": "api",
        "worker.main": "worker",
        "worker.gateway.main": "gateway",
        "redis-server": "redis",
    }
    top = deployment.processes[0].pid
    found = {"up": {top}}
    for pid in descendants(top):
        words = [Path(word.split(" ")[0]).name for word in called(pid)[:4]]
        found |= {name: {pid} for word, name in names.items() if word in words}
    assert len(found) == 5, found
    return found


def files_of(deployment: Deployment) -> Iterator[Specimen]:
    """Logs, and the data folder but for Redis' part."""
    assert deployment.log
    assert deployment.data_dir
    for path in deployment.log.parent.iterdir():
        if path.is_file():
            yield Specimen("logs", path.name, path.read_bytes())
    for specimen in files_below(deployment.data_dir, "host files"):
        place = Path(specimen.where.removeprefix("names in "))
        part = place.relative_to(deployment.data_dir).parts[:1]
        if part == ("w",):
            kind = "what an agent sees" if place.name == "seen" else "workspaces"
            yield Specimen(kind, specimen.where, specimen.held)
        elif part == ("files",):
            yield Specimen("kept files", specimen.where, specimen.held)
        elif part != ("redis",):
            yield specimen


def containers_of(deployment: Deployment) -> Iterator[Specimen]:
    """Of agents, and of programs where those are in containers too."""
    if deployment.kind != "bubblewrap":
        yield from inspected(deployment.containers())
    if deployment.kind == "compose":
        yield from inspected([id for ids in services(deployment).values() for id in ids])


def services(deployment: Deployment) -> dict[str, list[str]]:
    """Containers of a composed deployment by their service."""
    mine = f"label=com.docker.compose.project={deployment.cluster}"
    shown = '{{.Label "com.docker.compose.service"}} {{.ID}}'
    found: dict[str, list[str]] = {}
    for line in docker("ps", "-a", "--filter", mine, "--format", shown).decode().splitlines():
        service, id = line.split()
        found.setdefault(service, []).append(id)
    return found


def main_process(container: str) -> int:
    """Our program in a container, which the container's init has started."""
    first = int(docker("inspect", "--format", "{{.State.Pid}}", container))
    return min(descendants(first), default=first)


@contextlib.contextmanager
def telling_all(client: Client) -> Iterator[None]:
    """A Redis that logs every command as slow, and writes files one can search."""
    wanted = {"slowlog-log-slower-than": 0, "slowlog-max-len": 20000, "rdbcompression": "no"}
    before = {name: client.config_get(name)[name] for name in wanted}
    for name, value in wanted.items():
        client.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.slowlog_reset()


def hear_all(client: redis.Redis, *taps: Tap) -> None:
    """Until taps have heard what was said by now."""
    last = letters(24)
    client.publish("last", last)
    wait_until("the last word", lambda: all(last.encode() in tap.heard for tap in taps), 20)


# --- Controls: what has to be found --------------------------------------------------------------


@contextlib.contextmanager
def controls(deployment: Deployment, client: redis.Redis, evidence: Evidence) -> Iterator[None]:
    """One canary in each kind of place; taken out again at the end."""
    assert deployment.log
    assert deployment.data_dir
    control = evidence.planted.control
    environ = {**os.environ, "CONTROL": control.text}
    waiting = [sys.executable, "-c", "import time; time.sleep(300)", control.text]
    process = subprocess.Popen(waiting, env=environ)
    written = [
        deployment.log.parent / "control.log",
        deployment.data_dir / "control",
        deployment.data_dir / "files" / "control",
        *(deployment.data_dir / "w" / name for name in ("control", "seen")),
    ]
    for path in written:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"a control: {control.text}")
    hidden = base64.b64encode(b"x" + control.text.encode()).decode()
    client.hset(f"control:{control.text[::-1]}", mapping={"field": hidden})
    client.publish("control", control.text.encode().hex())
    evidence.specimens.append(Specimen("errors", "control", control.text.encode()))
    evidence.specimens.append(Specimen("answers", "control", control.text.encode()))
    container = ""
    try:
        if deployment.kind == "docker":
            container = control_container(control)
            evidence.specimens += inspected([container])
        yield
    finally:
        process.kill()
        process.wait(10)
        for path in written:
            path.unlink()
        client.delete(f"control:{control.text[::-1]}")
        if container:
            subprocess.run(["docker", "rm", "-f", container], check=True, timeout=60)


def control_container(control: Canary) -> str:
    """One that has the canary in its environment and in its output."""
    name = f"agc-control-{control.text[:8]}"
    command = ["docker", "run", "--name", name, "--network", "none"]
    command += ["--env", f"CONTROL={control.text}", "--entrypoint", "printenv", AGENT_IMAGE]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return name


# --- As it comes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evidence(deployment: Deployment) -> Evidence:
    if os.geteuid() != 0:
        pytest.skip("needs root: /proc/PID/mem and environ of other users' processes (CI is root)")
    return gather(deployment, Planted())


def places(evidence: Evidence, deployment: Deployment) -> set[str]:
    everywhere = IN_REDIS | ELSEWHERE | THE_AGENTS_OWN | TO_THE_CALLER
    return everywhere | OF_DOCKER if deployment.kind == "docker" else everywhere


@each_isolation
def test_every_kind_of_place_is_searched_so_that_a_canary_is_found(
    deployment: Deployment, evidence: Evidence
) -> None:
    assert kinds(evidence.specimens, evidence.planted.control) == places(evidence, deployment)
    own_look = [
        s for s in evidence.specimens if s.where.endswith("/seen") and b"/environ" in s.held
    ]
    assert own_look, "the agent did not look around"
    assert kinds(own_look, evidence.planted.prompt), "it did not even see its own transcript"
    assert kinds(own_look, Canary("what it has instead of a key", "placeholder"))


@composed
def test_a_composed_deployment_keeps_keys_and_words_to_itself_as_well(
    deployment: Deployment,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: /proc/PID/mem and environ of other users' processes (CI is root)")
    evidence = gather_composed(deployment, Planted())
    assert evidence.found(evidence.planted.keys) == []
    others = evidence.in_memory.keys() - {"api", "gateway"}
    assert {name for name, has in evidence.in_memory.items() if has} == {"api", "gateway"}
    assert others == {"worker", "redis", "engine-proxy"}
    assert evidence.core_limits["api"] == evidence.core_limits["gateway"] == {"0"}
    allowed = IN_REDIS | THE_AGENTS_OWN | TO_THE_CALLER
    assert evidence.found(evidence.planted.said, but=allowed) == []
    assert kinds(evidence.specimens, evidence.planted.prompt) >= {
        "redis files",
        "what an agent sees",
    }


@each_isolation
def test_a_callers_key_is_nowhere_but_in_the_memory_of_api_and_gateway(
    deployment: Deployment, evidence: Evidence
) -> None:
    assert evidence.found(evidence.planted.keys) == []
    assert evidence.in_memory == {
        "api": True,
        "gateway": True,
        "worker": False,
        "redis": False,
        "up": False,
    }


@each_isolation
def test_api_and_gateway_leave_no_core_files(deployment: Deployment, evidence: Evidence) -> None:
    assert evidence.core_limits["api"] == evidence.core_limits["gateway"] == {"0"}


@each_isolation
def test_the_clusters_secret_is_with_api_and_gateway_only(
    deployment: Deployment, evidence: Evidence
) -> None:
    found = evidence.found([Canary("the cluster's secret", evidence.cluster_secret)])
    environments = {s.where for s in found if s.kind == "environments"}
    assert {where.split("launch.py ")[-1].split()[0] for where in environments} == {
        "api.main",
        "worker.gateway.main",
    }
    others = {(s.kind, Path(s.where).name) for s in found if s.kind != "environments"}
    assert others == {("host files", "secret")}
    assert deployment.data_dir
    assert (deployment.data_dir / "secret").stat().st_mode & 0o777 == 0o600


@each_isolation
def test_what_is_said_is_in_redis_values_and_with_the_agent_only(
    deployment: Deployment, evidence: Evidence
) -> None:
    allowed = IN_REDIS | THE_AGENTS_OWN | TO_THE_CALLER
    assert evidence.found(evidence.planted.said, but=allowed) == []
    for canary in evidence.planted.said:
        assert kinds(evidence.specimens, canary) & IN_REDIS, "it was never there"


# --- Sealed --------------------------------------------------------------------------------------

CONTENT_SECRET = letters(40)


@pytest.fixture(scope="module")
def sealed() -> Iterator[tuple[Deployment, Evidence]]:
    """With a content secret, and with logs that tell the most they can."""
    need("bwrap")
    need("redis")
    talkative = {"AGCLUSTER_LOG_LEVEL": "DEBUG", "AGCLUSTER_LOG_FORMAT": "json"}
    with embedded("bubblewrap", AGCLUSTER_CONTENT_SECRET=CONTENT_SECRET, **talkative) as running:
        yield running, gather(running, Planted())


@pytest.mark.bwrap
def test_with_a_content_secret_redis_has_nothing_of_what_is_said(
    sealed: tuple[Deployment, Evidence],
) -> None:
    _, evidence = sealed
    allowed = THE_AGENTS_OWN | TO_THE_CALLER
    assert evidence.found(evidence.planted.said, but=allowed) == []
    assert evidence.found(evidence.planted.keys) == []
    assert kinds(evidence.specimens, evidence.planted.control) >= IN_REDIS


@pytest.mark.bwrap
def test_the_content_secret_is_with_those_who_seal(sealed: tuple[Deployment, Evidence]) -> None:
    _, evidence = sealed
    found = evidence.found([Canary("the content secret", CONTENT_SECRET)])
    assert {s.kind for s in found} == {"environments"}
    assert {s.where.split("launch.py ")[-1].split()[0] for s in found} == {
        "api.main",
        "worker.main",
        "infra.cli.main",
    }


@pytest.mark.bwrap
def test_a_sealed_conversation_goes_on_in_every_way(sealed: tuple[Deployment, Evidence]) -> None:
    """Read again, continued, answered anew, and resumed from its transcript after being idle."""
    deployment, evidence = sealed
    planted, name = evidence.planted, evidence.name
    with closing(Caller(deployment, planted.key.text, evidence.specimens)) as caller:
        whole = caller.call("GET", f"/v1/chat/completions/{evidence.turn}")
        assert planted.answer.text in text_in(whole)
        again = caller.call("GET", f"/v1/chat/completions/{evidence.turn}?stream=true")
        assert planted.answer.text in again.text

        history = [*evidence.chat, user("history")]
        first, second = (text_in(caller.ask(history, name)) for _ in range(2))
        assert first == second, "answered anew, the question was asked twice"
        assert f"remember {planted.prompt.text}" in first

        told = letters(24)
        work = f"tool bash echo {codecs.encode(told, 'rot13')} | tr a-z n-za-m then echo done"
        chat = [*history, {"role": "assistant", "content": second}, user(work)]
        assert text_in(caller.ask(chat, name)) == "done"
        make_cold(deployment, evidence)
        chat += [{"role": "assistant", "content": "done"}, user("echo after")]
        assert text_in(caller.ask(chat, name)) == "after"
        asked = httpx.get(f"{deployment.model_url}/_script/last", timeout=10).text
        assert told in asked, "its transcript was not found: the tool's words are lost"


def make_cold(deployment: Deployment, evidence: Evidence) -> None:
    """As the operator does it: its idle deadline moves to the past."""
    assert deployment.data_dir
    with redis.Redis(unix_socket_path=str(deployment.data_dir / "redis" / "redis.sock")) as client:
        [key] = [
            name
            for name in client.scan_iter("agc:conv:*", _type="hash")
            if client.hget(name, "label") == evidence.name.encode()
        ]
        conversation = key.decode().rsplit(":", 1)[1]
        wait_until(
            "its rest",
            lambda: client.zadd("agc:idle", {conversation: 1}, xx=True, ch=True) == 1,
            30,
        )
        wait_until("its end", lambda: client.hget(key, "state") == b"cold", 30)
