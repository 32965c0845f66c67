"""A call that has to be approved, from the client's side: nothing but chat, and what the page
shows counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from tests.e2e.conftest import ONE_KIND
from tests.e2e.deployments import Deployment
from tests.e2e.test_interruptions import program

pytestmark = [ONE_KIND, pytest.mark.timeout(240)]

AGENT = "code-assistant"
"""It asks before it pushes."""


class Chat:
    """A page in a client that resends what it shows."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._headers = {"X-Conversation-ID": f"approve-{uuid.uuid4()}"}
        self.seen: list[Any] = []

    def say(self, text: str, **headers: str) -> str:
        """One more message. Returns the answer's text."""
        self.seen.append({"role": "user", "content": text})
        with self._deployment.client() as client:
            answer = client.chat.completions.create(
                model=AGENT, messages=self.seen, extra_headers=self._headers | headers
            )
        said = answer.choices[0].message.content or ""
        self.seen.append({"role": "assistant", "content": said})
        return said

    def back_to(self, messages: int) -> None:
        """Somebody edits, or asks for another answer."""
        del self.seen[messages:]


PUSH = "tool bash echo git push >> pushed then echo (made in its stead) then tool bash wc -l pushed"


def count_in(said: str) -> int:
    """What `wc -l pushed` has said."""
    return int(said.split("tool said:")[1].split()[0])


@pytest.fixture
def chat(deployment: Deployment) -> Chat:
    return Chat(deployment)


def test_a_call_is_approved_in_plain_chat_after_its_container_is_gone(
    deployment: Deployment, chat: Chat
) -> None:
    before = set(deployment.containers())
    shown = chat.say(f"tool bash echo begun then {PUSH}")
    assert "**May I do this?**" in shown
    assert "```sh\necho git push >> pushed\n```" in shown
    (own,) = set(deployment.containers()) - before
    subprocess.run(["docker", "kill", own], check=True, capture_output=True, timeout=30)
    assert count_in(chat.say("1")) == 1
    assert chat.say("echo and on") == "and on"


def test_what_the_page_shows_counts(chat: Chat) -> None:
    assert "May I do this?" in chat.say(PUSH)
    key = {"Idempotency-Key": uuid.uuid4().hex}
    assert count_in(chat.say("yes", **key)) == 1
    chat.back_to(2)
    assert count_in(chat.say("yes", **key)) == 1, "the same message sent twice"
    chat.back_to(2)
    refused = chat.say("no, not yet")
    assert "May I" not in refused
    chat.back_to(2)
    assert count_in(chat.say("1")) == 2, "another answer to the answer: it was approved again"
    chat.back_to(0)
    assert "May I do this?" in chat.say(PUSH), "another answer to the first message asks again"
    chat.say("something else: tell me a story")
    assert count_in(chat.say("tool bash wc -l pushed")) == 2


def test_always_is_said_once(deployment: Deployment, chat: Chat) -> None:
    chat.say(PUSH)
    os.kill(program(deployment, "worker.main"), signal.SIGKILL)
    assert count_in(chat.say("2")) == 1
    assert count_in(chat.say("tool bash echo git push >> pushed then tool bash wc -l pushed")) == 2
    chat.back_to(2)
    chat.say("1")
    assert "May I do this?" in chat.say(PUSH), "on this page nobody has said always"


def test_a_program_gets_a_call_of_its_function(deployment: Deployment) -> None:
    asking: Any = {"type": "function", "function": {"name": "agcluster_ask_user"}}
    seen: list[Any] = [{"role": "user", "content": PUSH}]
    with deployment.client() as client:
        first = client.chat.completions.create(model=AGENT, messages=seen, tools=[asking])
        assert first.choices[0].finish_reason == "tool_calls"
        calls: Sequence[Any] = first.choices[0].message.tool_calls or ()
        (call,) = calls
        told = json.loads(call.function.arguments)
        assert (told["kind"], told["input"]["command"]) == (
            "permission",
            "echo git push >> pushed",
        )
        seen += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "1"},
        ]
        second = client.chat.completions.create(model=AGENT, messages=seen, tools=[asking])
    assert count_in(second.choices[0].message.content or "") == 1
