"""Has other agents work for a conversation's agent, and tells it what they do and answer.

A call is a turn of another conversation, which any worker runs. Its id follows from the calling
turn and the model's id of the call, so it is asked for once, whichever worker owns the caller and
however often the agent asks. It lives no longer than the calling turn: whatever ends that one
cancels it (`cancel_called` in `infra/store/lua/shared/turns.lua`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from infra.runtime.identity import called_conversation, called_turn
from infra.runtime.logs import fields
from infra.store.access.limits import SubmitLimits
from infra.store.turns.records import CalledBy, CallerOver, CallsTooMany
from infra.store.turns.turns import NewTurn
from infra.wire.agents.delegation import (
    AskDelegate,
    CallingTurn,
    Delegate,
    DelegateAnswered,
    DelegateDid,
    Delegation,
)
from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import (
    AgClusterError,
    GatewayUnavailable,
    LeaseLost,
    RequestRefused,
    StoreUnavailable,
    UnknownMessage,
)
from infra.wire.events import TurnEnded, decode_event
from infra.wire.gateway import SealKey
from infra.wire.history.decision import digest, tails
from infra.wire.ids import ConversationKey, ReplicaId, TurnId
from infra.wire.link import Command
from infra.wire.options import ConversationOptions
from infra.wire.states import TurnState
from infra.wire.turns import OnDisconnect, TextBlock, TurnRequest
from worker.conversations.delegation.called_work import CalledWork
from worker.conversations.delegation.handed_over import HandedOver
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.turns.agent_settings import delegates_of
from worker.turns.phases import RunPhase
from worker.turns.run import TurnRun
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)

ASKED_MAX = 200
"""Calls of one turn that are looked at at all; far fewer are carried out."""
IDLE_MAX_S = 60.0
"""A called agent's container is stopped after this long: its caller rarely comes back later."""
LOOK_S = 0.05
LOOK_MAX_S = 0.5
"""Between two looks at what a called agent has done."""

_NO_ROOM = (
    "No worker has room for another agent at the moment. Do the task yourself, or try again later."
)


class _NotCalled(AgClusterError):
    """The call is not carried out. Its text is for the model."""


