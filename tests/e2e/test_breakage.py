"""What an agent can do to its own container, and what of it anybody else notices.

The commands are run by the agent's Bash tool, inside real containers and nowhere else. All of them
run in one go, a few at a time beside one long stream of a neighbour; each test then looks at what
one of them came to.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from infra.wire.errors import ErrorCode
from tests.e2e.deployments import MODEL, Deployment

pytestmark = [pytest.mark.timeout(600), pytest.mark.docker]

AT_ONCE = 3
TURN_MAX_S = 150.0
"""Each turn ends within that or the client gives up and the test fails. Seconds at ease; a busy
machine takes its time."""
NEIGHBOUR_DELTAS = 300

FAULTS = {
    "fork bomb": ":(){ :|:& };:",
    "memory": "python3 -c 'hog = [bytearray(50 << 20) for _ in range(60)]'",
    "kill all": "kill -9 -1",
    "full tmp": "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=/tmp/$i bs=1M count=60; done",
    "full home": "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=$HOME/$i bs=1M count=60; done",
    "full workspace": "for i in $(seq 99); do dd if=/dev/zero of=$i bs=1M count=40; sleep .2; done",
    "agent server": "kill -9 $(pgrep -f agent.main)",
    "cli": "kill -9 $PPID; sleep 5",
    "first process": "kill -9 1; kill -TERM 1; sleep 5",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a turn with a fault, and of the two after it."""

    answer: str
    """Its answer; empty when it ended with an error."""
    code: str | None
    remembered: str
    """What the next turn's agent says of its history."""
    tool: str
    """What a tool says in the turn after that."""


@pytest.fixture(scope="module")
def outcomes(docker_deployment: Deployment) -> Mapping[str, Outcome]:
    """Every fault once, beside a neighbour whose stream has to be exact."""
    with ThreadPoolExecutor(AT_ONCE + 1) as pool:
        neighbour: Future[Sequence[int]] = pool.submit(_stream, docker_deployment)
        begun = {name: pool.submit(_suffer, docker_deployment, FAULTS[name]) for name in FAULTS}
        found = {name: outcome.result() for name, outcome in begun.items()}
        assert neighbour.result() == list(range(NEIGHBOUR_DELTAS))
    return found


def _stream(deployment: Deployment) -> Sequence[int]:
    """The numbers of a neighbour's deltas, as they came."""
    chunks = deployment.client(timeout=TURN_MAX_S).chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": f"stream {NEIGHBOUR_DELTAS} deltas every 100 ms"},
        ],
        stream=True,
        extra_headers={"X-Conversation-ID": f"neighbour-{uuid.uuid4()}"},
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return [int(word.split("@")[0]) for word in said.split()]


def _suffer(deployment: Deployment, command: str) -> Outcome:
    name, prompt = f"breakage-{uuid.uuid4()}", f"tool bash {command}"
    answer, code = "", None
    try:
        answer = _ask(deployment, name, prompt)
    except openai.APIStatusError as error:
        code = error.code
    remembered = _ask(deployment, name, prompt, "history")
    tool = _ask(deployment, name, prompt, "history", "tool bash rm -rf /tmp/[0-9]; echo it works")
    return Outcome(answer, code, remembered, tool)


def _ask(deployment: Deployment, name: str, *prompts: str) -> str:
    """The answer to the last prompt; what was said between them is not told."""
    messages: list[Any] = [{"role": "user", "content": prompt} for prompt in prompts]
    answer = deployment.client(timeout=TURN_MAX_S).chat.completions.create(
        model=MODEL, messages=messages, extra_headers={"X-Conversation-ID": name}
    )
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_container_costs_a_turn_at_most_and_never_the_conversation(
    outcomes: Mapping[str, Outcome], fault: str
) -> None:
    outcome = outcomes[fault]
    assert "tool bash" in outcome.remembered
    assert "it works" in outcome.tool


@pytest.mark.parametrize("fault", ["memory", "full tmp", "full home"])
def test_what_the_agent_outlives_is_its_tools_failure(
    outcomes: Mapping[str, Outcome], fault: str
) -> None:
    assert outcomes[fault].code is None
    assert outcomes[fault].answer


def test_a_fork_bomb_is_its_tools_failure_or_ends_the_turn(
    outcomes: Mapping[str, Outcome],
) -> None:
    """The CLI shares the container's number of processes with its tools. Where the bomb has taken
    them all while the CLI needs a thread, the CLI ends."""
    outcome = outcomes["fork bomb"]
    assert outcome.code in {None, ErrorCode.AGENT_FAILED}
    assert bool(outcome.answer) is (outcome.code is None)


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        # The kernel's kill for want of memory and anybody else's look alike from outside.
        ("kill all", {ErrorCode.OUT_OF_MEMORY, ErrorCode.CONTAINER_LOST}),
        ("agent server", {ErrorCode.OUT_OF_MEMORY, ErrorCode.CONTAINER_LOST}),
        ("cli", {ErrorCode.AGENT_FAILED}),
        ("first process", {ErrorCode.CONTAINER_LOST}),
        ("full workspace", {ErrorCode.WORKSPACE_FULL}),
    ],
)
def test_what_the_agent_does_not_outlive_ends_the_turn_with_its_code(
    outcomes: Mapping[str, Outcome], fault: str, codes: set[ErrorCode]
) -> None:
    assert outcomes[fault].code in codes
