"""From a checked request to a turn in the cluster, and the hold its client has on it."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace

from api.auth import Caller
from api.drain import Drain
from api.hangups import Hangups
from api.naming import label
from api.prompt import Prompt
from api.relay import Relay
from infra.runtime.clock import Clock
from infra.runtime.identity import conversation_key, new_conversation_name, new_turn_id
from infra.runtime.logs import fields
from infra.runtime.sealing import SealContext, Sealer
from infra.runtime.settings import Settings
from infra.store.live import LiveSubscriber
from infra.store.queue import PlacementQueue
from infra.store.turn_log import TurnLog
from infra.store.turns import NewTurn, TurnStore
from infra.wire.errors import ErrorCode, StoreUnavailable, TurnFailed
from infra.wire.ids import ConversationKey, ReplicaId, TenantId, TurnId
from infra.wire.turns import Lane, OnDisconnect, TurnRequest

log = logging.getLogger(__name__)

SIDE_RETENTION_S = 600.0
"""A side request's conversation holds nothing but its turn's place, and goes soon after it."""

KEY_SLACK_S = 600.0
"""A sealed key outlives the longest wait and the longest turn by this, for restarts between."""


@dataclass(frozen=True)
class Repeat:
    """What makes a repeated request the same turn.

    `is_strict`: the client promises that the key stands for one answer (`Idempotency-Key`), so a
    finished turn is answered again from its log. Otherwise (a message id, which a regenerate may
    carry again) a repeat only joins a turn that is still under way.
    """

    key: str
    body: bytes
    is_strict: bool

    def digest(self, conversation: ConversationKey) -> str:
        parts = (conversation.encode(), self.key.encode(), hashlib.sha256(self.body).digest())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


@dataclass(frozen=True)
class Ask:
    """A request that was found good."""

    caller: Caller
    model: str
    """The real id, aliases resolved."""
    prompt: Prompt
    name: str | None = None
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    repeat: Repeat | None = None
    lane: Lane = Lane.AGENT
    max_tokens: int | None = None
    """Bound of a side request's answer."""


class OpenTurn:
    """One client's hold on a turn: its relay, and what its leaving means.

    `leave()` must be called once, when the answer is over or the client is.
    """

    def __init__(
        self, relay: Relay, *, tenant: TenantId, policy: OnDisconnect, exit: ExitStack,
        readers: Counter[TurnId], hangups: Hangups,
    ) -> None:  # fmt: skip
        self.id = relay.turn
        self.relay = relay
        self._tenant = tenant
        self._policy = policy
        self._exit = exit
        self._readers = readers
        self._hangups = hangups
        self._has_left = False
        readers[self.id] += 1

    def leave(self, *, hung_up: bool) -> None:
        """Let go. A client that hung up takes the turn with it.

        Unless it asked for the turn to go on, or another client of this replica reads it too.
        """
        if self._has_left:
            return
        self._has_left = True
        self._exit.close()
        self._readers[self.id] -= 1
        if self._readers[self.id] > 0:
            return
        del self._readers[self.id]
        if hung_up and not self.relay.is_ended and self._policy is OnDisconnect.CANCEL:
            self._hangups.tell(self.id, self._tenant)


