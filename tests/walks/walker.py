"""A random walk over one chat page: steps a person takes, and a look at the memory after each.

Four kinds of clients. `thin` sends what is new only. The others send the whole page again:
`resends` under a name, `nameless` without one, `cuts` with no more than the first half of each
answer. A client with ids of messages differs from `resends` in nothing that the service reads.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

import httpx

from tests.walks.page import Exchange, Page, Told, difference, told_by

Kind = Literal["resends", "thin", "nameless", "cuts"]
MODELS = ("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001")
COLD_S = 90.0
ANSWER_S = 180.0
RETRY = {"x-stainless-retry-count": "1"}
NONE: Mapping[str, str] = {}


class WrongMemory(AssertionError):
    """The agent was told something else than the page shows. Says the steps that led there."""


@dataclass(frozen=True)
class Place:
    """A deployment and its scripted model, which nobody else asks meanwhile."""

    base_url: str
    model_url: str
    key: str


class Walker:
    """One page in one conversation. The same seed takes the same steps."""

    def __init__(
        self,
        place: Place,
        http: httpx.AsyncClient,
        *,
        seed: int,
        kind: Kind,
        pause: float = 1.0,
    ) -> None:
        """`pause` scales the moments before a stop."""
        self._pause = pause
        self.steps: list[str] = []
        self._place = place
        self._http = http
        self._random = random.Random(f"{seed} {kind}")
        self._kind = kind
        self._name = f"walk-{kind}-{seed}-{uuid.uuid4().hex[:8]}"
        self._page = Page()
        self._model = MODELS[0]
        self._system: str | None = None
        self._count = 0

    async def walk(self, steps: int) -> None:
        """Raises `WrongMemory`."""
        # The first one as a person does it: some are stopped before their agent has started.
        await self._random.choice((self._send, self._stop))()
        for _ in range(steps - 1):
            await self._random.choice(self._possible())()

    def _possible(self) -> list[Callable[[], Any]]:
        steps = [self._send] * 3 + [self._stop] * 3
        steps += [self._other_model, self._other_system, self._side, self._refused, self._retry]
        if self._has_name:
            steps.append(self._go_cold)
        if self._kind != "thin" and self._page.shown:
            steps += [self._regenerate, self._edit, self._edit_answer, self._two_tabs] * 2
            steps += [self._pick] * 2 * bool(self._page.versions)
        return steps

    @property
    def _has_name(self) -> bool:
        """Without one nobody can look at its session."""
        return self._kind != "nameless"

    # Steps

    async def _send(self) -> None:
        await self._ask(self._words())

    async def _stop(self) -> None:
        """Stop it at any moment: before the agent has it, before its first word, in the middle."""
        self._count += 1
        deltas = 60 + self._count
        await self._ask(
            f"stream {deltas} deltas every 30 ms plain",
            stop_after=self._random.choice((0, 0, 1, 1, 5, 20) if self._has_name else (1, 5, 20)),
            stop_in_s=self._random.choice((0.0, 0.05, 0.3, 1.0)),
        )

    async def _retry(self) -> None:
        """A client's library asks again while the turn runs: one message, one answer."""
        self._count += 1
        said = f"stream {100 + self._count} deltas every 30 ms plain"
        self._note(f"{said}; ask again")
        turns = await self._turns()
        words: tuple[list[str], list[str]] = [], []
        has_begun = asyncio.Event()
        async with asyncio.timeout(ANSWER_S), asyncio.TaskGroup() as group:
            first = self._read(self._page, said, words[0], None, has_begun=has_begun)
            group.create_task(first)
            await has_begun.wait()
            group.create_task(self._read(self._page, said, words[1], None, headers=RETRY))
        one, other = map("".join, words)
        if one != other or await self._turns() - turns > 1:
            self._fail(f"asked twice, answered {one!r} and {other!r}", [])
        self._page.shown.append(self._exchange(said, one))
        await self._look()
        await self._send()

    async def _regenerate(self) -> None:
        said = self._page.shown[-1].said
        self._page.branch(len(self._page.shown) - 1)
        await self._ask(said)

    async def _edit(self) -> None:
        self._page.branch(self._random.randrange(len(self._page.shown)))
        await self._ask(self._words())

    async def _pick(self) -> None:
        self._note("pick an older version")
        self._page.pick(self._random.randrange(len(self._page.versions)))
        await self._send()

    async def _edit_answer(self) -> None:
        self._count += 1
        at = self._random.randrange(len(self._page.shown))
        self._note(f"edit answer {at}")
        self._page.edit_answer(at, f"edited by hand, {self._count}")
        await self._send()

    async def _two_tabs(self) -> None:
        """Both send from the same page; the one that is answered last is looked at from then on."""
        self._note("two tabs")
        here, there = self._page, Page(list(self._page.shown), [])
        words = self._words(), self._words()
        order: list[Page] = []

        async def tab(page: Page, said: str) -> None:
            answer = await self._answer(page, said, stop_after=None, stop_in_s=0)
            page.shown.append(self._exchange(said, answer[0]))
            order.append(page)

        async with asyncio.TaskGroup() as group:
            group.create_task(tab(here, words[0]))
            group.create_task(tab(there, words[1]))
        self._page = Page(order[-1].shown, [*here.versions, order[0].shown])
        await self._look()

    async def _other_model(self) -> None:
        self._model = self._random.choice(MODELS)
        self._note(f"model {self._model}")
        await self._send()

    async def _other_system(self) -> None:
        self._count += 1
        self._system = self._random.choice((None, f"You are walker {self._count}."))
        self._note(f"system prompt {self._system}")
        await self._send()

    async def _side(self) -> None:
        """A title of the chat: it must leave no trace."""
        self._note("side request")
        task = f"### Task:\nGenerate a title.\n<chat_history>\n{self._count}\n</chat_history>"
        answer = await self._http.post(
            "/v1/chat/completions",
            json={"model": self._model, "messages": [{"role": "user", "content": task}]},
            headers=self._headers(),
        )
        answer.raise_for_status()
        await self._send()

    async def _go_cold(self) -> None:
        """Its container goes for want of work."""
        self._note("go cold")
        async with asyncio.timeout(COLD_S):
            # Nothing tells a client; so it looks.
            while (await self._session()).get("state", "cold") != "cold":  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        await self._send()

    async def _refused(self) -> None:
        """The model's service refuses a message: it has no part in what follows."""
        self._note("refused")
        said = "error 403 no-retry"
        body = self._body(self._page, said)
        answer = await self._http.post(
            "/v1/chat/completions", json={**body, "stream": False}, headers=self._headers()
        )
        assert answer.status_code == 403, answer.text
        await self._send()

    # One turn

    async def _ask(
        self, said: str, *, stop_after: int | None = None, stop_in_s: float = 0.0
    ) -> None:
        self._note(said if stop_after is None else f"{said}; stop: {stop_after}, {stop_in_s} s")
        page = self._page
        answer, is_stopped = await self._answer(
            page, said, stop_after=stop_after, stop_in_s=stop_in_s
        )
        page.shown.append(self._exchange(said, answer, is_stopped=is_stopped))
        if not is_stopped:
            await self._look()

    async def _answer(
        self, page: Page, said: str, *, stop_after: int | None, stop_in_s: float
    ) -> tuple[str, bool]:
        """What the page gets to see, and whether the turn was stopped then."""
        turns = await self._turns()
        words: list[str] = []
        async with asyncio.timeout(ANSWER_S), asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(page, said, words, stop_after))
            if stop_after == 0:
                # The turn is accepted: from here on it is on the page.
                while await self._turns() == turns:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await asyncio.sleep(stop_in_s * self._pause)
                reading.cancel()
            await asyncio.wait({reading})
        return "".join(words), reading.cancelled() or not reading.result()

    def _exchange(self, said: str, answer: str, *, is_stopped: bool = False) -> Exchange:
        """As this client keeps it."""
        if self._kind == "cuts":
            answer, is_stopped = answer[: len(answer) // 2 + 1], True
        return Exchange(said, answer, is_stopped, has_tool="tool" in said)

    async def _read(
        self,
        page: Page,
        said: str,
        words: list[str],
        stop_after: int | None,
        *,
        headers: Mapping[str, str] = NONE,
        has_begun: asyncio.Event | None = None,
    ) -> bool:
        """Whether the answer was read to its end."""
        deltas = 0
        async with aclosing(self._deltas(page, said, headers)) as reading:
            async for delta in reading:
                words.append(delta)
                deltas += 1
                if has_begun:
                    has_begun.set()
                if deltas == stop_after:
                    return False
        return True

    async def _deltas(
        self, page: Page, said: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[str, None]:
        request = self._http.stream(
            "POST",
            "/v1/chat/completions",
            json=self._body(page, said),
            headers={**self._headers(), **headers},
        )
        async with request as answer:
            assert answer.status_code == 200, (await answer.aread(), self.steps)
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                assert "error" not in chunk, (chunk, self.steps)
                if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("content")):
                    yield text

    def _body(self, page: Page, said: str) -> dict[str, Any]:
        messages = [] if self._kind == "thin" else page.messages()
        if self._system:
            messages.insert(0, {"role": "system", "content": self._system})
        messages.append({"role": "user", "content": said})
        return {"model": self._model, "stream": True, "messages": messages}

    def _headers(self) -> dict[str, str]:
        headers = {"authorization": f"Bearer {self._place.key}"}
        if self._has_name:
            headers["x-conversation-id"] = self._name
        if self._kind in ("resends", "cuts"):
            headers["x-parent-message-id"] = "p"
        return headers

    async def _turns(self) -> int:
        return len((await self._session()).get("turn_ids", ())) if self._has_name else 0

    async def _session(self) -> Mapping[str, Any]:
        answer = await self._http.get(f"/v1/sessions/{self._name}", headers=self._headers())
        found: Mapping[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    # The look

    async def _look(self) -> None:
        asked = await self._http.get(f"{self._place.model_url}/_script/last")
        told, results = told_by(asked.json())
        shown = self._page.shown
        # In the last exchange the model has not spoken yet.
        wrong = difference([*shown[:-1], replace(shown[-1], answer="")], told)
        tools = sum(exchange.has_tool for exchange in shown)
        if wrong is None and self._kind == "thin" and results < tools:
            wrong = f"{results} results of tools are there, not {tools}"
        if wrong is not None:
            self._fail(wrong, told)

    def _fail(self, wrong: str, told: Sequence[Told]) -> NoReturn:
        steps = "\n  ".join(self.steps)
        raise WrongMemory(f"{wrong}\n{self._name}, after\n  {steps}\ntold: {told}")

    def _note(self, step: str) -> None:
        self.steps.append(step)

    def _words(self) -> str:
        self._count += 1
        if self._random.random() < 0.3:
            return f"tool bash echo t{self._count} then echo w{self._count}"
        return f"echo w{self._count} said"
