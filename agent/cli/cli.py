"""One connected CLI: one task opens, uses and closes it, and another reads it for as long as it
lives.

The SDK buffers at most 100 messages. If nobody reads them, every control request hangs, even an
interrupt. So a task reads from the first moment to the last and passes each message to the current
listener.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence, Set
from typing import Any, TypeVar

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, Message, ResultMessage, Transport
from claude_agent_sdk._errors import MessageParseError

from agent.cli.early import EarlyCli
from agent.cli.early_transport import EarlyTransport
from agent.cli.efforts import LIST_MODELS, ThinkingAbilities, abilities_of, requests_for
from agent.cli.offers import Gate, Offer, Offers
from agent.cli.options import LINE_MAX_BYTES
from agent.cli.processes import children, kill_marked
from agent.cli.setup import MARK
from agent.memory.history import Said, message_of
from infra.wire.link import AgentSettings
from infra.wire.options import Effort

log = logging.getLogger(__name__)

CONTROL_TIMEOUT_S = 15.0
CLOSE_GRACE_S = 2.0
"""A CLI that has not exited this many seconds after it was told to is killed. We have all its
output by then: nothing of it is read after that."""
CLOSE_TIMEOUT_S = 20.0
"""A final limit. On its own, the SDK ends a hanging CLI in steps that take 15 s."""

T = TypeVar("T")
Listener = Callable[[Message], Awaitable[None]]


class CliFailed(Exception):
    """The CLI did not start, did not answer, or exited. `detail` is for the log only."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class CliNotStarted(CliFailed):
    """The CLI did not come up, so it was not asked anything. `is_slow`: it ran out of time."""

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
        own_tools: Collection[str] = (),
        has_gate: bool = False,
        early: EarlyCli | None = None,
    ) -> None:
        """`group` outlives the CLI; the reading task runs in it. `early` was started with the same
        options and `mark`, and is used instead of a new process. `own_tools` are the names of the
        CLI's tools, which cannot be offered (`offer`). `has_gate`: calls of these may be held
        back."""
        options.stderr = self._keep_stderr
        self.offers = Offers()
        """The tools that it offers for its turn."""
        self._servers = itertools.count(1)
        self._effort: Effort | None = None
        self._abilities: dict[str, ThinkingAbilities] = {}
        options.hooks = self.offers.hooks(own_tools, has_gate=has_gate)
        self._early = early
        transport = self._transport_of(early) if early else None
        self._client = ClaudeSDKClient(options, transport=transport)
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
        """Start the CLI. Raises `CliNotStarted`; then none of its processes are left."""
        others = children() - {self._early.process.pid if self._early else 0}
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
            if self._early is not None:
                self._early.forget_prompt()
        # No tool has run yet: all our processes now belong to the CLI.
        self._own = children() - others
        self._group.create_task(self._drain())

    def give_up_start(self) -> bool:
        """Make a running `connect` fail now. Returns False if none is running.

        The CLI is killed first, because the SDK waits seconds for one that does not exit on its
        own.
        """
        if self._patience is None:
            return False
        self._is_given_up = True
        self.kill()
        if not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())
        return True

    async def ask(self, content: list[dict[str, Any]], *, id: str, listener: Listener) -> None:
        """Send a prompt. From now on `listener` gets every message. Raises `CliFailed`."""
        self._listener = listener
        prompt = {
            "type": "user",
            "message": {"role": "user", "content": content},
            "parent_tool_use_id": None,
            "uuid": id,
        }
        await self._control(self._client.query(_one(prompt)))

    async def tell(self, said: Sequence[Said], *, model: str) -> None:
        """Add messages and their answers to the conversation without calling the model.

        The last message must be an answer. Raises `CliFailed`.
        """
        frame: dict[str, Any]
        for role, content, own_id in said:
            if role == "assistant":
                frame = {"type": role, "message": message_of(role, content, model)}
                if own_id is not None:
                    frame["uuid"] = own_id
                await self._control(self._client.query(_one(frame)))
                continue
            id, taken = str(uuid.uuid4()), asyncio.Event()
            self._listener = _taken(id, taken)
            frame = {
                "type": role,
                "message": message_of(role, content, model),
                # The model is not called for it.
                "shouldQuery": False,
                "uuid": id,
            }
            await self._control(self._client.query(_one(frame)))
            # The order would be lost without this wait.
            await self._control(first_of(taken, self.gone))
            if self.gone.is_set():
                raise CliFailed(self.fault or "the CLI ended")

    async def restate(self, request: dict[str, Any]) -> None:
        """Change the settings of a CLI that has not had a turn yet (`agent.cli.spare`). Raises
        `CliFailed`."""
        # The SDK's own method for this request does not pass on the system prompt.
        await self._control(self._client._query._send_control_request(request))  # type: ignore[union-attr]

    async def offer(self, offers: Sequence[Offer], gate: Gate | None = None) -> None:
        """Offer exactly these tools to the model from its next call on, and ask the gate about
        calls of others. Raises `CliFailed`.

        Takes some milliseconds if they differ from those of the last turn, otherwise nothing.
        """
        if not self.offers.take(offers, gate):
            return
        query: Any = self._client._query
        # A server of the same name would keep the tools that it had.
        name = f"offered{next(self._servers)}"
        query._sdk_mcp_bridges = {name: self.offers.server()} if offers else {}
        servers = {name: {"type": "sdk", "name": name}} if offers else {}
        await self._control(
            query._send_control_request({"subtype": "mcp_set_servers", "servers": servers})
        )

    async def think(self, effort: Effort | None, settings: AgentSettings) -> None:
        """Set how much the model thinks from its next call on; None for its default. Raises
        `CliFailed`.

        Takes some milliseconds if it differs from the last turn's, otherwise nothing.
        """
        if effort == self._effort:
            return
        query: Any = self._client._query
        if settings.model not in self._abilities:
            told = await self._control(query._send_control_request(LIST_MODELS))
            self._abilities[settings.model] = abilities_of(settings.model, told)
        for request in requests_for(
            effort, self._abilities[settings.model], usual_tokens=settings.max_thinking_tokens
        ):
            await self._control(query._send_control_request(request))
        self._effort = effort

    def ignore(self) -> None:
        """Drop further messages instead of passing them on."""
        self._listener = None

    async def interrupt(self) -> None:
        """Ask the CLI to stop the turn. Raises `CliFailed`."""
        await self._control(self._client.interrupt())

    def kill(self) -> None:
        """Kill the CLI and everything that its tools started, at once."""
        if count := kill_marked(MARK, self._mark):
            log.info("killed %d processes of the CLI", count)

    def kill_leftovers(self, *, spared: Set[int] = frozenset()) -> None:
        """Kill what its tools left running, but neither the CLI itself nor the processes in
        `spared`, at once."""
        if count := kill_marked(MARK, self._mark, spared=self._own | spared):
            log.info("killed %d processes that a turn had left", count)

    async def close(self) -> None:
        """Let the CLI exit, or kill it soon, together with what its tools started. Takes bounded
        time and never raises an error."""
        self.ignore()
        force = asyncio.get_running_loop().call_later(CLOSE_GRACE_S, self.kill)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.disconnect()
        except Exception:  # It is killed below.
            log.warning("the CLI did not close properly", exc_info=True)
        finally:
            force.cancel()
            self.kill()  # The CLI is gone, but not what its tools left running.

    async def _control(self, request: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                return await request
        except TimeoutError as error:
            raise CliFailed("the CLI does not answer") from error
        except Exception as error:  # the SDK raises bare Exception for a refused control request
            raise CliFailed(f"{type(error).__name__}: {error}") from error

    async def _drain(self) -> None:
        """Read until the CLI exits. Skips messages that the SDK cannot parse."""
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

    def _transport_of(self, early: EarlyCli) -> Transport:
        return EarlyTransport(
            early.process, line_max_bytes=LINE_MAX_BYTES, on_stderr=self._keep_stderr
        )

    def _keep_stderr(self, line: str) -> None:
        self._last_words = line[-500:]
        log.debug("cli: %s", line)


def _taken(id: str, taken: asyncio.Event) -> Listener:
    """Sets the event when the CLI has accepted the message of that id."""

    async def listen(message: Message) -> None:
        if isinstance(message, ResultMessage) and id in (message.user_message_uuids or [id]):
            taken.set()

    return listen


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set. The caller limits the time."""
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(_wait(event)) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _one(prompt: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield prompt
