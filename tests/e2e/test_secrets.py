"""Where keys, prompts and answers are found, and where they are not, with every part real.

Canaries are planted through the API: a caller's key, what is asked and answered, what a tool says.
While turns run and after them everything is searched that an operator, a backup, a neighbour or the
agent itself could look at. Each kind of place gets one more canary that has to be found there.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment, embedded, wait_until
from tests.e2e.secret_scan import (
    Canary,
    Sighting,
    Specimen,
    Tap,
    called,
    descendants,
    files_below,
    inspected,
    is_in_memory,
    kinds,
    letters,
    names_in_commands,
    processes,
    redis_at_rest,
    sightings,
)
from tests.parts import AGENT_IMAGE, need

pytestmark = pytest.mark.timeout(240)

each_isolation = pytest.mark.parametrize("deployment", KINDS[:2], indirect=True, scope="package")

WRONG = "sk-ant-wrong-"
"""How a key begins that the scripted model refuses."""

IN_REDIS = {"redis values", "redis commands", "redis messages", "redis slowlog", "redis files"}
ELSEWHERE = {"redis names", "environments", "arguments", "logs", "host files", "errors"}
OF_DOCKER = {"docker inspect", "docker logs"}
THE_AGENTS_OWN = {"workspaces", "what an agent sees"}
TO_THE_CALLER = {"answers"}

LOOK_AROUND = """
import codecs, os, time
held = open("/workspace/seen", "wb")
def look(path):
    try:
        with open(path, "rb") as file:
            held.write(path.encode() + b"\\n" + file.read(4 << 20) + b"\\n")
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "mountinfo"):
        look(f"/proc/{pid}/{name}")
recent = time.time() - 3600
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [f for f in folders if f not in ("proc", "sys")]
    for name in files:
        path = os.path.join(folder, name)
        try:
            if path != held.name and os.path.isfile(path) and os.lstat(path).st_ctime > recent:
                look(path)
        except OSError:
            pass
