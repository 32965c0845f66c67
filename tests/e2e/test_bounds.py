"""Where an answer ends, as the official client streams it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment
from tests.e2e.upstream import last_asked

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[:2], indirect=True),
]

AT_ONCE = "stream 3000 deltas of 40 chars"
"""120 kB, faster than anybody can interrupt."""
SLOWLY = "stream 400 deltas every 20 ms plain"


class Chat:
    """One conversation, whose answers are streamed."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._name = {"X-Conversation-ID": f"bounds-{uuid.uuid4()}"}
        self._seen: list[Any] = []

    def say(self, prompt: str, **bounds: Any) -> tuple[str, str | None]:
        """The answer, and why it ended."""
        self._seen.append({"role": "user", "content": prompt})
        said, reason = "", None
        with self._deployment.client().chat.completions.create(
            model=MODEL, messages=self._seen, stream=True, extra_headers=self._name, **bounds
        ) as chunks:
            for chunk in chunks:
                for choice in chunk.choices:
                    said += choice.delta.content or ""
                    reason = choice.finish_reason or reason
        self._seen.append({"role": "assistant", "content": said})
        return said, reason


@pytest.mark.parametrize("prompt", [AT_ONCE, SLOWLY])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_it_ends_at_its_limit_and_the_chat_goes_on(
    deployment: Deployment, prompt: str, limit: str
) -> None:
    chat = Chat(deployment)
    said, reason = chat.say(prompt, **{limit: 5})
    assert (len(said), reason) == (20, "length")
    assert chat.say("echo after") == ("after", "stop")
    told = json.dumps(last_asked(deployment)["messages"])
    assert said.strip() in told, "what was shown is remembered"
    assert "API Error" not in told


def test_it_ends_before_a_stop_sequence(deployment: Deployment) -> None:
    chat = Chat(deployment)
    assert chat.say(SLOWLY, stop=["7 8 9", "no"]) == ("0 1 2 3 4 5 6 ", "stop")
    assert chat.say("echo after", stop="none") == ("after", "stop")
