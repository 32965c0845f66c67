"""The main job on real parts: an OpenAI client talks to an agent that runs isolated."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import time
import uuid
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.e2e.conftest import IN_CONTAINERS, ONE_KIND
from tests.e2e.deployments import GOOD_KEY, MODEL, WRONG_KEY, Deployment, wait_until

pytestmark = pytest.mark.timeout(240)


def new_name() -> str:
    return f"e2e-{uuid.uuid4()}"


def ask(
    deployment: Deployment,
    prompt: str,
    *,
    name: str | None = None,
    key: str = GOOD_KEY,
    **body: Any,
) -> ChatCompletion:
    """One non-streamed turn."""
    headers = {"X-Conversation-ID": name} if name else {}
    answer: ChatCompletion = deployment.client(key).chat.completions.create(
        model=body.pop("model", MODEL),
        messages=body.pop("messages", [{"role": "user", "content": prompt}]),
        extra_headers=headers,
        **body,
    )
    return answer


def stream(
    deployment: Deployment, prompt: str, *, name: str | None = None, **body: Any
) -> list[tuple[float, ChatCompletionChunk]]:
    """One streamed turn: chunks with their times of arrival."""
    headers = {"X-Conversation-ID": name} if name else {}
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        messages=body.pop("messages", [{"role": "user", "content": prompt}]),
        stream=True,
        extra_headers=headers,
        **body,
    )
    return [(time.monotonic(), chunk) for chunk in chunks]


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def streamed_text(chunks: list[tuple[float, ChatCompletionChunk]]) -> str:
    return "".join(c.choices[0].delta.content or "" for _, c in chunks if c.choices)


def reasoning(chunks: list[tuple[float, ChatCompletionChunk]]) -> str:
    return "".join(
        getattr(c.choices[0].delta, "reasoning_content", None) or "" for _, c in chunks if c.choices
    )


def test_streamed_text_leaves_as_the_model_produces_it(deployment: Deployment) -> None:
    name = new_name()
    ask(deployment, "echo warm", name=name)
    chunks = stream(deployment, "stream 20 deltas every 100 ms", name=name)
    arrivals = [at for at, c in chunks if c.choices and c.choices[0].delta.content]
    assert len(arrivals) >= 15, "deltas were joined although nothing pressed"
    assert arrivals[-1] - arrivals[0] > 1.0, "the text came in one block"
    stamps = [int(word.split("@")[0]) for word in streamed_text(chunks).split()]
    assert stamps == list(range(20))


@ONE_KIND
def test_stream_has_openai_form(deployment: Deployment) -> None:
    chunks = [c for _, c in stream(deployment, "count 5", stream_options={"include_usage": True})]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(c.id, c.model, c.created) for c in chunks}) == 1
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    usage = chunks[-1].usage
    assert chunks[-1].choices == []
    assert usage is not None
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@ONE_KIND
def test_stream_ends_with_done_and_has_no_usage_unasked(deployment: Deployment) -> None:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "echo hi"}]}
    answer = httpx.post(
        f"{deployment.base_url}/chat/completions",
        json=body,
        headers={"x-api-key": GOOD_KEY},
        timeout=60,
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["choices"] for line in lines[:-1])
    assert answer.headers["x-request-id"]


def test_whole_answer_without_streaming(deployment: Deployment) -> None:
    answer = ask(deployment, "echo hello there")
    assert text_of(answer) == "hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0


def test_same_conversation_keeps_its_session(deployment: Deployment) -> None:
    name = new_name()
    ask(deployment, "echo first", name=name)
    answer = ask(deployment, "history", name=name)
    assert '"echo first", "history"' in text_of(answer)


@ONE_KIND
def test_same_name_under_another_key_is_another_conversation(deployment: Deployment) -> None:
    name = new_name()
    ask(deployment, "echo mine", name=name)
    answer = ask(deployment, "history", name=name, key="sk-ant-e2e-other-5d0f2c7b9e4a")
    assert "echo mine" not in text_of(answer)


@ONE_KIND
def test_unnamed_conversation_is_fed_with_the_sent_history(deployment: Deployment) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "earlier question"},
        {"role": "assistant", "content": "earlier answer"},
        {"role": "user", "content": "history"},
    ]
    answer = ask(deployment, "", messages=messages)
    assert '"earlier question", "history"' in text_of(answer)


@ONE_KIND
def test_system_prompt_reaches_the_model(deployment: Deployment) -> None:
    messages = [
        {"role": "system", "content": "the word is heliotrope"},
        {"role": "user", "content": "system"},
    ]
    assert "the word is heliotrope" in text_of(ask(deployment, "", messages=messages))


def test_bash_writes_a_file_and_the_next_turn_reads_it(deployment: Deployment) -> None:
    name = new_name()
    chunks = stream(deployment, "tool bash echo kept-4711 > note.txt; id -u; pwd", name=name)
    assert "1000" in streamed_text(chunks)
    assert "/workspace" in streamed_text(chunks)
    assert "Bash" in reasoning(chunks)
    assert all(not c.choices[0].delta.tool_calls for _, c in chunks if c.choices)
    answer = ask(deployment, "tool read /workspace/note.txt", name=name)
    assert "kept-4711" in text_of(answer)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("tool write /workspace/a.txt needle then tool grep needle /workspace", "a.txt"),
        ('tool write /workspace/b.md x then tool Glob {"pattern": "*.md"}', "b.md"),
        (
            'tool TodoWrite {"todos": [{"content": "one", "status": "pending", '
            '"activeForm": "doing one"}]}',
            "tool said",
        ),
    ],
)
def test_default_tools_work_without_prompts(deployment: Deployment, prompt: str, told: str) -> None:
    answer = text_of(ask(deployment, prompt))
    assert told in answer
    assert "tool error" not in answer


@ONE_KIND
def test_thinking_is_shown_as_reasoning(deployment: Deployment) -> None:
    chunks = stream(deployment, "think pondering deeply => forty-two")
    assert "pondering deeply" in reasoning(chunks)
    assert streamed_text(chunks) == "forty-two"


def test_agent_has_no_network_and_no_key(deployment: Deployment) -> None:
    name = new_name()
    told = text_of(
        ask(
            deployment,
            "tool bash ls /sys/class/net; env; cat /proc/[0-9]*/environ | tr '\\0' '\\n'",
            name=name,
        )
    )
    assert GOOD_KEY not in told
    assert "eth0" not in told
    assert "HOME=" in told
    seen = httpx.get(f"{deployment.model_url}/_script/log", timeout=10).json()
    keys = {e["headers"].get("x-api-key") for e in seen if e["path"] == "/v1/messages"}
    # Other tests ask the same deployment with keys of their own.
    assert all(key and key.startswith("sk-ant-e2e-") for key in keys), "a placeholder came through"


def test_ten_conversations_at_once_do_not_cross(deployment: Deployment) -> None:
    async def run() -> list[str]:
        client = deployment.async_client()

        async def one(i: int) -> str:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"echo only-for-{i} says number-{i}"}],
                extra_headers={"X-Conversation-ID": f"cross-{i}-{uuid.uuid4()}"},
            )
            return answer.choices[0].message.content or ""

        async with client:
            return await asyncio.gather(*(one(i) for i in range(10)))

    assert asyncio.run(run()) == [f"only-for-{i} says number-{i}" for i in range(10)]


@pytest.mark.parametrize("streamed", [False, True])
def test_wrong_key_is_refused_fast_and_starts_nothing(
    deployment: Deployment, streamed: bool
) -> None:
    before = deployment.containers() if deployment.kind != "bubblewrap" else []
    began = time.monotonic()
    key = f"{WRONG_KEY}-{uuid.uuid4()}"
    with pytest.raises(openai.AuthenticationError) as refused:
        deployment.client(key).chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "echo x"}], stream=streamed
        )
    assert time.monotonic() - began < 2
    assert refused.value.code == "invalid_api_key"
    if deployment.kind != "bubblewrap":
        assert set(deployment.containers()) <= set(before)


@ONE_KIND
def test_missing_key_is_401(deployment: Deployment) -> None:
    answer = httpx.post(f"{deployment.base_url}/v1/chat/completions", json={}, timeout=10)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


@ONE_KIND
def test_upstream_refusal_during_the_turn_has_its_status(deployment: Deployment) -> None:
    with pytest.raises(openai.AuthenticationError):
        ask(deployment, "echo x", model="fake-error-401")
    with pytest.raises(openai.RateLimitError):
        ask(deployment, "echo x", model="fake-error-429")


@ONE_KIND
def test_unknown_model_is_404(deployment: Deployment) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(deployment, "echo x", model="gpt-99")
    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"


@ONE_KIND
def test_alias_reaches_the_real_model(deployment: Deployment) -> None:
    assert text_of(ask(deployment, "model", model="claude-sonnet-4.5")) == MODEL


@ONE_KIND
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": MODEL}, "messages"),
        ({"model": MODEL, "messages": []}, "messages"),
        ({"model": MODEL, "messages": "hi"}, "messages"),
        ({"model": MODEL, "messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"model": MODEL, "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
        ({"model": 7, "messages": [{"role": "user", "content": "x"}]}, "model"),
    ],
)
def test_bad_body_is_400_and_names_the_field(
    deployment: Deployment, body: dict[str, Any], param: str
) -> None:
    answer = httpx.post(
        f"{deployment.base_url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {GOOD_KEY}"},
        timeout=10,
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"]


@ONE_KIND
def test_other_paths_and_methods_answer_in_openai_form(deployment: Deployment) -> None:
    for method, path, status in [("GET", "/nope", 404), ("GET", "/v1/chat/completions", 405)]:
        answer = httpx.request(method, deployment.base_url + path, timeout=10)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_models_and_health(deployment: Deployment) -> None:
    models = [m.id for m in deployment.client().models.list()]
    assert MODEL in models
    assert deployment.client().models.retrieve(MODEL).id == MODEL
    health = httpx.get(f"{deployment.base_url}/health", timeout=10).json()
    assert health["status"] == "healthy"
    assert health["agent_image"]
    assert httpx.get(f"{deployment.base_url}/health/live", timeout=10).status_code == 200


def test_hang_up_frees_the_conversation(deployment: Deployment) -> None:
    name = new_name()
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "stream 600 deltas every 100 ms"}],
        stream=True,
        extra_headers={"X-Conversation-ID": name},
    )
    for _ in itertools.islice(chunks, 5):
        pass
    chunks.close()
    began = time.monotonic()
    assert text_of(ask(deployment, "echo next", name=name)) == "next"
    assert time.monotonic() - began < 10


@ONE_KIND
def test_broken_model_stream_neither_loses_nor_doubles_text(deployment: Deployment) -> None:
    chunks = stream(deployment, "drop after 6")
    assert streamed_text(chunks).split() == [f"w{i}" for i in range(11)]


def test_killed_cli_ends_the_turn_with_an_error_and_the_next_turn_works(
    deployment: Deployment,
) -> None:
    name = new_name()
    ask(deployment, "echo before", name=name)
    with pytest.raises(openai.APIError) as failed:
        for _ in stream(deployment, "tool bash kill -9 $PPID; sleep 20", name=name):
            pass
    assert failed.value.message
    assert text_of(ask(deployment, "echo after", name=name)) == "after"


@ONE_KIND
def test_metered_upstream_error_midway_is_an_error_event(deployment: Deployment) -> None:
    with pytest.raises(openai.APIError):
        stream(deployment, "tool bash true then error 529 no-retry")


@IN_CONTAINERS
def test_container_shows_no_key_to_docker(deployment: Deployment) -> None:
    ask(deployment, "echo hold", name=new_name())
    wait_until("a container", lambda: bool(deployment.containers()), 10)
    shown = subprocess.run(
        ["docker", "inspect", *deployment.containers()],
        capture_output=True,
        text=True,
        check=False,  # Idle ones may go meanwhile.
        timeout=30,
    ).stdout
    assert GOOD_KEY not in shown
    found = json.loads(shown)
    assert found
    for container in found:
        host = container["HostConfig"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert container["Config"]["User"].split(":")[0] == "1000"
        assert not any("docker.sock" in m["Source"] for m in container["Mounts"])