held.close()
"""


@dataclass(frozen=True)
class Planted:
    """What is searched for."""

    key: Canary = field(
        # As long as a real one, and no pattern of keys that the logs' last net would mask.
        default_factory=lambda: Canary("the key", f"cnry/{letters(30)}+{letters(30)}=")
    )
    wrong_key: Canary = field(default_factory=lambda: Canary("the wrong key", WRONG + letters(40)))
    prompt: Canary = field(default_factory=lambda: Canary("the prompt", letters(24)))
    system: Canary = field(default_factory=lambda: Canary("the system prompt", letters(24)))
    answer: Canary = field(default_factory=lambda: Canary("the answer", letters(24)))
    tool: Canary = field(default_factory=lambda: Canary("the tool's output", letters(24)))
    control: Canary = field(default_factory=lambda: Canary("the control", letters(24)))

    @property
    def keys(self) -> list[Canary]:
        """The keys, whole and in part."""
        text = self.key.text
        parts = [Canary("the key's head", text[5:25]), Canary("the key's tail", text[-21:-1])]
        return [self.key, *parts, self.wrong_key, Canary("its tail", self.wrong_key.text[-20:])]

    @property
    def said(self) -> list[Canary]:
        return [self.prompt, self.system, self.answer, self.tool]


@dataclass
class Evidence:
    """All that was found, and what was planted."""

    planted: Planted
    specimens: list[Specimen] = field(default_factory=list)
    in_memory: dict[str, bool] = field(default_factory=dict)
    """Whether a program had the key in its memory while a turn ran."""
    core_limits: dict[str, str] = field(default_factory=dict)
    cluster_secret: str = ""
    turn: str = ""
    """The id of the turn in which a tool ran."""
    chat: list[dict[str, str]] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"canary-{uuid.uuid4()}")

    def found(self, canaries: Sequence[Canary], *, but: set[str] = frozenset()) -> list[Sighting]:  # type: ignore[assignment]
        return sightings((s for s in self.specimens if s.kind not in but), canaries)


class Caller:
    """A client that keeps what it is told."""

    def __init__(self, deployment: Deployment, key: str, told: list[Specimen]) -> None:
        self._http = httpx.Client(
            base_url=deployment.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=90
        )
        self._told = told

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._http.request(method, path, **options)
        self._keep(answer, answer.content)
        return answer

    def ask(self, messages: Sequence[Any], name: str, *, model: str = MODEL) -> httpx.Response:
        body = {"model": model, "messages": messages}
        headers = {"X-Conversation-ID": name}
        return self.call("POST", "/v1/chat/completions", json=body, headers=headers)

    @contextlib.contextmanager
    def stream(self, messages: Sequence[Any], name: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The chunks; leaving early hangs up."""
        body = {"model": MODEL, "messages": messages, "stream": True}
        with self._http.stream(
            "POST", "/v1/chat/completions", json=body, headers={"X-Conversation-ID": name}
        ) as answer:
            assert answer.status_code == 200, answer.read()
            self._keep(answer, b"")
            yield (
                json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data: {")
            )

    def _keep(self, answer: httpx.Response, body: bytes) -> None:
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.multi_items())
        what = f"{answer.request.method} {answer.request.url.path} {answer.status_code}"
        self._told.append(Specimen("errors", f"head of {what}", head.encode()))
        kind = "errors" if answer.status_code >= 400 else "answers"
        self._told.append(Specimen(kind, what, body))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def text_in(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


# --- The turns -----------------------------------------------------------------------------------


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
        run_turns(deployment, evidence)
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


def run_turns(deployment: Deployment, evidence: Evidence) -> None:
    planted, name, chat = evidence.planted, evidence.name, evidence.chat
    key = planted.key.text
    with closing(Caller(deployment, key, evidence.specimens)) as caller:
        chat += [
            {"role": "system", "content": f"Your password is {planted.system.text}."},
            user(f"remember {planted.prompt.text}"),
        ]
        chat.append({"role": "assistant", "content": text_in(caller.ask(chat, name))})
        chat.append(user(looking_around(planted)))
        with caller.stream(chat, name) as chunks:
            streamed = list(chunks)
        evidence.turn = streamed[0]["id"]
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in streamed)
        assert planted.answer.text in text
        chat.append({"role": "assistant", "content": text})

        assert caller.ask([user("echo hi")], name, model="fake-error-401").status_code == 401
        title = f"### Task:\nGenerate a title.\nUser: {planted.prompt.text}"
        text_in(caller.ask([user(title)], name))
        with caller.stream([*chat, user("stream 600 deltas every 50 ms")], name) as chunks:
            for _ in range(5):
                next(chunks)
            look_meanwhile(deployment, evidence)
        put_the_key_in_odd_places(caller, key)
    with closing(Caller(deployment, planted.wrong_key.text, evidence.specimens)) as stranger:
        assert stranger.ask([user("echo hi")], name).status_code == 401


def looking_around(planted: Planted) -> str:
    """A turn whose tool says its canary, which is not in the command, and whose answer another."""
    told = f"print(codecs.encode({codecs.encode(planted.tool.text, 'rot13')!r}, 'rot13'))"
    command = f"python3 - <<'EOS'\n{LOOK_AROUND}{told}\nEOS\n"
    return f"tool Bash {json.dumps({'command': command})} then echo {planted.answer.text}"


def look_meanwhile(deployment: Deployment, evidence: Evidence) -> None:
    """While a turn runs and its key is in use."""
    evidence.specimens += [*files_of(deployment), *processes(), *containers_of(deployment)]
    wanted = evidence.planted.key.text.encode()
    for name, pid in programs(deployment).items():
        evidence.in_memory[name] = is_in_memory(pid, wanted)
        limits = Path(f"/proc/{pid}/limits").read_text()
        found = re.search(r"Max core file size +(\S+ +\S+)", limits)
        evidence.core_limits[name] = " ".join(found[1].split()) if found else "?"


