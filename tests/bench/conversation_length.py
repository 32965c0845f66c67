"""What a turn costs when its conversation is long: `python -m tests.bench.conversation_length`.

Conversations grow to a thousand turns; then turns of theirs and of young ones (after ten turns) are
measured in turn. Once for a thin client, which sends its new message only, once for one that
resends everything that was said, as most chat pages do; both name their conversation. CPU is API,
worker and Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import raw_client
from tests.bench.cpu import OURS as OUR_ROLES
from tests.bench.cpu import Spent
from tests.bench.field import OURS, Field
from tests.bench.raw_client import Connection, says
from tests.bench.section import Section, by_role, run_alone
from tests.bench.stats import quantile
from tests.bench.table import ms
from tests.e2e.deployments import GOOD_KEY, MODEL

CHATS = 2
YOUNG = 10
LENGTHS = (10, 100, 250, 500, 1000)
WINDOW = 10
"""Turns of each chat that are measured at a time."""
ROUNDS = 3


@dataclass
class Chat:
    """One conversation and its client."""

    base_url: str
    name: str
    connection: Connection = field(default_factory=Connection)
    said: list[Mapping[str, str]] = field(default_factory=list)
    turns: int = 0

    async def say(self, *, is_thin: bool) -> float:
        """One more turn, seconds to its first delta."""
        question = raw_client.openai(
            self.base_url, model=MODEL, key=GOOD_KEY, conversation=self.name
        )
        [message] = says(f"turn {self.turns} of {self.name}")
        answer = await self.connection.ask(
            question, [message] if is_thin else [*self.said, message]
        )
        self.turns += 1
        self.said += [message, {"role": "assistant", "content": "ok"}]
        return answer.first_delta_s

    async def grow(self, turns: int) -> None:
        """Until it has so many."""
        while self.turns < turns:
            await self.say(is_thin=True)


class Window:
    """Turns of some chats, added up over several times."""

    def __init__(self, around: Field, *, is_thin: bool) -> None:
        self._is_thin = is_thin
        self._spent = Spent({role: around.cluster.roles[role] for role in OUR_ROLES})
        self.waited_s: list[float] = []

    async def measure(self, chats: Sequence[Chat]) -> None:
        self._spent.begin()
        await asyncio.gather(*(self._one(chat) for chat in chats))
        self._spent.end()

    async def _one(self, chat: Chat) -> None:
        for _ in range(WINDOW):
            self.waited_s.append(await chat.say(is_thin=self._is_thin))

    @property
    def cpu_ms(self) -> float:
        return self._spent.measured_s * 1000 / len(self.waited_s)

    @property
    def parts(self) -> str:
        return by_role(self._spent.by_role, len(self.waited_s), unit=1e3)


async def measure(around: Field, is_quick: bool) -> Section:
    """Thin clients, then those that resend."""
    longest = 40 if is_quick else LENGTHS[-1]
    out = Section(
        f"A turn of a long conversation ({CHATS} chats at a time)",
        ["client", "turns before", "CPU ms/turn", "of it", "first delta p50 ms"],
    )
    for is_thin in (True, False):
        await _client(around, out, is_thin, longest, 1 if is_quick else ROUNDS)
    return out


async def _client(around: Field, out: Section, is_thin: bool, longest: int, rounds: int) -> None:
    name = "thin" if is_thin else "resending"
    old = [Chat(around.cluster.base_url, f"old-{name}-{n}") for n in range(CHATS)]
    for length in (length for length in LENGTHS if length < longest):
        await _grown(old, length)
        growing = Window(around, is_thin=is_thin)
        await growing.measure(old)
        out.note(f"length{length}_{name}_ms", OURS, growing.cpu_ms)
    await _grown(old, longest)
    windows = {length: Window(around, is_thin=is_thin) for length in (YOUNG, longest)}
    for turn in range(rounds):
        fresh = [Chat(around.cluster.base_url, f"young-{name}-{turn}-{n}") for n in range(CHATS)]
        await _grown(fresh, YOUNG)
        await windows[YOUNG].measure(fresh)
        await windows[longest].measure(old)
        for chat in fresh:
            chat.connection.close()
    for chat in old:
        chat.connection.close()
    for length, window in windows.items():
        out.note(f"length{length}_{name}_ms", OURS, window.cpu_ms)
        waited = ms(quantile(window.waited_s, 0.5))
        out.rows.append([name, str(length), f"{window.cpu_ms:.2f}", window.parts, waited])
    young, long = windows.values()
    out.note(f"long_{name}_ratio", OURS, long.cpu_ms / young.cpu_ms)


async def _grown(chats: Sequence[Chat], length: int) -> None:
    await asyncio.gather(*(chat.grow(length) for chat in chats))


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