class TurnOpener:
    """Submits turns and opens their relays."""

    def __init__(
        self,
        settings: Settings,
        *,
        secret: bytes,
        replica: ReplicaId,
        turns: TurnStore,
        turn_log: TurnLog,
        live: LiveSubscriber,
        queue: PlacementQueue,
        hangups: Hangups,
        drain: Drain,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._sealer = Sealer(secret)
        self._replica = replica
        self._turns = turns
        self._turn_log = turn_log
        self._live = live
        self._queue = queue
        self._hangups = hangups
        self._drain = drain
        self._clock = clock
        self._readers: Counter[TurnId] = Counter()

    async def open(self, ask: Ask) -> OpenTurn:
        """Submit the turn, or join the one it repeats, and follow it.

        Raises `RequestRefused` (queue full) and `StoreUnavailable`.
        """
        new = self._new_turn(ask)
        with ExitStack() as held:
            # Attached before the submit, so that not even the first frame is missed.
            mailbox = held.enter_context(self._live.attach(new.request.turn))
            turn = await self._submit(new, ask.repeat)
            if turn != new.request.turn:
                held.close()
                mailbox = held.enter_context(self._live.attach(turn))
            relay = Relay(
                turn,
                mailbox=mailbox,
                turn_log=self._turn_log,
                turns=self._turns,
                clock=self._clock,
                queue_timeout_s=self._settings.queue_timeout_s,
                deadline_s=self._settings.turn_deadline_s,
                is_fresh=turn == new.request.turn,
            )
            held.enter_context(self._drain.holds(lambda: relay.stop(_shutting_down(turn))))
            return OpenTurn(
                relay,
                tenant=ask.caller.tenant,
                policy=ask.on_disconnect,
                exit=held.pop_all(),
                readers=self._readers,
                hangups=self._hangups,
            )

    async def _submit(self, new: NewTurn, repeat: Repeat | None) -> TurnId:
        limits = self._settings
        submitted = await self._turns.submit(
            new,
            waiting_max=limits.turns_waiting_max,
            retention_s=self._retention_s(new.request.lane),
        )
        if not submitted.created:
            if (repeat and repeat.is_strict) or await self._is_under_way(submitted.turn):
                log.info("repeat joins its turn", extra=fields(turn=submitted.turn))
                return submitted.turn
            return await self._submit(replace(new, idempotency=None), None)
        log.info(
            "turn submitted",
            extra=fields(
                turn=submitted.turn,
                conversation=new.request.conversation,
                tenant=new.request.tenant,
                model=new.request.model,
                ahead=submitted.position,
            ),
        )
        try:
            if new.request.lane is Lane.SIDE:
                await self._queue.enqueue_side(submitted.turn)
            else:
                await self._queue.enqueue(submitted.turn, submitted.owner)
        except StoreUnavailable:
            # Only a hint: the workers' sweep finds the turn within seconds.
            log.warning("turn not announced", extra=fields(turn=submitted.turn))
        return submitted.turn

    async def _is_under_way(self, turn: TurnId) -> bool:
        record = await self._turns.get(turn)
        return record is not None and not record.state.is_terminal and record.cancel is None

    def _retention_s(self, lane: Lane) -> float:
        limits = self._settings
        if lane is Lane.SIDE:
            return max(SIDE_RETENTION_S, limits.queue_timeout_s + limits.side_deadline_s)
        return limits.retention_s

    def _new_turn(self, ask: Ask) -> NewTurn:
        limits, is_side = self._settings, ask.lane is Lane.SIDE
        turn = new_turn_id()
        tenant = ask.caller.tenant
        # A side request's is never the one it names: a title must neither wait nor be remembered.
        name = (None if is_side else ask.name) or new_conversation_name()
        conversation = conversation_key(self._secret, tenant, name)
        deadline_s = limits.side_deadline_s if is_side else limits.turn_deadline_s
        lives_s = limits.queue_timeout_s + deadline_s + KEY_SLACK_S
        expires_ms = self._clock.unix_ms() + int(lives_s * 1000)
        context = SealContext(tenant, conversation, turn, expires_ms)
        return NewTurn(
            request=TurnRequest(
                turn=turn,
                conversation=conversation,
                tenant=tenant,
                model=ask.model,
                # The default one is for agents.
                system_prompt=ask.prompt.system_prompt
                or (None if is_side else limits.system_prompt),
                history=ask.prompt.history,
                prompt=ask.prompt.prompt,
                deadline_s=deadline_s,
                lane=ask.lane,
                max_tokens=ask.max_tokens,
                idle_timeout_s=(
                    0.0
                    if is_side
                    else limits.idle_timeout_s
                    if ask.name
                    else limits.unnamed_idle_timeout_s
                ),
            ),
            replica=self._replica,
            sealed_key=self._sealer.seal(ask.caller.api_key, context),
            key_expires_ms=expires_ms,
            on_disconnect=ask.on_disconnect,
            label="" if is_side else label(ask.name),
            idempotency=ask.repeat.digest(conversation) if ask.repeat else None,
        )


def _shutting_down(turn: TurnId) -> TurnFailed:
    return TurnFailed(
        f"This server is shutting down. The completion {turn} goes on; send the request again.",
        code=ErrorCode.SHUTTING_DOWN,
    )