def put_the_key_in_odd_places(caller: Caller, key: str) -> None:
    """Where people put it by mistake; nobody is to keep it or to tell it again."""
    body = {"model": MODEL, "messages": [user("### Task:\nGenerate a title for: nothing")]}
    path = "/v1/chat/completions"
    good = {**body, "api_key": key, "user": key, "stream_options": {key: key}}
    assert caller.call("POST", path, json=good, params={"api_key": key}).status_code == 200
    cookie = {
        "X-Request-ID": key,
        "Cookie": f"key={key}",
        "X-Api-Key": key,
        "Proxy-Authorization": f"Basic {key}",
    }
    assert caller.call("POST", path, json=body, headers=cookie).status_code == 200
    for bad in (
        {"json": {**body, "model": key}},
        {"json": {**body, "messages": key}},
        {"json": {**body, "messages": [{"role": key, "content": "hi"}]}},
        {"json": {**body, "messages": [{"role": "user", "content": [{"type": key}]}]}},
        {"json": {**body, "temperature": key}},
        {"json": [key]},
        {"content": f'{{"model": "{key}'},
        {"content": f'{{"messages": {key}}}'},
        {"json": body, "headers": {"X-AgCluster-Profile": key}},
        {"json": body, "headers": {"X-Conversation-ID": key}},
        {"json": body, "headers": {"X-Conversation-ID": key * 9}},
        {"json": body, "headers": {"Authorization": f"Bearer {key} {key}"}},
    ):
        assert 400 <= caller.call("POST", path, **bad).status_code < 500, bad
    for lost in (f"/v1/{key}", f"{path}/{key}", f"/v1/sessions/{key}", f"/{key}?key={key}"):
        assert caller.call("GET", lost).status_code in (400, 404)


# --- Where to look -------------------------------------------------------------------------------


def programs(deployment: Deployment) -> dict[str, int]:
    """The processes of an embedded deployment by name."""
    names = {
        "api.main": "api",
        "worker.main": "worker",
        "worker.gateway.main": "gateway",
        "redis-server": "redis",
    }
    top = deployment.processes[0].pid
    found = {"up": top}
    for pid in descendants(top):
        words = [Path(word.split(" ")[0]).name for word in called(pid)[:4]]
        found |= {name: pid for word, name in names.items() if word in words}
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
        elif part != ("redis",):
            yield specimen


def containers_of(deployment: Deployment) -> Iterator[Specimen]:
    if deployment.kind == "docker":
        yield from inspected(deployment.containers())


@contextlib.contextmanager
def telling_all(client: redis.Redis) -> Iterator[None]:
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
        *(deployment.data_dir / "w" / name for name in ("control", "seen")),
    ]
    for path in written:
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
        pytest.skip("who is not root sees neither memory nor environments of others")
    return gather(deployment, Planted())


def places(evidence: Evidence, deployment: Deployment) -> set[str]:
    everywhere = IN_REDIS | ELSEWHERE | THE_AGENTS_OWN | TO_THE_CALLER
    return everywhere | OF_DOCKER if deployment.kind == "docker" else everywhere


@each_isolation
def test_every_kind_of_place_is_searched_so_that_a_canary_is_found(
    deployment: Deployment, evidence: Evidence
) -> None:
    assert kinds(evidence.specimens, evidence.planted.control) == places(evidence, deployment)
    own_look = [s for s in evidence.specimens if s.where.endswith("/seen") and b"environ" in s.held]
    assert own_look, "the agent did not look around"
    assert kinds(own_look, evidence.planted.prompt), "it did not even see its own transcript"
    assert kinds(own_look, Canary("what it has instead of a key", "placeholder"))


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
    assert evidence.core_limits["api"] == evidence.core_limits["gateway"] == "0 0"


@each_isolation
def test_the_clusters_secret_is_with_api_and_gateway_only(
    deployment: Deployment, evidence: Evidence
) -> None:
    found = evidence.found([Canary("the cluster's secret", evidence.cluster_secret)])
    environments = {s.where for s in found if s.kind == "environments"}
    assert {where.split(" -m ")[-1].split()[0] for where in environments} == {
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
    assert {s.where.split(" -m ")[-1].split()[0] for s in found} == {
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
