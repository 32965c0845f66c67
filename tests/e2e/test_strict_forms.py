"""Whole answers and streams of each feature, in the strictest reading of OpenAI's types."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.compatibility import FORM, PIXEL, TOOLS
from tests.e2e import strict
from tests.e2e.conftest import KINDS
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True),
]

PICTURE = {"type": "image_url", "image_url": {"url": PIXEL}}
ASKED: dict[str, dict[str, Any]] = {
    "text": {"prompt": "think Hm. => one two"},
    "tools_of_the_agent": {"prompt": "say Let me see + tool bash echo hi then echo done"},
    "cut": {"prompt": "maxtokens one two then maxtokens three"},
    "object": {"prompt": 'json {"a":1}', "response_format": FORM},
    "calls": {"prompt": 'tools look {"a":1} ;; look {"a":2}', "tools": TOOLS},
    "older_call": {"prompt": 'tool look {"a":1}', "functions": [TOOLS[0]["function"]]},
    "picture": {"prompt": [PICTURE, {"type": "text", "text": "image"}]},
    "stopped": {"prompt": "echo one two three", "stop": ["two"], "reasoning_effort": "low"},
    "file_made": {"prompt": "tool bash mkdir -p outputs && date > outputs/a.txt then echo done"},
    "side": {"prompt": "echo one two", "headers": {"X-Task": "title_generation"}},
}


def ask(deployment: Deployment, *, prompt: Any, headers: Any = None, **more: Any) -> str:
    answer = httpx.post(
        f"{deployment.base_url}/v1/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more},
        headers={"Authorization": f"Bearer {GOOD_KEY}", **(headers or {})},
        timeout=90,
    )
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_answers_have_nothing_that_openai_does_not_have(
    deployment: Deployment, asked: dict[str, Any]
) -> None:
    whole = strict.completion(ask(deployment, **asked))
    more = {"stream": True, "stream_options": {"include_usage": True}}
    *streamed, last = strict.chunks(ask(deployment, **asked, **more))
    assert last.usage is not None
    assert last.choices == []
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in streamed)
    (choice,) = whole.choices
    assert streamed[-1].choices[0].finish_reason == choice.finish_reason
    assert streamed[0].choices[0].delta.role == "assistant"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    # Each turn has links of its own.
    assert said.split("\n---")[0] == (choice.message.content or "").split("\n---")[0]
