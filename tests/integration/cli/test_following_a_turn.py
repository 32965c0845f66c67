"""One turn can be followed by its id through the logs of all programs."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.integration.cli.up_process import Start, wait

pytestmark = [pytest.mark.bwrap, pytest.mark.redis, pytest.mark.sdk, pytest.mark.timeout(240)]

STEPS = {
    "worker": ("turn claimed", "container started", "first delta", "agent ready", "turn ended"),
    "gateway": (),
    "api": ("answered",),
}
"""What each program says about a turn, in this order."""


def lines_of(text: str, program: str, turn: str) -> list[str]:
    return [
        line for line in text.splitlines() if line.startswith(program) and f"turn={turn}" in line
    ]


def test_every_program_says_which_turn_it_works_on(start: Start) -> None:
    up = start("--demo", AGCLUSTER_SPARES_MAX="0", AGCLUSTER_LOG_LEVEL="DEBUG")
    up.wait_ready()
    answer = httpx.post(
        f"{up.url}/v1/chat/completions",
        headers={"Authorization": "Bearer sk-ant-demo"},
        json={
            "model": "claude-sonnet-4.5",
            "messages": [{"role": "user", "content": "run curl -s http://example.org"}],
        },
        timeout=90,
    )
    assert answer.status_code == 200, up.said()
    turn = answer.json()["id"].replace("chatcmpl-", "turn_")
    wait("the end of its request", lambda: bool(lines_of(up.said(), "api", turn)))
    last = STEPS["worker"][-1]
    wait("its end", lambda: any(last in line for line in lines_of(up.said(), "worker", turn)))

    for program, steps in STEPS.items():
        told = lines_of(up.said(), program, turn)
        assert told, f"{program}: {up.said()}"
        places = [next(i for i, line in enumerate(told) if step in line) for step in steps]
        assert places == sorted(places), told
    for step, took in (("container started", "took_ms"), ("first delta", "after_ms")):
        (line,) = (line for line in lines_of(up.said(), "worker", turn) if step in line)
        assert re.search(rf"{took}=\d+", line)
    assert re.search(r"^worker +\| \d\d:\d\d:\d\d\.\d{3} ", up.said(), re.MULTILINE)
