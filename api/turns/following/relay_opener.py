"""Creates relays: the one place that knows what a relay of this replica needs."""

from __future__ import annotations

from contextlib import ExitStack

from api.http.drain import Drain
from api.turns.following.relay import Mailbox, Relay
from infra.runtime.clock import Clock
from infra.runtime.logs import bind
from infra.runtime.settings import AgentDefaults, LimitSettings
from infra.store.turns.live import AttachedMailbox, LiveSubscriber
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import TurnRecord, TurnStore
from infra.wire.errors import TurnFailed
from infra.wire.ids import ReplicaId, TurnId
from infra.wire.text.words import Case, refused


class RelayOpener:
    """The relays of one replica."""

    def __init__(
        self,
        *,
        limits: LimitSettings,
        agents: AgentDefaults,
        replica: ReplicaId,
        turns: TurnStore,
        turn_log: TurnLog,
        live: LiveSubscriber,
        drain: Drain,
        clock: Clock,
    ) -> None:
        self.replica = replica
        self._queue_timeout_s = limits.queue_timeout_s
        self._deadline_s = agents.turn_deadline_s
        self._turns = turns
        self._turn_log = turn_log
        self._live = live
        self._drain = drain
        self._clock = clock

    def attached(self, turn: TurnId) -> AttachedMailbox:
        """In its block, live frames of the turn are kept."""
        return self._live.attach(turn)

    async def require_kept(self, record: TurnRecord, *, after: int) -> None:
        """Check that the log still has all events after number `after`.

        Checked before anything is sent, because the beginning of a very long log is dropped. Raises
        `RequestRefused` and `StoreUnavailable`.
        """
        if record.seq <= self._turn_log.events_max:
            return
        oldest = await self._turn_log.oldest(record.turn)
        if oldest is not None and oldest > after + 1:
            raise refused(Case.EVENTS_TRIMMED, param="starting_after", events=oldest - 1)

    def relay(
        self,
        turn: TurnId,
        mailbox: Mailbox,
        held: ExitStack,
        *,
        after: int = 0,
        is_fresh: bool = False,
        is_far: bool = False,
    ) -> Relay:
        """The events after number `after`. If this replica shuts down before `held` is closed, the
        relay is told to end."""
        bind(turn=turn)
        relay = Relay(
            turn,
            mailbox=mailbox,
            turn_log=self._turn_log,
            turns=self._turns,
            clock=self._clock,
            queue_timeout_s=self._queue_timeout_s,
            deadline_s=self._deadline_s,
            after=after,
            is_fresh=is_fresh,
            is_far=is_far,
        )
        held.enter_context(self._drain.holds(lambda: relay.stop(_shutting_down())))
        return relay


def _shutting_down() -> TurnFailed:
    return TurnFailed(Case.READER_CUT.sentence, code=Case.READER_CUT.code)
