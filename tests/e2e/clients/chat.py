"""A chat of LibreChat, as its page and its server hold it: what the user sees, and the ids."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.clients.node import Call, LineProgram


@dataclass
class Answer:
    """One answer as the user sees it."""

    text: str
    reasoning: str
    failure: dict[str, Any] | None
    title: Any = None


@dataclass
class Chat:
    """`seen` is the branch the page shows; every request sends the whole of it."""

    librechat: LineProgram
    base_url: str | None = None
    instructions: str | None = None
    conversation: str = field(default_factory=lambda: str(uuid.uuid4()))
    seen: list[dict[str, str]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    """Message ids of the user's messages on the branch."""

    def send(self, text: str) -> Answer:
        """A new message; the first of a chat also asks for a title."""
        return self.finish(self.begin(text))

    def begin(self, text: str) -> Call:
        """A new message whose answer is still to come; `finish` or `stop` follows."""
        self.seen.append({"role": "user", "content": text})
        self.users.append(str(uuid.uuid4()))
        return self._ask(title=len(self.seen) == 1)

    def regenerate(self, *, message: str | None = None) -> Answer:
        """The last answer again. `message`: under this id instead of a new one."""
        self.seen.pop()
        return self.finish(self._ask(message=message))

    def edit(self, turn: int, text: str) -> Answer:
        """The user's message number `turn` (from 0) in other words; what followed is another
        branch."""
        del self.seen[2 * turn :], self.users[turn:]
        self.seen.append({"role": "user", "content": text})
        self.users.append(str(uuid.uuid4()))
        return self.finish(self._ask())

    def stop(self, call: Call) -> Answer:
        """The Stop button: what has arrived stays on the page."""
        self.librechat.ask("stop", message=self.message)
        return self.finish(call)

    def finish(self, call: Call) -> Answer:
        answer = Answer(**call.result())
        self.seen.append({"role": "assistant", "content": answer.text.strip()})
        return answer

    def _ask(self, *, message: str | None = None, title: bool = False) -> Call:
        self.message = message or str(uuid.uuid4())
        return self.librechat.start(
            "turn",
            conversation=self.conversation,
            message=self.message,
            parent=self.users[-1],
            messages=self.seen,
            title=title,
            instructions=self.instructions,
            **({"baseURL": self.base_url} if self.base_url else {}),
        )