class CalledAgents:
    """The calls of one conversation's agent. `run` is their task."""

    def __init__(
        self, parts: ConversationParts, held: HeldLease, *, send: Callable[[Command], None]
    ) -> None:
        """`send` sends a message to the conversation's agent, if there is a link."""
        self._parts = parts
        self._held = held
        self._send = send
        self._files = HandedOver(parts, held)
        self._asked: asyncio.Queue[tuple[TurnRun, AskDelegate]] = asyncio.Queue()
        self._turn: TurnId | None = None
        self._calls: dict[str, DelegateAnswered | None] = {}
        """Of that turn, with their answers."""

    async def run(self) -> None:
        """Carry calls out until cancelled. Called agents then go on: the next owner is asked again,
        and follows them."""
        async with asyncio.TaskGroup() as group:
            while True:
                run, ask = await self._asked.get()
                group.create_task(self._serve(run, ask))

    def take(self, run: TurnRun, ask: AskDelegate) -> None:
        """The agent of the running turn asks, for the first time or again."""
        if self._turn != run.turn:
            self._turn, self._calls = run.turn, {}
        if ask.turn != run.turn:
            return
        if ask.call in self._calls:
            if (answered := self._calls[ask.call]) is not None:
                self._send(answered)
        elif len(self._calls) < ASKED_MAX:
            self._calls[ask.call] = None
            self._asked.put_nowait((run, ask))

    async def _serve(self, run: TurnRun, ask: AskDelegate) -> None:
        try:
            text, is_error = await self._answered(run, ask)
        except LeaseLost:
            raise
        except (_NotCalled, RequestRefused) as refused:
            text, is_error = str(refused), True
        except CallerOver:
            return
        except CallsTooMany:
            agents = self._parts.agents
            text, is_error = (
                f"A turn may call {agents.delegations_at_once} agents at once and "
                f"{agents.delegations_max} in all. Wait for an answer, or go on without.",
                True,
            )
        except GatewayUnavailable as error:
            log.warning("agent not called: %s", error, extra=fields(turn=run.turn))
            text, is_error = "The agent could not be called now. Try again later.", True
        except Exception:  # A call's boundary: its own turn goes on.
            log.exception("call of an agent failed", extra=fields(turn=run.turn))
            text, is_error = "The agent could not be called.", True
        answered = DelegateAnswered(turn=run.turn, call=ask.call, text=text, is_error=is_error)
        if self._turn == run.turn:
            self._calls[ask.call] = answered
            self._send(answered)

    async def _answered(self, run: TurnRun, ask: AskDelegate) -> tuple[str, bool]:
        delegate = delegates_of(run.claimed.request, run.claimed.profile, self._parts.agents).get(
            ask.agent
        )
        if delegate is None:
            raise _NotCalled(f"There is no agent {ask.agent} that this turn may call.")
        c, turn = await self._conversation(run, ask), called_turn(run.turn, ask.call)
        turns, clock = self._parts.turns, self._parts.clock
        if await until_store_answers(lambda: turns.get(turn), clock) is None:
            await self._submit(await self._new_turn(run, ask, delegate, c, turn))
        return await self._followed(run, ask, c, turn)

    async def _conversation(self, run: TurnRun, ask: AskDelegate) -> ConversationKey:
        """Where the called agent works. Raises `_NotCalled` for one that was not called here."""
        if ask.conversation is None:
            return called_conversation(run.turn, ask.call)
        c, store = ConversationKey(ask.conversation), self._parts.conversations
        record = await until_store_answers(lambda: store.get(c), self._parts.clock)
        if record is None or record.caller != self._held.conversation:
            raise _NotCalled("No agent was called there. Leave `conversation` away.")
        return c

    async def _new_turn(
        self, run: TurnRun, ask: AskDelegate, delegate: Delegate, c: ConversationKey, turn: TurnId
    ) -> NewTurn:
        """Raises `_NotCalled`, `GatewayUnavailable` and `LeaseLost`."""
        parts, agents, request = self._parts, self._parts.agents, run.claimed.request
        profile = await until_store_answers(
            lambda: parts.profiles.get(delegate.agent.digest), parts.clock
        )
        if profile is None:
            raise _NotCalled(f"The agent {ask.agent} is not there any longer.")
        free = await until_store_answers(run.spending.free_tokens, parts.clock)
        granted = None if free is None else free // 2
        if granted == 0:
            raise _NotCalled("No budget is left for another agent.")
        # A worker that was frozen may not be the owner any longer.
        await self._held.until_sure()
        sealed = await parts.gateway.seal_key(
            SealKey(
                turn=run.turn,
                conversation=self._held.conversation,
                fence=self._held.fence,
                for_turn=turn,
                for_conversation=c,
            )
        )
        prompt = (TextBlock(text=ask.task),)
        given = request.delegation
        assert given is not None, "there is a delegate"
        return NewTurn(
            request=TurnRequest(
                turn=turn,
                conversation=c,
                tenant=request.tenant,
                model=delegate.model,
                prompt=prompt,
                deadline_s=_deadline_s(profile, agents.turn_deadline_s, run.left_s),
                idle_timeout_s=min(profile.idle_timeout_s or IDLE_MAX_S, IDLE_MAX_S),
                sent=(digest(prompt),),
                tails=tails(prompt),
                is_thin=True,
                agent=delegate.agent,
                options=options_of_called(profile, request.options),
                delegation=Delegation(
                    reached=given.reached,
                    depth=given.depth + 1,
                    caller=CallingTurn(turn=run.turn, conversation=self._held.conversation),
                    budget_tokens=granted,
                ),
            ),
            replica=ReplicaId(parts.worker),
            sealed_key=sealed.sealed_key,
            key_expires_ms=sealed.expires_ms,
            on_disconnect=OnDisconnect.CONTINUE,
            label=ask.agent,
            asked_model=ask.agent,
            called_by=CalledBy(
                turn=run.turn,
                at_once_max=agents.delegations_at_once,
                most=agents.delegations_max,
                granted_tokens=granted or 0,
            ),
        )

    async def _submit(self, new: NewTurn) -> None:
        """Raises `RequestRefused`, `CallerOver` and `CallsTooMany`."""
        parts = self._parts
        limits = SubmitLimits(
            turns_waiting_max=parts.limits.turns_waiting_max,
            queue_max=parts.limits.queue_max,
            tenant_turns_max=parts.limits.tenant_turns_max,
            tenant_queue_max=parts.limits.tenant_queue_max,
            tenant_budget_tokens=parts.budgets.tenant_budget_tokens,
            tenant_bytes_max=parts.limits.tenant_bytes_max,
        )
        submitted = await until_store_answers(
            lambda: parts.turns.submit(new, limits=limits, retention_s=parts.agents.retention_s),
            parts.clock,
        )
        told = fields(turn=submitted.turn, caller=self._turn, model=new.asked_model)
        log.info("agent called", extra=told)
        if not submitted.is_told:
            with suppress(StoreUnavailable):  # Only a hint: a sweep finds the turn.
                await parts.queue.enqueue(submitted.turn, submitted.owner)

    async def _followed(
        self, run: TurnRun, ask: AskDelegate, c: ConversationKey, turn: TurnId
    ) -> tuple[str, bool]:
        """Tell what the called agent does, and return its answer. Raises `_NotCalled` if nobody
        has room for it, and `CallerOver`."""
        parts, work, after = self._parts, CalledWork(ask.agent, c), 0
        give_up_s, pause_s = parts.clock.monotonic() + parts.agents.delegation_wait_s, LOOK_S
        while run.phase is not RunPhase.ENDED:
            page = await until_store_answers(
                lambda after=after: parts.log.read(turn, after=after),  # type: ignore[misc]
                parts.clock,
            )
            for n, payload in page.events:
                after, pause_s = n, LOOK_S
                with suppress(UnknownMessage):
                    event = decode_event(payload)
                    if isinstance(event, TurnEnded):
                        if event.state is TurnState.EXPIRED:
                            raise _NotCalled(_NO_ROOM)
                        landed = await self._files.bring(
                            event.made, agent=ask.agent, tenant=run.claimed.record.tenant
                        )
                        text = work.answer(event, landed=landed)
                        return text, event.state is not TurnState.DONE
                    if (shown := work.take(event)) is not None:
                        self._send(DelegateDid(turn=run.turn, call=ask.call, n=n, event=shown))
            if page.state is None or (page.state.is_terminal and not page.events):
                raise _NotCalled("The agent's work was lost.")
            if page.state is TurnState.QUEUED and parts.clock.monotonic() > give_up_s:
                with suppress(StoreUnavailable):  # Its log tells whether it was.
                    await parts.turns.expire(turn)
            await parts.clock.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LOOK_MAX_S)
        raise CallerOver("the calling turn has ended")


def _deadline_s(profile: AgentProfile, most_s: float, left_s: float) -> float:
    return max(1.0, min(profile.turn_deadline_s or most_s, most_s, left_s))


def options_of_called(profile: AgentProfile, callers: ConversationOptions) -> ConversationOptions:
    """A called agent goes out as its own profile says, otherwise as its caller does."""
    return callers.model_copy(
        update={"egress_profile": profile.egress_profile or callers.egress_profile}
    )
