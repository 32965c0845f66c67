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
from tests.e2e.clients.node import LineProgram
from tests.e2e.deployments import Deployment
from tests.e2e.upstream import asked_for, last_asked

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

TITLE = "Provide a concise"


def known(text: str) -> list[str]:
    """The user messages that an answer to `history` tells of."""
    told: list[str] = json.loads(text.partition("users: ")[2])
    return told


def test_title_leaves_first_and_never_enters_the_chat(
    docker_deployment: Deployment, librechat: LineProgram
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


def test_answer_streams_folds_tools_away_and_follows_the_instructions(
    docker_deployment: Deployment, librechat: LineProgram
) -> None:
    chat = Chat(librechat, instructions="the word is heliotrope")
    assert "pondering" in chat.send("think pondering => done then tool bash true").reasoning
    assert "Bash" in chat.send("tool bash echo tool-out").reasoning
    call = chat.begin("stream 20 deltas every 50 ms")
    assert list(call.events()).count("on_message_delta") >= 10
    assert len(chat.finish(call).text.split()) == 20
    assert "heliotrope" in chat.send("system").text
    chat.instructions = "the word is gamboge"
    told = chat.send("system").text
    assert "gamboge" in told
    assert "heliotrope" not in told


def test_regenerated_answer_does_not_know_the_one_before(
    docker_deployment: Deployment, librechat: LineProgram
) -> None:
    """Of the first message, of a later one, and under the id of the answer it replaces."""
    chat = Chat(librechat)
    chat.send("history")
    assert known(chat.regenerate().text) == ["history"]
    before = chat.send("history")
    for message in (None, chat.message):
        again = chat.regenerate(message=message)
        assert again.failure is None
        assert known(again.text) == ["history", "history"]
        assert before.text not in json.dumps(last_asked(docker_deployment)["messages"])


def test_edited_message_drops_what_followed_but_no_file(
    docker_deployment: Deployment, librechat: LineProgram
) -> None:
    chat = Chat(librechat)
    write = "tool bash echo kept-4711 > note.txt"
    for text in (write, "echo two", "echo three"):
        chat.send(text)
    chat.edit(1, "echo other")
    assert known(chat.send("history").text) == [write, "echo other", "history"]
    assert known(chat.edit(0, "history").text) == ["history"]
    assert "kept-4711" in chat.edit(0, "tool read /workspace/note.txt").text


def test_stopped_answer_and_next_turn_fit_together(
    docker_deployment: Deployment, librechat: LineProgram
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
    docker_deployment: Deployment, librechat: LineProgram
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
