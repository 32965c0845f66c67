"""A conversation with the Agent SDK: one CLI at a time, reopened when necessary.

A CLI lives for many turns. It is reopened, resuming the same SDK session from the transcript kept
here, if its settings cannot be changed while it runs, and after it was killed or died. It is
reopened on another session if the turn's base requires it (`BaseKind`). `run` and `aclose` belong
to one task; the tasks started here end with the CLI or with the turn.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.answer_in_form import AnswerInForm
from agent.approvals.approvals import TurnApprovals
from agent.approvals.plans import PLAN_TOOL
from agent.asked_kind import AskedKind
from agent.cli.cli import Cli, CliFailed, CliNotStarted, first_of
from agent.cli.early import EarlyCli
from agent.cli.offers import OfferedCall
from agent.cli.options import build_options, launch_key, own_tools
from agent.cli.processes import families, is_crowded, oom_kills
from agent.cli.setup import CliSetup, with_note
from agent.cli.spare import begins_afresh, restatements
from agent.cli.stead import CallsInStead
from agent.client_functions import ClientFunctions
from agent.delegation import DelegatedCalls
from agent.forwarder import Forwarder
from agent.hearing import TurnHearing
from agent.memory.calls import UnfinishedAnswer, answered
from agent.memory.history import Json, Said, content_of
from agent.memory.memory import AgentMemory, Mark
from agent.memory.past import Past
from agent.memory.session_store import LinkedSessionStore
from agent.memory.transcripts import Transcripts
from agent.questions import UserQuestions
from agent.server_words import ServerWords
from agent.start_times import StartTimes, now_ms
from agent.turn import RunningTurn
from infra.wire.agents.delegation import DELEGATE_TOOL
from infra.wire.agents.profile import MCP_SERVERS_MAX
from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode, MalformedMessage, UnknownMessage
from infra.wire.events import TurnEnded
from infra.wire.form.tool import FORM_TOOL
from infra.wire.history.paired import QUESTION_TOOL, OpenCall
from infra.wire.link import (
    AgentSettings,
    Answer,
    InterruptReason,
    McpServers,
    StartTurn,
    decode_launch,
)
from infra.wire.mcp.secrets import ServerSeen
from infra.wire.states import TurnState
from infra.wire.turns import FileBlock

log = logging.getLogger(__name__)

START_TRIES = 5
"""A CLI that does not come up is started again. Each attempt may take a minute on a busy machine;
the turn's deadline limits all of them together."""
INTERRUPT_AGAIN_S = 1.0
"""A CLI ignores an interrupt that arrives before it has started the turn, so it is repeated."""


