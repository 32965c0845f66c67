"""What is planted for the search for secrets: canaries, and turns of every kind that carry them."""

from __future__ import annotations

import codecs
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.deployments import MODEL, Deployment
from tests.e2e.secret_scan import Canary, Sighting, Specimen, letters, sightings

WRONG = "sk-ant-wrong-"
"""How a key begins that the scripted model refuses."""

LOOK_AROUND = """
import codecs, os
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
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [f for f in folders if f not in ("proc", "sys")]
    for name in files:
        path = os.path.join(folder, name)
        try:
            if path != held.name and os.path.isfile(path) and os.lstat(path).st_ctime > SINCE:
                look(path)
        except OSError:
            pass
held.close()
"""


@dataclass(frozen=True)
class Planted:
    """What is searched for."""

    since: int = field(default_factory=lambda: int(time.time()) - 1)
    """When nothing of it was there yet, in seconds: an older file cannot hold it."""
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
    core_limits: dict[str, set[str]] = field(default_factory=dict)
    cluster_secret: str = ""
    turn: str = ""
    """The id of the turn in which a tool ran."""
    chat: list[dict[str, str]] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"canary-{uuid.uuid4()}")

    def found(
        self, canaries: Sequence[Canary], *, but: Container[str] = frozenset()
    ) -> list[Sighting]:
        """Where canaries were found, kinds of place left out."""
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


def run_turns(deployment: Deployment, evidence: Evidence, meanwhile: Callable[[], None]) -> None:
    """Every kind of turn; `meanwhile` is called while one runs and its key is in use."""
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
            meanwhile()
        put_the_key_in_odd_places(caller, key)
        assert text_in(caller.ask([*chat, user("echo over")], name)) == "over"
    with closing(Caller(deployment, planted.wrong_key.text, evidence.specimens)) as stranger:
        assert stranger.ask([user("echo hi")], name).status_code == 401


def looking_around(planted: Planted) -> str:
    """A turn whose tool says its canary, which is not in the command, and whose answer another."""
    told = f"print(codecs.encode({codecs.encode(planted.tool.text, 'rot13')!r}, 'rot13'))"
    command = f"python3 - <<'EOS'\n{LOOK_AROUND.replace('SINCE', str(planted.since))}{told}\nEOS\n"
    return f"tool Bash {json.dumps({'command': command})} then echo {planted.answer.text}"


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
        {"json": body, "headers": {"X-AgCluster-Egress-Profile": key}},
        {"json": body, "headers": {"X-Conversation-ID": key}},
        {"json": body, "headers": {"X-Conversation-ID": key * 9}},
        {"json": body, "headers": {"Authorization": f"Bearer {key} {key}"}},
    ):
        assert 400 <= caller.call("POST", path, **bad).status_code < 500, bad
    for lost in (f"/v1/{key}", f"{path}/{key}", f"/v1/sessions/{key}", f"/{key}?key={key}"):
        assert caller.call("GET", lost).status_code in (400, 404)
