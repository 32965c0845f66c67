"""What is asked: the model itself, and whatever stands between it and a client.

Targets take turns within one run, so that a busy moment of the machine falls on all of them. A lane
is a caller's place: a connection of its own and, at ours, a conversation of its own.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.bench import litellm, raw_client
from tests.bench.cpu import Roles
from tests.bench.not_here import NotHere
from tests.bench.processes import started
from tests.bench.raw_client import Answer, Connection, Question
from tests.bench.stand_in import SLOTS, StandIn, stand_in
from tests.e2e.deployments import GOOD_KEY, MODEL, free_port

DIRECT, LITELLM, OURS = "direct", "litellm", "ours"
TITLES = {DIRECT: "model asked directly", LITELLM: "LiteLLM proxy", OURS: "AgCluster"}
AT_ONCE = "count 1"
"""Answered with one delta, at once."""
LITELLM_LANES_MAX = 400
WARM_AT_ONCE = 8


@dataclass
class Target:
    """Something that answers scripts."""

    name: str
    question: Callable[[int], Question]
    roles: Roles
    lanes_max: int
    lanes: dict[int, Connection] = field(default_factory=dict)
    _asked: Iterator[int] = field(default_factory=count)

    async def ask(self, prompt: str, *, lane: int = 0, is_streamed: bool = True) -> Answer:
        """One answer, to its end. Raises `Incomplete`."""
        # The same words again would be taken for a repeat of the request, which costs more.
        says = raw_client.says(f"{prompt} #{next(self._asked)}")
        return await self.connection(lane).ask(self.question(lane), says, is_streamed=is_streamed)

    def connection(self, lane: int) -> Connection:
        """The lane's own."""
        return self.lanes.setdefault(lane, Connection())

    async def warm_up(self, lanes: int) -> None:
        """Connections, conversations and code are warm before anything counts."""
        able = min(lanes, self.lanes_max)
        for first in range(0, able, WARM_AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for lane in range(first, min(able, first + WARM_AT_ONCE)):
                    group.create_task(self.ask(AT_ONCE, lane=lane))

    def hang_up(self) -> None:
        """Close every connection."""
        for connection in self.lanes.values():
            connection.close()
        self.lanes.clear()


@dataclass(frozen=True)
class Field:
    """Everything that was started for a run."""

    targets: Sequence[Target]
    cluster: StandIn
    missing: Mapping[str, str]
    """Why a target is not among them."""

    @property
    def ours(self) -> Target:
        return self.target(OURS)

    def target(self, name: str) -> Target:
        return next(target for target in self.targets if target.name == name)

    def able(self, lanes: int) -> Sequence[Target]:
        """Those that can be asked in so many lanes at once."""
        return [target for target in self.targets if target.lanes_max >= lanes]


@contextmanager
def field_of(*, program: str | None = None, apis: int = 1, workers: int = 1) -> Iterator[Field]:
    """The model, LiteLLM's proxy where its program is given, and a cluster with stand-in agents.

    Raises `NotHere` without a redis-server.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agcb-")))
        port = free_port()
        model_url = f"http://127.0.0.1:{port}"
        model = stack.enter_context(
            started(
                [sys.executable, "-m", "tests.bench.quick_model", str(port)],
                log=folder / "model.log",
                ready_url=f"{model_url}/v1/models",
            )
        )
        direct = raw_client.anthropic(model_url, model=MODEL, key=GOOD_KEY)
        targets = [Target(DIRECT, lambda lane: direct, {"model": [model.pid]}, SLOTS)]
        missing = {}
        try:
            url, pid = stack.enter_context(litellm.litellm(model_url, program, folder))
            proxied = raw_client.openai(url, model=MODEL, key=litellm.KEY)
            roles = {"litellm": [pid]}
            targets.append(Target(LITELLM, lambda lane: proxied, roles, LITELLM_LANES_MAX))
        except (NotHere, RuntimeError, TimeoutError) as reason:
            missing[LITELLM] = str(reason)
        cluster = stack.enter_context(stand_in(folder, model_url, apis=apis, workers=workers))
        targets.append(ours(cluster))
        yield Field(targets, cluster, missing)


def ours(cluster: StandIn) -> Target:
    """Our API; each lane is a conversation of its own, at one of the replicas."""

    def question(lane: int) -> Question:
        url = cluster.base_urls[lane % len(cluster.base_urls)]
        return raw_client.openai(url, model=MODEL, key=GOOD_KEY, conversation=f"bench-{lane}")

    return Target(OURS, question, cluster.roles, SLOTS)
