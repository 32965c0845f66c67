"""A conversation with the Agent SDK: one CLI at a time, reopened where it has to be.

A CLI lives over many turns. It is reopened, resuming the same SDK session from the transcript kept
here, when its settings cannot be changed in place, and after it was killed or died. `run` and
`aclose` belong to one task; the tasks born here end with the CLI or with the turn.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path

from claude_agent_sdk import InMemorySessionStore, Message, project_key_for_directory

from agent.cli import Cli, CliFailed
from agent.failures import failed, interrupted
from agent.forwarder import Forwarder
from agent.history import content_of, transcript_of
from agent.options import Surroundings, build_options, launch_key
from agent.processes import oom_kills
from agent.translate import Translator
from agent.turn import RunningTurn
from infra.wire.errors import ErrorCode
from infra.wire.events import Notice, TurnEnded
from infra.wire.link import AgentSettings, StartTurn

log = logging.getLogger(__name__)

INTERRUPT_AGAIN_S = 1.0
"""An interrupt that comes before the CLI has begun the turn is lost on it; so it is repeated."""

_NOT_FOUND = "No conversation found"


class ClaudeSession:
    """Implements `agent.turn.Session` with a real CLI."""

    def __init__(
        self, around: Surroundings, *, group: asyncio.TaskGroup, forwarder: Forwarder
    ) -> None:
        self._around = around
        self._group = group
        self._forwarder = forwarder
        self._store = InMemorySessionStore()
        self._scratch = tempfile.TemporaryDirectory(prefix="agcluster-")
        self._cli: Cli | None = None
        self._launched: tuple[object, ...] = ()
        self._model = ""
        self.sdk_session: str | None = None

    async def run(self, turn: RunningTurn) -> TurnEnded:
        """See `Session.run`."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._stop_when_interrupted(turn))
            try:
                return await self._run(turn)
            finally:
                watch.cancel()

    async def aclose(self) -> None:
        """See `Session.aclose`."""
        if self._cli is not None:
            self._cli.kill()
            await self._drop_cli()
        self._scratch.cleanup()

    async def _run(self, turn: RunningTurn) -> TurnEnded:
        oom_before, was_open = oom_kills(), self._cli is not None
        hearing = _Hearing(turn)
        try:
            try:
                return await self._ask(turn, hearing)
            except CliFailed as failure:
                await self._drop_failed(turn, failure)
                if turn.outbox.last_n or turn.interrupted or not was_open:
                    raise
                # It had died since the last turn, and the prompt has not reached the model.
                return await self._ask(turn, hearing)
        except CliFailed as failure:
            await self._drop_failed(turn, failure)
            code = ErrorCode.OUT_OF_MEMORY if oom_kills() > oom_before else ErrorCode.AGENT_FAILED
            ended = interrupted(turn.interrupted) if turn.interrupted else failed(code)
            return ended.model_copy(update={"usage": hearing.translator.usage})
        finally:
            self.sdk_session = hearing.translator.sdk_session or self.sdk_session
            if self._cli is not None:
                self._cli.ignore()

    async def _ask(self, turn: RunningTurn, hearing: _Hearing) -> TurnEnded:
        """Hand the prompt to a CLI and hear it out. Raises `CliFailed`."""
        cli = await self._ready(turn.start)
        if turn.interrupted is not None:
            return interrupted(turn.interrupted)
        content = content_of(turn.start.prompt)
        await cli.ask(content, id=hearing.prompt_id, listener=hearing.hear)
        await _first(hearing.over, cli.gone)
        if hearing.ended is None:
            raise CliFailed(cli.fault or "the CLI ended")
        return hearing.ended

    # The CLI

    async def _ready(self, start: StartTurn) -> Cli:
        """A CLI set up as the turn wants it. Raises `CliFailed`."""
        settings = start.settings
        if self._cli is not None and (
            self._cli.gone.is_set() or self._launched != launch_key(settings)
        ):
            await self._drop_cli()
        if self._cli is None:
            self._cli = await self._open(start)
            self._launched, self._model = launch_key(settings), settings.model
        elif self._model != settings.model:
            await self._cli.set_model(settings.model)
            self._model = settings.model
        return self._cli

    async def _open(self, start: StartTurn) -> Cli:
        mark = uuid.uuid4().hex
        resume = await self._transcript(start)
        options = build_options(
            start.settings,
            self._around,
            store=self._store,
            resume=resume,
            mark=mark,
            proxy=await self._forwarder.proxy_url(),
            prompt_file=self._write_system_prompt(start.settings),
        )
        cli = self._cli = Cli(options, mark=mark, group=self._group)
        try:
            await cli.connect()
        except CliFailed as failure:
            self._cli = None
            log.warning("the CLI did not start: %s", failure.detail)
            if _NOT_FOUND in failure.detail:
                # Given up: a worker sees that there is no session, and sends the history again.
                self.sdk_session = None
            raise
        return cli

    async def _drop_failed(self, turn: RunningTurn, failure: CliFailed) -> None:
        if self._cli is not None:
            log.warning("turn %s: the CLI failed: %s", turn.start.turn, failure.detail)
            self._cli.kill()
            await self._drop_cli()

    async def _drop_cli(self) -> None:
        cli, self._cli = self._cli, None
        if cli is not None:
            if cli.gone.is_set():
                cli.kill()
            await cli.close()

    def _write_system_prompt(self, settings: AgentSettings) -> Path | None:
        if settings.system_prompt is None:
            return None
        path = Path(self._scratch.name) / "system-prompt.txt"
        path.write_text(settings.system_prompt, encoding="utf-8", errors="replace")
        return path

    # The transcript

    async def _transcript(self, start: StartTurn) -> str | None:
        """The session to resume: ours, or one made of the sent history; None to begin afresh."""
        cwd = str(self._around.workspace)
        project = project_key_for_directory(cwd)
        if self.sdk_session is not None and await self._store.load(
            {"project_key": project, "session_id": self.sdk_session}
        ):
            return self.sdk_session
        session = str(uuid.uuid4())
        entries = transcript_of(
            start.history,
            session=session,
            cwd=cwd,
            model=start.settings.model,
            timestamp=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        if not entries:
            return None
        await self._store.append({"project_key": project, "session_id": session}, entries)  # type: ignore[arg-type] # entries are opaque JSON to the SDK
        return session

    # Interrupts

    async def _stop_when_interrupted(self, turn: RunningTurn) -> None:
        """Interrupt the CLI when the turn is, and kill it when that does not help in time."""
        await turn.wait_interrupted()
        try:
            async with asyncio.timeout(turn.start.settings.interrupt_grace_s):
                await self._interrupt_again_and_again()
        except TimeoutError:
            log.warning("turn %s does not stop: killing its CLI", turn.start.turn)
            if self._cli is not None:
                self._cli.kill()

    async def _interrupt_again_and_again(self) -> None:
        while True:
            if self._cli is not None and not self._cli.gone.is_set():
                try:
                    await self._cli.interrupt()
                except CliFailed as failure:
                    log.info("the interrupt was not taken: %s", failure.detail)
            await asyncio.sleep(INTERRUPT_AGAIN_S)


class _Hearing:
    """Listens to the CLI for one turn and tells its events."""

    def __init__(self, turn: RunningTurn) -> None:
        self._turn = turn
        self.prompt_id = str(uuid.uuid4())
        self.translator = Translator(self.prompt_id)
        self.ended: TurnEnded | None = None
        self.over = asyncio.Event()

    async def hear(self, message: Message) -> None:
        """Tell what a message stands for; waits while the outbox is full."""
        if self.over.is_set():
            return
        try:
            for event in self.translator.read(message, self._turn.interrupted):
                if isinstance(event, TurnEnded):
                    self.ended = event
                    self.over.set()
                    return
                await self._turn.say(event)
        except Exception:  # a message we cannot read must not end the reading, only be told
            log.exception("a message of the CLI could not be translated")
            await self._turn.say(Notice(text="A part of the agent's answer could not be read."))


async def _first(*events: asyncio.Event) -> None:
    """Until one of the events is set. Bounded by an interrupt, which leads to one of them."""
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(_wait(event)) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
