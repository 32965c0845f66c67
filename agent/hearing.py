"""What an agent hears from its CLI in one turn, and how the turn ends by that."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from claude_agent_sdk import Message, SystemMessage

from agent.answer_in_form import AnswerInForm
from agent.approvals.approvals import TurnApprovals
from agent.cli.offers import OfferedCall, Offers
from agent.client_functions import ClientFunctions
from agent.delegation import DelegatedCalls
from agent.questions import UserQuestions, is_question, text_of
from agent.translate.mcp import LastWords, servers_seen
from agent.translate.translator import Translator
from agent.turn import RunningTurn
from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode
from infra.wire.events import (
    EndReason,
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    TurnEnded,
)
from infra.wire.link import InterruptReason
from infra.wire.mcp.secrets import ServerSeen
from infra.wire.options import Verbosity
from infra.wire.states import TurnState
from infra.wire.text.bounds import TextBounds
from infra.wire.text.words import Case

log = logging.getLogger(__name__)

_VERBOSITY = {
    Verbosity.LOW: "Keep your answer short.",
    Verbosity.MEDIUM: None,
    Verbosity.HIGH: "Answer at length and in detail.",
}
"""What the model is told of the wanted length."""


class TurnHearing:
    """Listens to the CLI for one turn and reports its events."""

    def __init__(
        self,
        turn: RunningTurn,
        functions: ClientFunctions,
        answer: AnswerInForm | None,
        questions: UserQuestions,
        calls: DelegatedCalls,
        *,
        last_words: LastWords,
        on_servers: Callable[[Sequence[ServerSeen]], None] = lambda _: None,
        approvals: TurnApprovals | None = None,
    ) -> None:
        """`answer`: the turn ends with an answer in a form, unless it ends with a call.
        `last_words` are those of MCP servers, and `on_servers` is told how these are. `approvals`:
        some calls may have to be approved."""
        self.approvals = approvals
        self._last_words = last_words
        self._on_servers = on_servers
        self._turn = turn
        self._has_text = False
        self.left_open: list[OfferedCall] = []
        """The calls with which the turn ended."""
        self.asked: list[OfferedCall] = []
        """Those of them that the user was asked about, and could read as a whole."""
        self.functions = functions
        self._answer = answer
        options = turn.start.turn_options
        self._verbosity = options.verbosity
        self._bounds = TextBounds(stop=options.stop, max_tokens=options.max_tokens)
        self.offers: Offers | None = None
        """What the CLI that was asked offers."""
        self.prompt_id = str(uuid.uuid4())
        self.offered = [
            *functions.offers,
            *(answer.offers if answer else ()),
            *questions.offers,
            *calls.offers,
            *(approvals.offers if approvals else ()),
        ]
        """The tools that the turn offers."""
        # What is carried out is the agent's work, and shown as such.
        offered = frozenset(offer.name for offer in self.offered if offer.run is None)
        self.translator = Translator(
            self.prompt_id,
            offered=offered,
            last_words=last_words,
            is_held=approvals.holds if approvals else None,
        )
        self.ended: TurnEnded | None = None
        self.over = asyncio.Event()
        self.is_asked = False
        """Whether the prompt was sent to a CLI."""
        self.has_said = False
        """Whether the answer has begun, or a tool was called."""

    @property
    def wish(self) -> str | None:
        """What is added to the prompt."""
        form = self._answer.wish if self._answer else self.functions.wish
        length = _VERBOSITY[self._verbosity] if self._verbosity else None
        plan = self.approvals.wish if self.approvals else None
        return "\n\n".join(wish for wish in (length, plan, form) if wish) or None

    @property
    def calls(self) -> list[OfferedCall]:
        """The calls of offered tools that are open, in the model's order."""
        left_open = self.offers.open_calls if self.offers else {}
        return [left_open[id] for id in self.translator.offered_calls if id in left_open]

    def listen_again(self) -> str:
        """The CLI is asked once more in this turn. Returns the id of that prompt."""
        id = str(uuid.uuid4())
        self.translator.expect(id)
        self.ended = None
        self.over.clear()
        return id

    async def reminder(self, ended: TurnEnded) -> str | None:
        """What to tell the model if it has finished without what the turn has to end with."""
        if self._lacks_call(ended):
            return self.functions.reminder
        if self._answer and _is_finished(ended):
            await asyncio.to_thread(self._answer.read_prose)
            if not self._answer.is_given and not self._answer.is_given_up:
                return self._answer.reminder
        return None

    async def concluded(self, ended: TurnEnded) -> TurnEnded:
        """Report what the turn ends with, and return how it ends if the CLI ended like this."""
        await self._say_held()
        if self._bounds.ended is not None:
            return self._as_cut(ended)
        ended = self._judged(ended)
        if ended.end_reason is EndReason.CALLS:
            return await self._tell_calls(ended)
        if self._answer and ended.state is TurnState.DONE:
            return await self._tell_answer(self._answer, ended)
        return ended

    async def _tell_calls(self, ended: TurnEnded) -> TurnEnded:
        self.left_open = self.calls
        asked = [call for call in self.left_open if self._is_for_user(call)]
        told = self.functions.told(call for call in self.left_open if call not in asked)
        if self.functions.has_asking:
            told = [*(self.functions.asking(call.id, self._asking(call)) for call in asked), *told]
        elif asked:
            gap = "\n\n" if self._has_text else ""
            await self._say(TextDelta(text=gap + self._text_of(asked)))
            await self._say_held()
            if self._bounds.ended is not None:
                return self._as_cut(ended)
        for call in told:
            await self._turn.say(call)
        self.asked = asked
        reason = EndReason.CALLS if told else EndReason.DONE
        return ended.model_copy(update={"end_reason": reason, "asks": bool(asked)})

    def _is_for_user(self, call: OfferedCall) -> bool:
        is_approval = self.approvals is not None and self.approvals.is_asked(call)
        return is_question(call) or is_approval

    def _text_of(self, asked: Sequence[OfferedCall]) -> str:
        """What the user is asked, as they read it."""
        texts = [text_of(call) for call in filter(is_question, asked)]
        if self.approvals is not None:
            texts.append(self.approvals.text_of(asked))
        return "\n\n".join(filter(None, texts))

    def _asking(self, call: OfferedCall) -> Mapping[str, Any]:
        """What the user is asked by one call, for their program."""
        if is_question(call) or self.approvals is None:
            return {"kind": "question", "text": text_of(call), **call.input}
        return self.approvals.told(call)

    async def _tell_answer(self, answer: AnswerInForm, ended: TurnEnded) -> TurnEnded:
        await asyncio.to_thread(answer.read_prose)
        if answer.is_given:
            for event in answer.told():
                await self._say(event)
            await self._say_held()
            if self._bounds.ended is not None:
                return self._as_cut(ended)
            return ended.model_copy(update={"end_reason": EndReason.DONE})
        if (reason := self._turn.interrupted) is not None:  # Before it could be asked again.
            return interrupted_end(reason).model_copy(update={"usage": ended.usage})
        return _failed_as(ErrorCode.FORM_NOT_KEPT, ended) if _is_finished(ended) else ended

    def _lacks_call(self, ended: TurnEnded) -> bool:
        """Whether the model has finished without the call that the turn has to end with."""
        functions = self.functions
        return _is_finished(ended) and functions.needs_call and not functions.is_given_up

    def _judged(self, ended: TurnEnded) -> TurnEnded:
        """How the turn ends by the calls of the client's functions."""
        if ended.state is TurnState.DONE and self.functions.is_given_up:
            return _failed_as(Case.CALLS_WRONG, ended)
        if self._lacks_call(ended):
            return _failed_as(Case.CALL_MISSING, ended)
        if ended.end_reason is EndReason.CALLS and not self.calls:
            return _failed_as(ErrorCode.AGENT_FAILED, ended)
        return ended

    async def hear(self, message: Message) -> None:
        """Report the events of a message. Waits while the outbox is full."""
        if self.over.is_set():
            return
        if isinstance(message, SystemMessage) and message.subtype == "mirror_error":
            log.warning("the transcript is not stored: %s", message.data.get("error"))
        if isinstance(message, SystemMessage) and message.subtype == "init":
            self._tell_servers(message)
        try:
            for event in self.translator.read(message, self._turn.interrupted):
                if isinstance(event, TurnEnded):
                    self.ended = event
                    self.over.set()
                    return
                self._has_text = self._has_text or isinstance(event, TextDelta)
                self.has_said = self.has_said or isinstance(event, TextDelta | ToolCall)
                await self._say(self._answer.shown(event) if self._answer else event)
                self._stop_if_cut()
        except Exception:  # A message that we cannot read must not end the reading.
            log.exception("a message of the CLI could not be translated")
            await self._turn.say(Notice(text="A part of the agent's answer could not be read."))

    def _tell_servers(self, init: SystemMessage) -> None:
        if seen := list(servers_seen(init.data, self._last_words)):
            self._on_servers(seen)

    async def _say(self, event: Event) -> None:
        """Report an event, and no text beyond the answer's bounds. After these, nothing."""
        if self._bounds.ended is not None:
            return
        if isinstance(event, TextDelta):
            if shown := self._bounds.add(event.text):
                await self._turn.say(TextDelta(text=shown))
            return
        if isinstance(event, ThinkingDelta | ToolCall):
            await self._say_held()
        if self._bounds.ended is None:
            await self._turn.say(event)

    async def _say_held(self) -> None:
        """The text goes no further for now: what was held back is no stop sequence."""
        if held := self._bounds.release():
            await self._turn.say(TextDelta(text=held))

    def _stop_if_cut(self) -> None:
        """Nobody waits for what the agent would do after the end of its answer."""
        match self._bounds.ended:
            case EndReason.LENGTH:
                self._turn.interrupt(InterruptReason.LENGTH)
            case EndReason.DONE:
                self._turn.interrupt(InterruptReason.STOP)

    def _as_cut(self, ended: TurnEnded) -> TurnEnded:
        """The end of an answer that we cut, whatever the CLI made of that."""
        cut = {"state": TurnState.DONE, "end_reason": self._bounds.ended, "error": None}
        return ended.model_copy(update=cut)


def _is_finished(ended: TurnEnded) -> bool:
    return ended.state is TurnState.DONE and ended.end_reason is EndReason.DONE


def _failed_as(why: ErrorCode | Case, ended: TurnEnded) -> TurnEnded:
    kept = {"usage": ended.usage, "checkpoint": ended.checkpoint}
    return declared_end(why).model_copy(update=kept)
