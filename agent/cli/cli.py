"""One connected CLI: opened, used and closed by one task, drained for as long as it lives.

The SDK keeps at most 100 messages; when nobody takes them every control request hangs, an interrupt
too. So a task reads from the first moment to the last and hands each message to those who listen.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, Message, ResultMessage
from claude_agent_sdk._errors import MessageParseError

from agent.cli.options import MARK
from agent.cli.processes import children, kill_marked
from agent.memory.history import Said, message_of

log = logging.getLogger(__name__)

CONTROL_TIMEOUT_S = 15.0
CLOSE_GRACE_S = 2.0
"""A CLI that has not ended by itself so long after it was told to is killed. What it had to say is
with us by then: after the word nothing more of it is read."""
CLOSE_TIMEOUT_S = 20.0
"""A last bound. Left to itself the SDK ends a CLI that hangs by steps, 15 s in all."""

Listener = Callable[[Message], Awaitable[None]]


class CliFailed(Exception):
    """The CLI did not start, did not answer or ended. `detail` is for the log only."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class CliNotStarted(CliFailed):
    """It has not come up, so nothing has been asked of it. `is_slow`: it had no time left."""

    def __init__(self, detail: str, *, is_slow: bool) -> None:
        super().__init__(detail)
        self.is_slow = is_slow


class Cli:
    """A CLI process and the client that drives it."""

    def __init__(
        self,
        options: ClaudeAgentOptions,
        *,
        mark: str,
        group: asyncio.TaskGroup,
        connect_timeout_s: float,
    ) -> None:
        """`group` outlives the CLI; the draining task is born in it."""
        options.stderr = self._keep_stderr
        self._client = ClaudeSDKClient(options)
        self._mark = mark
        self._group = group
        self._connect_timeout_s = connect_timeout_s
        self._listener: Listener | None = None
        self._last_words = ""
        self._patience: asyncio.Timeout | None = None
        self._is_given_up = False
        self._own: frozenset[int] = frozenset()
        self.fault: str = ""
        self.gone = asyncio.Event()

    async def connect(self) -> None:
        """Start it. Raises `CliNotStarted`; then nothing of it is left."""
        others = children()
        last = asyncio.get_running_loop().call_later(self._connect_timeout_s, self.give_up_start)
        try:
            async with asyncio.timeout(None) as self._patience:
                await self._client.connect()
        # The SDK raises bare Exception when the first control request has no answer in time.
        except Exception as error:
            self.kill()
            detail = f"{type(error).__name__}: {error} {self._last_words}"
            is_slow = self._is_given_up or "timeout" in str(error)
            raise CliNotStarted(detail, is_slow=is_slow) from error
        except BaseException:
            self.kill()
            raise
        finally:
            last.cancel()
            self._patience = None
        # No tool has run yet: what is ours now is the CLI.
        self._own = children() - others
        self._group.create_task(self._drain())

    def give_up_start(self) -> bool:
        """Have `connect` fail now; False when it is not under way.

        Killed first: the SDK waits for seconds for one that does not end by itself.
        """
        if self._patience is None:
            return False
        self._is_given_up = True
        self.kill()
        if not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())
        return True

    async def ask(self, content: list[dict[str, Any]], *, id: str, listener: Listener) -> None:
        """Send a prompt; from now on `listener` is told every message. Raises `CliFailed`."""
        self._listener = listener
        prompt = {
            "type": "user",
            "message": {"role": "user", "content": content},
            "parent_tool_use_id": None,
            "uuid": id,
        }
        await self._control(self._client.query(_one(prompt)))

    async def tell(self, said: Sequence[Said], *, model: str) -> None:
        """Add messages and their answers to the conversation, without asking the model.

        The last one is an answer. Raises `CliFailed`.
        """
        frame: dict[str, Any]
        for role, content in said:
            if role == "assistant":
                frame = {"type": role, "message": message_of(role, content, model)}
                await self._control(self._client.query(_one(frame)))
                continue
            id, taken = str(uuid.uuid4()), asyncio.Event()
            self._listener = _taken(id, taken)
            frame = {
                "type": role,
                "message": message_of(role, content, model),
                # It is not asked about.
                "shouldQuery": False,
                "uuid": id,
            }
            await self._control(self._client.query(_one(frame)))
            # Without waiting for it the order is lost.
            await self._control(first_of(taken, self.gone))
            if self.gone.is_set():
                raise CliFailed(self.fault or "the CLI ended")

    def ignore(self) -> None:
        """Tell nobody any more; what comes is dropped."""
        self._listener = None

    async def interrupt(self) -> None:
        """Ask the turn to stop. Raises `CliFailed`."""
        await self._control(self._client.interrupt())

    def kill(self) -> None:
        """End it and whatever its tools have started, at once."""
        if count := kill_marked(MARK, self._mark):
            log.info("killed %d processes of the CLI", count)

    def kill_leftovers(self) -> None:
        """End what its tools have left running, and not the CLI itself, at once."""
        if count := kill_marked(MARK, self._mark, spared=self._own):
            log.info("killed %d processes that a turn had left", count)

    async def close(self) -> None:
        """End it in its own time, or soon by force, and what its tools have started; bounded, and
        never an error."""
        self.ignore()
        force = asyncio.get_running_loop().call_later(CLOSE_GRACE_S, self.kill)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.disconnect()
        except Exception:  # a CLI that cannot even be closed is killed; the caller needs no more
            log.warning("the CLI did not close properly", exc_info=True)
        finally:
            force.cancel()
            self.kill()  # It is gone; what its tools have left is not.

    async def _control(self, request: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await request
        except TimeoutError as error:
            raise CliFailed("the CLI does not answer") from error
        except Exception as error:  # the SDK raises bare Exception for a refused control request
            raise CliFailed(f"{type(error).__name__}: {error}") from error

    async def _drain(self) -> None:
        """Read until the CLI ends. A message the SDK cannot parse is skipped."""
        try:
            while True:
                try:
                    async for message in self._client.receive_messages():
                        if self._listener is not None:
                            await self._listener(message)
                    break
                except MessageParseError as error:
                    log.warning("skipped a message of the CLI: %s", error)
        except Exception as error:  # noqa: BLE001 - the SDK raises anything; all of it is the CLI's end
            self.fault = f"{type(error).__name__}: {error} {self._last_words}"
        finally:
            self.gone.set()

    def _keep_stderr(self, line: str) -> None:
        self._last_words = line[-500:]
        log.debug("cli: %s", line)


def _taken(id: str, taken: asyncio.Event) -> Listener:
    """Sets the event when the message of that id has been taken in."""

    async def listen(message: Message) -> None:
        if isinstance(message, ResultMessage) and id in (message.user_message_uuids or [id]):
            taken.set()

    return listen


async def first_of(*events: asyncio.Event) -> None:
    """Until one of the events is set. Bounded by its caller."""
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(_wait(event)) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _one(prompt: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield prompt
