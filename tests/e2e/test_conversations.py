"""Conversations behave as people expect: what a client does, and what the agent then knows.

Runs on one deployment with Docker: none of this depends on what agents are isolated by.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment, embedded, wait_until
from tests.e2e.upstream import asked_for, last_asked
from tests.parts import need
from tests.walks.__main__ import walk
from tests.walks.walker import MODELS

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

OTHER_KEY = "sk-ant-e2e-other-5d0f2c7b9e4a"
IDLE_TIMEOUT_S = 3
NO_HEADERS: Mapping[str, str] = {}


class Chat:
    """A client that resends what it sees, as nearly all do; without a name unless given one."""

    def __init__(self, deployment: Deployment, name: str | None = None) -> None:
        self.deployment = deployment
        self.headers = {"X-Conversation-ID": name} if name else {}
        self.seen: list[Any] = []

    def say(self, text: str, headers: Mapping[str, str] = NO_HEADERS) -> str:
        self.seen.append({"role": "user", "content": text})
        return self.again(headers)

    def again(self, headers: Mapping[str, str] = NO_HEADERS) -> str:
        """Send what is seen, which ends with a user message."""
        said = text_of(ask(self.deployment, self.seen, {**self.headers, **headers}))
        self.seen.append({"role": "assistant", "content": said})
        return said


@pytest.fixture
def here(docker_deployment: Deployment) -> Deployment:
    return docker_deployment


@pytest.fixture(scope="module")
def hasty() -> Iterator[Deployment]:
    """A deployment whose agents go soon after their last turn, and that pings often."""
    need("docker")
    need("redis")
    soon = {
        "AGCLUSTER_IDLE_TIMEOUT_S": str(IDLE_TIMEOUT_S),
        "AGCLUSTER_PING_INTERVAL_S": "1",
        "AGCLUSTER_COMMIT_AFTER_S": "1",
        "AGCLUSTER_MODELS": ",".join(MODELS),
    }
    with embedded("docker", **soon) as running:
        yield running


@pytest.fixture(scope="module")
def warm() -> dict[str, str]:
    """The name of one conversation for all tests that only need some agent, each with a new
    message of its own. Starting agents is what takes the time."""
    return {"X-Conversation-ID": new_name()}


def new_name() -> str:
    return f"conv-{uuid.uuid4()}"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def ask(
    deployment: Deployment,
    messages: list[Any],
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    key: str = GOOD_KEY,
    body: Mapping[str, Any] | None = None,
) -> ChatCompletion:
    """One whole answer to these messages."""
    answer: ChatCompletion = deployment.client(key).chat.completions.create(
        model=MODEL, messages=messages, extra_headers=headers, extra_body=body
    )
    return answer


def stream(
    deployment: Deployment, text: str, headers: Mapping[str, str] = NO_HEADERS
) -> openai.Stream[ChatCompletionChunk]:
    chunks: openai.Stream[ChatCompletionChunk] = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        stream=True,
        extra_headers=headers,
    )
    return chunks


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def texts(chunks: openai.Stream[ChatCompletionChunk]) -> Iterator[str]:
    return (c.choices[0].delta.content or "" for c in chunks if c.choices)


def known(told: str) -> list[str]:
    """The user messages that an answer to `history` tells of."""
    said: list[str] = json.loads(told.partition("users: ")[2])
    return said


def call(
    deployment: Deployment,
    method: str,
    path: str,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    key: str = GOOD_KEY,
) -> httpx.Response:
    return httpx.request(
        method,
        f"{deployment.base_url}/v1{path}",
        headers={"Authorization": f"Bearer {key}", **headers},
        timeout=60,
    )


def get(
    deployment: Deployment,
    path: str,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    key: str = GOOD_KEY,
) -> httpx.Response:
    return call(deployment, "GET", path, headers, key=key)


# --- 1. Naming -----------------------------------------------------------------------------------


def test_all_ways_to_name_a_conversation_reach_it(here: Deployment) -> None:
    name = new_name()
    before = set(here.containers())
    ask(here, [user("tool bash echo kept-4711 > note.txt")], {"X-OpenWebUI-Chat-Id": name})
    ways: list[dict[str, str]] = [
        {"X-Conversation-ID": name},
        {"X-Conversation-ID": "", "ChatUI-Conversation-ID": name},
        {"X-Conversation-ID": "{{LIBRECHAT_BODY_CONVERSATIONID}}", "metadata": name},
    ]
    for way in ways:
        body = {"metadata": {"conversation_id": way.pop("metadata", "another")}}
        told = ask(here, [user("tool read /workspace/note.txt")], way, body=body)
        assert "kept-4711" in text_of(told)
    assert len(set(here.containers()) - before) == 1


def test_name_of_absurd_length_is_refused(here: Deployment) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(here, [user("echo x")], {"X-Conversation-ID": "x" * 1000})
    assert refused.value.param == "X-Conversation-ID"


# --- 2. Clients that name nothing ----------------------------------------------------------------


def test_unnamed_conversation_keeps_its_container_and_files(here: Deployment) -> None:
    before = set(here.containers())
    chat = Chat(here)
    chat.say(f"tool bash echo {uuid.uuid4()} kept-4711 > note.txt")
    assert "kept-4711" in chat.say("tool read /workspace/note.txt")
    assert "kept-4711" in chat.say("tool bash cat note.txt")
    assert len(set(here.containers()) - before) == 1


def test_equal_unnamed_chats_never_share_a_container(here: Deployment) -> None:
    """Each leaves a mark of its own where it runs; nobody may ever see two."""
    begin = f"tool bash date +%N > mark-$(date +%N); echo {uuid.uuid4()}"
    chats = [Chat(here), Chat(here)]
    for chat in chats:
        chat.say(begin)
    for chat in chats:
        said = chat.say("tool bash echo marks: $(ls | grep -c mark)")
        assert "marks: 2" not in said


# --- 3. What was sent is the truth ---------------------------------------------------------------


def test_answers_follow_the_branch_the_client_shows(here: Deployment) -> None:
    chat = Chat(here, new_name())
    for text in ("echo one", "tool bash echo of-the-tool", "echo three"):
        chat.say(text)
        chat.seen[-1]["content"] = chat.seen[-1]["content"][:2] + "…"  # As a page may shorten it.
    said = ["echo one", "tool bash echo of-the-tool", "echo three", "history"]
    assert known(chat.say("history")) == said
    assert "tool_use" in json.dumps(last_asked(here)["messages"]), "the agent's memory was dropped"

    answered = chat.seen.pop()["content"]
    assert known(chat.again()) == said, "regenerated"
    assert answered not in json.dumps(last_asked(here)["messages"])

    del chat.seen[2:]
    chat.say("echo other")
    assert known(chat.say("history")) == ["echo one", "echo other", "history"], "edited"

    del chat.seen[:]
    assert known(chat.say("history", {"X-Parent-Message-ID": "p1"})) == ["history"], "anew"


def test_agent_remembers_the_answer_that_the_page_shows(here: Deployment) -> None:
    """Two models side by side, or an older version picked again; then an answer is edited."""
    chat = Chat(here, new_name())
    chat.say("tool bash echo of-the-tool")
    chat.say("model")
    other = {"role": "assistant", "content": "claude-haiku-4-5-20251001"}
    chat.seen[-1] = other
    chat.say("echo three")
    # The CLI's own words name the model too, in what it puts before the first message.
    answers = [m for m in last_asked(here)["messages"] if m["role"] == "assistant"]
    assert "haiku" in json.dumps(answers)
    assert MODEL not in json.dumps(answers), "the version that is not on the page is remembered"
    assert "tool_use" in json.dumps(answers), "what came before it was dropped"

    chat.seen[-1]["content"] = "edited by hand"
    chat.say("echo four")
    said = [m["content"][-1].get("text") for m in last_asked(here)["messages"]]
    assert said[-3:] == ["echo three", "edited by hand", "echo four"]


def test_thin_client_appends(here: Deployment) -> None:
    name = {"X-Conversation-ID": new_name()}
    ask(here, [user("echo one")], name)
    ask(here, [user("echo two")], name)
    told = text_of(ask(here, [user("history")], name))
    assert known(told) == ["echo one", "echo two", "history"]


def test_system_prompt_may_change_between_turns(here: Deployment) -> None:
    name = {"X-Conversation-ID": new_name()}
    seen: list[Any] = [{"role": "system", "content": "the word is heliotrope"}, user("system")]
    told = text_of(ask(here, seen, name))
    assert "heliotrope" in told
    seen = [{"role": "system", "content": "the word is gamboge"}, user("system")]
    seen += [{"role": "assistant", "content": told}, user("system")]
    told = text_of(ask(here, seen, name))
    assert "gamboge" in told
    assert "heliotrope" not in told


@pytest.mark.parametrize("header", ["X-Message-ID", "Idempotency-Key"])
def test_repeated_turn_runs_once(here: Deployment, warm: dict[str, str], header: str) -> None:
    mark = uuid.uuid4().hex
    headers = {**warm, header: uuid.uuid4().hex}
    sent: list[Any] = [user(f"sleep 2500 then echo {mark}")]

    async def repeat() -> list[str]:
        async with here.async_client() as client:

            async def one(wait_s: float) -> ChatCompletion:
                await asyncio.sleep(wait_s)
                answer: ChatCompletion = await client.chat.completions.create(
                    model=MODEL,
                    messages=sent,
                    extra_headers=headers,
                )
                return answer

            answers = await asyncio.gather(one(0), one(0.5), one(1.0))
        assert len({answer.id for answer in answers}) == 1
        return [text_of(answer) for answer in answers]

    assert asyncio.run(repeat()) == ["slept"] * 3
    assert len(asked_for(here, mark)) == 1


def test_finished_turn_is_answered_again_for_its_idempotency_key(
    here: Deployment, warm: dict[str, str]
) -> None:
    mark = uuid.uuid4().hex
    headers = {**warm, "Idempotency-Key": uuid.uuid4().hex}
    first = ask(here, [user(f"echo {mark}")], headers)
    again = ask(here, [user(f"echo {mark}")], headers)
    assert (again.id, text_of(again)) == (first.id, mark)
    assert len(asked_for(here, mark)) == 1


# --- 4. Side requests ----------------------------------------------------------------------------


def test_side_requests_start_no_agent_and_enter_no_chat(here: Deployment) -> None:
    name = new_name()
    chat = Chat(here, name)
    chat.say("echo one")
    before = set(here.containers())
    task = "### Task:\nGenerate a title.\n<chat_history>\nUSER: echo one\n</chat_history>"
    began = time.monotonic()
    ask(here, [user(task)], {"X-Conversation-ID": name})
    ask(here, [user("history")], {"X-Conversation-ID": name, "X-Task": "tags_generation"})
    utility = [m.id for m in here.client().models.list() if "utility" in m.id]
    assert utility, "no utility model is offered"
    ask(here, [user("echo side")], {"X-Conversation-ID": name}, body={"model": utility[0]})
    assert time.monotonic() - began < 5
    assert set(here.containers()) <= before
    assert known(chat.say("history")) == ["echo one", "history"]
    assert "### Task" not in json.dumps(last_asked(here)["messages"])


def test_side_requests_do_not_wait_for_the_turn_that_runs(
    here: Deployment, warm: dict[str, str]
) -> None:
    chunks = stream(here, "stream 600 deltas every 50 ms", warm)
    for _ in itertools.islice(texts(chunks), 3):
        pass
    began = time.monotonic()
    ask(here, [user("echo title")], {**warm, "X-Task": "title_generation"})
    assert time.monotonic() - began < 4
    chunks.close()


# --- 5. One turn at a time -----------------------------------------------------------------------


def test_twenty_requests_at_once_make_one_container_and_ordered_turns(here: Deployment) -> None:
    before = set(here.containers())
    mark = uuid.uuid4().hex[:8]
    headers = {"X-Conversation-ID": new_name()}

    async def race() -> list[ChatCompletion | BaseException]:
        async with here.async_client() as client:
            asked = [
                client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": f"echo race-{mark}-{i}"}],
                    extra_headers=headers,
                )
                for i in range(20)
            ]
            return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(race())
    answered = 0
    for i, outcome in enumerate(outcomes):
        if isinstance(outcome, openai.RateLimitError):
            assert outcome.response.headers["retry-after"]
            continue
        assert not isinstance(outcome, BaseException), outcome
        assert text_of(outcome) == f"race-{mark}-{i}"
        answered += 1
    assert answered >= 8
    assert len(set(here.containers()) - before) == 1
    calls = [entry["facts"] for entry in asked_for(here, mark)]
    assert set(Counter(facts["prompt"] for facts in calls).values()) == {1}, "a turn ran twice"
    told = known(text_of(ask(here, [user("history")], headers)))
    assert told == [*(facts["prompt"] for facts in calls), "history"], "turns ran side by side"


def test_waiting_turn_is_kept_alive_with_comments(hasty: Deployment) -> None:
    headers = {"X-Conversation-ID": new_name()}
    first = stream(hasty, "stream 50 deltas every 100 ms", headers)
    next(texts(first))
    with httpx.stream(
        "POST",
        f"{hasty.base_url}/v1/chat/completions",
        json={"model": MODEL, "stream": True, "messages": [user("echo waited")]},
        headers={"Authorization": f"Bearer {GOOD_KEY}", **headers},
        timeout=15,
    ) as second:
        lines = list(itertools.takewhile(lambda line: "waited" not in line, second.iter_lines()))
    pings = [line for line in lines if line.startswith(":")]
    assert len(pings) >= 2, lines
    assert "49@" in "".join(texts(first)), "the waiting turn began before the one ahead had ended"


# --- 6. Stop -------------------------------------------------------------------------------------


def test_turn_goes_on_without_its_client_when_asked_to(
    here: Deployment, warm: dict[str, str]
) -> None:
    chunks = stream(here, "stream 40 deltas every 50 ms", {**warm, "X-On-Disconnect": "continue"})
    first = next(iter(chunks))
    chunks.close()
    wait_until(
        "the turn's end",
        lambda: (
            get(here, f"/chat/completions/{first.id}").status_code == 200
            and _finish_reason(get(here, f"/chat/completions/{first.id}")) == "stop"
        ),
        30,
    )
    said = get(here, f"/chat/completions/{first.id}").json()["choices"][0]["message"]["content"]
    assert [int(word.split("@")[0]) for word in said.split()] == list(range(40))


def _finish_reason(answer: httpx.Response) -> str | None:
    choices = answer.json().get("choices") or [{}]
    reason: str | None = choices[0].get("finish_reason")
    return reason


# --- 7. Coming back ------------------------------------------------------------------------------


def test_client_comes_back_to_a_running_stream(here: Deployment, warm: dict[str, str]) -> None:
    headers = {**warm, "X-On-Disconnect": "continue", "X-Event-IDs": "true"}
    body = {"model": MODEL, "stream": True, "messages": [user("stream 60 deltas every 50 ms")]}
    seen = ""
    with httpx.stream(
        "POST",
        f"{here.base_url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {GOOD_KEY}", **headers},
        timeout=60,
    ) as answer:
        last_id, turn = None, None
        for line in answer.iter_lines():
            if line.startswith("id:"):
                last_id = line[3:].strip()
            elif line.startswith("data:"):
                chunk = json.loads(line[5:])
                turn = chunk["id"]
                seen += chunk["choices"][0]["delta"].get("content") or ""
            elif not line and len(seen.split()) >= 5:
                break
    assert last_id, "events carry no id"
    rest = get(here, f"/chat/completions/{turn}?stream=true", {"Last-Event-ID": last_id})
    assert rest.status_code == 200
    lines = [line[5:].strip() for line in rest.text.splitlines() if line.startswith("data:")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert {chunk["id"] for chunk in chunks} == {turn}
    seen += "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert [int(word.split("@")[0]) for word in seen.split()] == list(range(60))

    whole = get(here, f"/chat/completions/{turn}").json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == seen
    replayed = get(here, f"/chat/completions/{turn}?stream=true").text
    assert replayed.count("data:") > 50


def test_completion_of_another_tenant_is_not_found(here: Deployment, warm: dict[str, str]) -> None:
    turn = ask(here, [user("echo mine")], warm).id
    assert get(here, f"/chat/completions/{turn}").status_code == 200
    for method, path in [("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel")]:
        refused = call(here, method, f"/chat/completions/{turn}{path}", key=OTHER_KEY)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "turn_not_found"


def test_cancelled_turn_ends_for_all_who_read_it(here: Deployment, warm: dict[str, str]) -> None:
    chunks = stream(here, "stream 600 deltas every 50 ms", warm)
    turn = next(iter(chunks)).id
    began = time.monotonic()
    assert call(here, "POST", f"/chat/completions/{turn}/cancel").status_code == 200
    with pytest.raises(openai.APIError) as ended:
        for _ in chunks:
            pass
    assert ended.value.code == "turn_cancelled"
    assert time.monotonic() - began < 10
    assert known(text_of(ask(here, [user("history")], warm)))[-1] == "history"
    assert time.monotonic() - began < 15


# --- 8. Idle -------------------------------------------------------------------------------------


def test_idle_conversation_costs_nothing_and_goes_on_as_if_it_had_stayed(
    hasty: Deployment,
) -> None:
    """Meanwhile a silent tool of another conversation outlives the idle timeout: a turn that runs
    is not idle."""
    chat = Chat(hasty, new_name())
    with ThreadPoolExecutor(1) as beside:
        busy = beside.submit(Chat(hasty, new_name()).say, "tool bash sleep 12; echo woke")
        chat.say("tool bash echo kept-4711 > note.txt; echo told-by-tool")
        chat.say("echo two")
        assert "woke" in busy.result(120)
    wait_until("the reaper", lambda: not hasty.containers(), IDLE_TIMEOUT_S + 15)
    assert hasty.data_dir is not None
    assert not list((hasty.data_dir / "s").glob("[!.]*")), "socket folders were left"

    said = chat.say("history")
    assert known(said)[-2:] == ["echo two", "history"]
    remembered = json.dumps(last_asked(hasty)["messages"])
    assert "tool_result" in remembered, "the transcript was lost; only the sent history came back"
    assert "kept-4711" in chat.say("tool read /workspace/note.txt")
    assert len(hasty.containers()) == 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [3])
def test_memory_is_what_the_page_shows(hasty: Deployment, seed: int) -> None:
    """Sent, stopped, redone, edited, picked again, in two tabs, after the container is gone: every
    model call has the page's messages and answers and no others. `make soak` walks on."""
    asyncio.run(walk(hasty, seed, steps=8, kinds=("thin", "resends")))