class ClaudeSession:
    """Implements `agent.turn.AgentSession` with a real CLI."""

    def __init__(
        self,
        around: CliSetup,
        *,
        group: asyncio.TaskGroup,
        forwarder: Forwarder,
        transcripts: Transcripts,
        times: StartTimes,
        tell: Callable[[Answer], None],
        early: EarlyCli | None = None,
    ) -> None:
        """`tell` sends a message to the worker that is linked. `early`: a CLI that runs already."""
        self._early = early
        self._times = times
        self._tell = tell
        self._around = around
        self._group = group
        self._forwarder = forwarder
        self._transcripts = transcripts
        self._memory = AgentMemory(transcripts, around.workspace)
        self._scratch = tempfile.TemporaryDirectory(prefix="agcluster-")
        self._server_words = ServerWords(Path(self._scratch.name) / "words.sock", group)
        own_socket = Path(self._scratch.name) / "model.sock"
        if early is not None and early.model_socket != around.model_socket:
            own_socket = early.model_socket
        self._stead = CallsInStead(around.model_socket, own_socket, group)
        self._cli: Cli | None = None
        self._unfinished: UnfinishedAnswer | None = None
        """What the CLI has to get before anything else."""
        self._open_calls: tuple[OpenCall, ...] = ()
        """Calls that wait for their results in the CLI."""
        self._asked: Sequence[OfferedCall] = ()
        """Those of them that the user was asked about."""
        self._launched: tuple[object, ...] = ()
        self._spare: AgentSettings | None = None
        """What the CLI was prepared for, until its first turn."""

    @property
    def sdk_session(self) -> str | None:
        """See `AgentSession.sdk_session`."""
        return self._memory.past.session

    async def prepare(self, settings: AgentSettings) -> bool:
        """See `AgentSession.prepare`."""
        try:
            # Its sockets are there when the first turn comes.
            self._cli = await self._connect(settings, is_egress_expected=True)
        except CliFailed as failure:
            log.warning("the spare's CLI did not start: %s", failure.detail)
            return False
        self._launched, self._spare = launch_key(settings), settings
        return True

    async def run(self, turn: RunningTurn) -> TurnEnded:
        """See `AgentSession.run`."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._stop_when_interrupted(turn))
            try:
                if any(isinstance(block, FileBlock) for block in turn.start.prompt):
                    # Few turns have one, and what it takes delays a start by its import.
                    from agent.fetching import fetch_files

                    await fetch_files(turn, self._around.workspace, self._forwarder)
                return await self._run(turn)
            finally:
                watch.cancel()

    async def aclose(self) -> None:
        """See `AgentSession.aclose`."""
        if self._cli is not None:
            self._cli.kill()
            await self._drop_cli()
        await self._take_early(None)
        self._server_words.close()
        self._stead.close()
        self._scratch.cleanup()

    async def _run(self, turn: RunningTurn) -> TurnEnded:
        oom_before = oom_kills()
        functions = await asyncio.to_thread(_functions, turn)
        answer = await _answer_in_form(turn)
        can_ask = functions.has_asking or not (answer or functions.needs_call)
        may_ask = turn.start.settings.asks_questions and can_ask
        kind = AskedKind()
        questions = UserQuestions(are_allowed=may_ask, kind=kind)
        calls = DelegatedCalls(turn, turn.start.settings.delegates, tell=self._tell)
        turn.calls = calls
        before = self._memory.mark
        await self._stand_on_base(turn.start)
        approvals = self._approvals(turn.start, functions, kind, can_ask=can_ask)
        hearing = TurnHearing(
            turn,
            functions,
            answer,
            questions,
            calls,
            last_words=self._server_words.last,
            on_servers=self._tell_servers,
            approvals=approvals,
        )
        try:
            ended = await self._ask_patiently(turn, hearing)
        except CliFailed as failure:
            await self._drop_failed(turn, failure)
            ended = _end_of(
                turn.interrupted,
                has_begun=turn.outbox.last_n > 0,
                is_out_of_memory=oom_kills() > oom_before,
            )
            ended = ended.model_copy(update={"usage": hearing.translator.usage})
        finally:
            calls.close()
            self._stead.forget()
            if self._cli is not None:
                self._cli.ignore()
        ended = await self._remember(hearing, ended, before)
        if self._cli is not None:
            self._open_calls = tuple(OpenCall(call.id, call.name) for call in hearing.left_open)
            self._asked = hearing.asked
        await self._tidy(turn)
        return ended

    def _tell_servers(self, seen: Sequence[ServerSeen]) -> None:
        self._tell(McpServers(servers=tuple(seen)[:MCP_SERVERS_MAX]))

    async def _tidy(self, turn: RunningTurn) -> None:
        """Leave nothing running between turns except a healthy CLI."""
        if self._cli is None:
            return
        if is_crowded():
            # A fork bomb: it would break every tool of the next turns.
            log.warning("the turn left no room for processes: the CLI is ended")
            self._cli.kill()
            await self._drop_cli()
        else:
            servers = self._server_words.processes
            local = [servers[name] for name in turn.start.settings.mcp if name in servers]
            self._cli.kill_leftovers(spared=families(local))

    async def _ask_patiently(self, turn: RunningTurn, hearing: TurnHearing) -> TurnEnded:
        """`_ask`, repeated if the prompt did not reach the model. Raises `CliFailed`.

        That happens if the CLI died since the last turn, or a new one does not come up.
        """
        for tries_left in reversed(range(START_TRIES)):
            was_open = self._cli is not None
            try:
                return await self._ask(turn, hearing)
            except CliFailed as failure:
                await self._drop_failed(turn, failure)
                is_unheard = was_open or isinstance(failure, CliNotStarted)
                if turn.outbox.last_n or turn.interrupted or not (is_unheard and tries_left):
                    raise
        raise AssertionError("the last try returns or raises")

    async def _ask(self, turn: RunningTurn, hearing: TurnHearing) -> TurnEnded:
        """Pass the prompt to a CLI and listen until it has finished. Raises `CliFailed`."""
        if stopped := _stopped(turn):
            return stopped
        cli = await self._ready(turn.start)
        if stopped := _stopped(turn):
            return stopped
        await cli.offer(hearing.offered, hearing.approvals.gate if hearing.approvals else None)
        await cli.think(turn.start.turn_options.effort, turn.start.settings)
        hearing.offers = cli.offers
        *frames, prompt = self._to_say(turn.start, hearing)
        await cli.tell(frames, model=turn.start.settings.model)
        self._unfinished, self._open_calls, self._asked = None, (), ()
        hearing.is_asked = True
        ended = await self._heard(cli, hearing, prompt.content, id=hearing.prompt_id)
        if (reminder := await hearing.reminder(ended)) and not turn.interrupted:
            content = [{"type": "text", "text": reminder}]
            ended = await self._heard(cli, hearing, content, id=hearing.listen_again())
        return await hearing.concluded(ended)

    async def _heard(
        self, cli: Cli, hearing: TurnHearing, content: list[Json], *, id: str
    ) -> TurnEnded:
        """Pass on a prompt and listen until the CLI has finished. Raises `CliFailed`."""
        await cli.ask(content, id=id, listener=hearing.hear)
        await first_of(hearing.over, cli.gone)
        if hearing.ended is None:
            raise CliFailed(cli.fault or "the CLI ended")
        return hearing.ended

    def _to_say(self, start: StartTurn, hearing: TurnHearing) -> list[Said]:
        """What the CLI gets for the turn: the prompt, and before it what its memory lacks."""
        to_tell = self._memory.to_tell
        content = [*to_tell.content, *content_of(start.prompt)]
        if hearing.approvals and not to_tell.frames:
            content = hearing.approvals.answered(content, self._waiting())
            self._stead.make(hearing.approvals.to_make, result_of=hearing.approvals.answers_to)
        wished = [{"type": "text", "text": hearing.wish}] if hearing.wish else []
        prompt = Said("user", [*content, *wished])
        first, *others = [*to_tell.frames, prompt]
        if (left := self._unfinished) is None:
            return answered([first, *others], self._open_calls)
        first = Said("user", [*left.results, *first.content])
        return answered([Said("assistant", left.answer, left.id), first, *others])

    def _approvals(
        self, start: StartTurn, functions: ClientFunctions, kind: AskedKind, *, can_ask: bool
    ) -> TurnApprovals | None:
        if start.settings.permissions.is_free:
            return None
        return TurnApprovals(
            start.settings.permissions,
            workspace=self._around.workspace,
            notes=self._memory.notes,
            can_ask=can_ask and not start.settings.is_called,
            is_one_at_a_time=functions.is_one_at_a_time,
            kind=kind,
        )

    def _waiting(self) -> Sequence[OfferedCall]:
        """The calls that the user was asked about, and has not answered yet."""
        if self._unfinished is None:
            return self._asked
        asked = self._memory.notes.asked
        return [
            OfferedCall(block["id"], block["name"], block.get("input") or {})
            for block in self._unfinished.answer
            if block.get("type") == "tool_use"
            and (block["name"] == QUESTION_TOOL or block["id"] in asked)
        ]

    # The CLI

    async def _ready(self, start: StartTurn) -> Cli:
        """A CLI with the turn's settings. Raises `CliFailed`."""
        settings = start.settings
        if self._cli is not None and (
            self._cli.gone.is_set() or self._launched != launch_key(settings)
        ):
            await self._drop_cli()
        if self._cli is None:
            self._cli = await self._open(start)
            self._launched = launch_key(settings)
        return self._cli

    async def _open(self, start: StartTurn) -> Cli:
        """A new CLI on the turn's base, or on the sent history if the base is refused."""
        try:
            return await self._connect(start.settings)
        except CliNotStarted as failure:
            log.warning("the CLI did not start: %s", failure.detail)
            if self._memory.past.session is None or failure.is_slow:
                raise
            if not start.history:
                if self._memory.is_lost:
                    self._memory.past = Past()  # Nothing is left to retry with.
                raise
            self._memory.begin_with_history(start)
            return await self._connect(start.settings)

    async def _connect(self, settings: AgentSettings, *, is_egress_expected: bool = False) -> Cli:
        past, unfinished = self._memory.opening(own_tools(settings))
        if any(server.command for server in settings.mcp.values()):
            await self._server_words.listen()
        proxy = await self._forwarder.proxy_url(is_expected=is_egress_expected)
        early = await self._take_early(launch_key(settings) if past == Past() else None, proxy)
        mark = early.mark if early else uuid.uuid4().hex
        store = LinkedSessionStore(  # type: ignore[abstract] # the rest is optional
            self._transcripts, ends_at=past.at
        )
        around = self._around
        if not settings.permissions.is_free:
            around = replace(around, model_socket=await self._stead.socket())
        options = build_options(
            settings,
            around,
            store=store,
            past=past,
            mark=mark,
            proxy=proxy,
            server_words=self._server_words.path,
            prompt_file=early.prompt_file if early else self._write_system_prompt(settings),
        )
        cli = self._cli = Cli(
            options,
            mark=mark,
            group=self._group,
            connect_timeout_s=self._around.connect_timeout_s,
            own_tools=own_tools(settings),
            has_gate=not settings.permissions.is_free,
            early=early,
        )
        spawned_ms = early.spawned_ms if early else now_ms()
        try:
            await cli.connect()
        except CliFailed:
            self._cli = None
            raise
        self._unfinished = unfinished
        if not self._times.has_cli:
            self._times.note_cli(spawned_ms=spawned_ms)
            self._tell(self._times.told)
        return cli

    async def _take_early(
        self, key: tuple[object, ...] | None, proxy: str | None = None
    ) -> EarlyCli | None:
        """The CLI that runs already, if it was started just so; otherwise it is ended.

        `key` is the launch key that is needed; None for a CLI with a past, or for none at all.
        """
        early, self._early = self._early, None
        if early is None:
            return None
        if key is not None and key == _key_of(early) and proxy == early.proxy:
            return early
        log.info("the early CLI is not the one that is needed")
        await asyncio.to_thread(early.end)
        return None

    async def _drop_failed(self, turn: RunningTurn, failure: CliFailed) -> None:
        if self._cli is not None:
            log.warning("the CLI failed: %s", failure.detail)
            self._cli.kill()
            await self._drop_cli()

    async def _drop_cli(self) -> None:
        cli, self._cli = self._cli, None
        self._unfinished, self._open_calls, self._asked = None, (), ()
        if cli is not None:
            if cli.gone.is_set():
                cli.kill()
            await cli.close()

    def _write_system_prompt(self, settings: AgentSettings) -> Path | None:
        if settings.system_prompt is None:
            return None
        path = Path(self._scratch.name) / "system-prompt.txt"
        path.write_text(with_note(settings.system_prompt), encoding="utf-8", errors="replace")
        return path

    # The turn's base

    async def _stand_on_base(self, start: StartTurn) -> None:
        """Switch the memory to the turn's base. A CLI with another memory is closed."""
        spare, self._spare = self._spare, None
        if self._memory.has_other(start) or (spare and not await self._takes(spare, start)):
            await self._drop_cli()
        self._memory.stand_on(start, has_cli=self._cli is not None)

    async def _takes(self, spare: AgentSettings, start: StartTurn) -> bool:
        """Whether the spare's CLI is as good for its first turn as one that starts now."""
        # The CLI may have looked at its folder when it started.
        is_empty = not any(self._around.workspace.iterdir())
        requests = restatements(spare, start.settings)
        if self._cli is None or requests is None or not (is_empty and begins_afresh(start)):
            return False
        if self._launched != launch_key(start.settings):
            try:
                for request in requests:
                    await self._cli.restate(request)
            except CliFailed as failure:
                log.warning("the spare's CLI is not used: %s", failure.detail)
                return False
            self._launched = launch_key(start.settings)
        return True

    async def _remember(self, hearing: TurnHearing, ended: TurnEnded, before: Mark) -> TurnEnded:
        """Record what the turn has added to the memory, or remove it.

        A turn that failed before its answer leaves nothing; otherwise a message that the model
        refuses would be refused again with every later message.
        """
        told = hearing.translator.sdk_session
        came_to_nothing = ended.error is not None and not hearing.has_said
        if not came_to_nothing and self._memory.took(
            told, hearing.prompt_id, is_done=ended.state is TurnState.DONE
        ):
            checkpoint = self._memory.last_id or ended.checkpoint
            if hearing.approvals:
                noted = hearing.approvals.noted(hearing.asked)
                self._memory.note(noted, prompt_id=hearing.prompt_id)
            return ended.model_copy(update={"checkpoint": checkpoint})
        if self._memory.go_back(before) or hearing.is_asked:
            # The open CLI has it in its memory.
            await self._drop_cli()
        return ended.model_copy(update={"checkpoint": None, "is_remembered": False})

    # Interrupts

    async def _stop_when_interrupted(self, turn: RunningTurn) -> None:
        """Interrupt the CLI when the turn is interrupted, and kill it if that does not work in
        time."""
        await turn.wait_interrupted()
        try:
            async with asyncio.timeout(turn.start.settings.interrupt_grace_s):
                await self._interrupt_again_and_again()
        except TimeoutError:
            log.warning("the turn does not stop: killing its CLI")
            if self._cli is not None:
                self._cli.kill()

    async def _interrupt_again_and_again(self) -> None:
        while True:
            cli = self._cli
            if cli is not None and not cli.give_up_start() and not cli.gone.is_set():
                try:
                    await cli.interrupt()
                except CliFailed as failure:
                    log.info("the interrupt was not taken: %s", failure.detail)
            await asyncio.sleep(INTERRUPT_AGAIN_S)


