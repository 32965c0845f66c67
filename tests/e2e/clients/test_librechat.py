"""LibreChat's own calling code: what its users do, and what the agent then knows.

The agent's knowledge is read where it cannot lie: in what the model was asked.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from typing import Any

import pytest

from tests.e2e.clients.balancer import impatient_balancer
from tests.e2e.clients.chat import Chat
from tests.e2e.clients.node import NodeProgram
from tests.e2e.deployments import Deployment
from tests.e2e.upstream import asked_for, last_asked

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

TITLE = "Provide a concise"


def known(text: str) -> list[str]:
    """The user messages that an answer to `history` tells of."""
    told: list[str] = json.loads(text.partition("users: ")[2])
    return told


def test_title_leaves_first_and_never_enters_the_chat(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    before = set(docker_deployment.containers())
    librechat.ask("posts")
    chat = Chat(librechat)
    mark = uuid.uuid4().hex[:8]
    hello = f"echo hello {mark}"
    answer = chat.send(hello)
    titled, asked = librechat.ask("posts")
    assert TITLE in titled["body"], "the title request did not leave first"
    ids = ["x-conversation-id", "x-message-id", "x-parent-message-id"]
    assert [titled["headers"][n] for n in ids] == [asked["headers"][n] for n in ids]

    assert answer.failure is None
    assert answer.text == hello.removeprefix("echo ")
    assert isinstance(answer.title, str), answer.title
    second = chat.send("history")
    assert known(second.text) == [hello, "history"]
    assert TITLE not in json.dumps(last_asked(docker_deployment)["messages"])
    assert len(set(docker_deployment.containers()) - before) == 1
    (title_call,) = asked_for(docker_deployment, TITLE, also=mark)
    assert title_call["facts"]["tools"] == 0, "the title was made by an agent"


def test_answer_streams_and_tools_are_folded_into_reasoning(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat)
    answer = chat.send("think pondering => done then tool bash echo tool-out")
    assert answer.failure is None
    assert "pondering" in answer.reasoning
    call = chat.begin("stream 20 deltas every 50 ms")
    assert list(call.events()).count("on_message_delta") >= 10
    assert len(chat.finish(call).text.split()) == 20


def test_agent_keeps_instructions_of_each_turn(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat, instructions="the word is heliotrope")
    assert "heliotrope" in chat.send("system").text
    chat.instructions = "the word is gamboge"
    told = chat.send("system").text
    assert "gamboge" in told
    assert "heliotrope" not in told


@pytest.mark.parametrize("is_same_id", [False, True])
def test_regenerated_answer_does_not_know_the_one_before(
    docker_deployment: Deployment, librechat: NodeProgram, is_same_id: bool
) -> None:
    chat = Chat(librechat)
    chat.send("echo one")
    first = chat.send("history")
    again = chat.regenerate(message=chat.message if is_same_id else None)
    assert again.failure is None
    assert known(again.text) == ["echo one", "history"]
    assert first.text not in json.dumps(last_asked(docker_deployment)["messages"])


def test_first_answer_regenerated_begins_anew(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat)
    chat.send("history")
    again = chat.regenerate()
    assert known(again.text) == ["history"]
    assert known(chat.send("history").text) == ["history", "history"]


def test_edited_middle_message_drops_what_followed(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat)
    for text in ("echo one", "echo two", "echo three"):
        chat.send(text)
    chat.edit(1, "echo other")
    assert known(chat.send("history").text) == ["echo one", "echo other", "history"]


def test_edited_first_message_begins_anew(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat)
    for text in ("echo one", "echo two"):
        chat.send(text)
    assert known(chat.edit(0, "history").text) == ["history"]


def test_workspace_stays_when_a_chat_branches(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat)
    chat.send("tool bash echo kept-4711 > note.txt")
    assert "kept-4711" in chat.edit(0, "tool read /workspace/note.txt").text


def test_stopped_answer_and_next_turn_fit_together(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    chat = Chat(librechat)
    chat.send("echo warm")
    call = chat.begin("stream 600 deltas every 50 ms")
    deltas = (event for event in call.events() if event == "on_message_delta")
    assert len(list(itertools.islice(deltas, 5))) == 5
    cut = chat.stop(call)
    assert cut.text.startswith("0@")
    began = time.monotonic()
    answer = chat.send("history")
    assert time.monotonic() - began < 10
    assert known(answer.text) == ["echo warm", "stream 600 deltas every 50 ms", "history"]
    assert _answers(last_asked(docker_deployment))[1].startswith(cut.text[:40])


def test_turn_repeated_while_it_runs_is_run_once(
    docker_deployment: Deployment, librechat: NodeProgram
) -> None:
    """LangChain repeats a turn after any 5xx, here of a balancer that lost patience."""
    mark = f"slow-{uuid.uuid4()}"
    with impatient_balancer(docker_deployment.base_url, gives_up_on=mark) as balancer:
        chat = Chat(librechat, base_url=f"{balancer.url}/v1")
        chat.seen = [{"role": "user", "content": "echo x"}, {"role": "assistant", "content": "x"}]
        answer = chat.send(f"sleep 4000 then tool bash echo {mark}")
        assert answer.failure is None
        assert answer.text == "slept"
        assert balancer.given_up == 1
        assert balancer.passed == 2, "LangChain did not repeat the request"
    assert len(asked_for(docker_deployment, mark)) == 1


def _answers(asked: dict[str, Any]) -> list[str]:
    told = []
    for message in asked["messages"]:
        if message["role"] == "assistant":
            content = message["content"]
            blocks = content if isinstance(content, list) else [{"text": content}]
            told.append("".join(block.get("text", "") for block in blocks))
    return told