def test_another_temporary_chat_finds_none_of_the_files(here: Deployment) -> None:
    """Open WebUI names temporary chats after the browser's connection, one after the other."""
    name = {"X-OpenWebUI-Chat-Id": f"local:{uuid.uuid4().hex[:8]}"}
    ask(here, [user("tool bash echo kept > note.txt")], name)
    said = text_of(ask(here, [user("tool bash echo files: $(ls)")], name))
    assert "files:" in said
    assert "note.txt" not in said


# --- 9. Sessions ---------------------------------------------------------------------------------


def test_sessions_are_listed_shown_and_truly_deleted(here: Deployment) -> None:
    assert here.data_dir is not None
    workspaces = set((here.data_dir / "w").glob("[!.]*"))
    before = set(here.containers())
    name = new_name()
    ask(here, [user("tool bash echo kept > note.txt")], {"X-Conversation-ID": name})
    (workspace,) = set((here.data_dir / "w").glob("[!.]*")) - workspaces
    c = workspace.name
    assert _keys_of(here, c)

    listed = get(here, "/sessions").json()
    assert name in json.dumps(listed)
    assert name not in json.dumps(get(here, "/sessions", key=OTHER_KEY).json())
    shown = get(here, f"/sessions/{name}")
    assert shown.status_code == 200
    assert shown.json()["turns"] == 1
    assert call(here, "DELETE", f"/sessions/{name}", key=OTHER_KEY).status_code == 404

    assert call(here, "DELETE", f"/sessions/{name}").status_code in (200, 202, 204)
    wait_until("the end of its container", lambda: not set(here.containers()) - before, 20)
    wait_until("the end of its files", lambda: not workspace.exists(), 20)
    wait_until("the end of its keys", lambda: not _keys_of(here, c), 20)
    assert get(here, f"/sessions/{name}").status_code == 404
    told = text_of(ask(here, [user("tool bash ls | wc -l")], {"X-Conversation-ID": name}))
    assert told.endswith("0"), "something of the deleted session was left"


def _keys_of(deployment: Deployment, conversation: str) -> list[str]:
    """Every key of Redis that names the conversation, or holds its name in a hash's field."""
    import redis

    assert deployment.data_dir is not None
    client = redis.Redis(unix_socket_path=str(deployment.data_dir / "redis" / "redis.sock"))
    with client:
        return [key.decode() for key in client.scan_iter(match=f"*{conversation}*")]