def _key_of(early: EarlyCli) -> tuple[object, ...] | None:
    """The launch key with which it was started."""
    try:
        return launch_key(decode_launch(early.launch).settings)
    except (MalformedMessage, UnknownMessage):
        return None


def _stopped(turn: RunningTurn) -> TurnEnded | None:
    """The end of a turn that was stopped meanwhile."""
    return None if turn.interrupted is None else interrupted_end(turn.interrupted)


def _end_of(
    reason: InterruptReason | None, *, has_begun: bool, is_out_of_memory: bool
) -> TurnEnded:
    """The end of a turn whose CLI failed. `has_begun`: the CLI has sent something for it."""
    if reason is not None:
        return interrupted_end(reason)
    if is_out_of_memory:
        return declared_end(ErrorCode.OUT_OF_MEMORY)
    if has_begun:
        return declared_end(ErrorCode.AGENT_FAILED)
    # Nothing has run: the same error as if it had not come up, so that a retry is allowed.
    return declared_end(ErrorCode.CONTAINER_FAILED)


def _functions(turn: RunningTurn) -> ClientFunctions:
    """What the turn offers of its client; its history then says the names that the model knows."""
    start = turn.start
    taken = own_tools(start.settings) | {FORM_TOOL, QUESTION_TOOL, PLAN_TOOL, DELEGATE_TOOL}
    functions = ClientFunctions(start.turn_options.client_tools, taken=taken)
    history = functions.known_as(start.history)
    if history != start.history:
        turn.start = start.model_copy(update={"history": history})
    return functions


async def _answer_in_form(turn: RunningTurn) -> AnswerInForm | None:
    """The answer, if it has to have a form. A turn that has to end with a call has none."""
    wanted = turn.start.turn_options
    is_call = wanted.client_tools is not None and wanted.client_tools.is_required
    if wanted.answer_form is None or is_call:
        return None
    return await asyncio.to_thread(AnswerInForm, wanted.answer_form)
