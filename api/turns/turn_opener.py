"""Turns a checked request into a turn in the cluster."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from api.access.answer_quota import AnswerQuota
from api.http.bodies import LARGE_BYTES, LargeBodies
from api.turns.ask import Ask
from api.turns.chain import OpenChain, head_of, last_chains
from api.turns.deferred import DeferredCalls
from api.turns.following.open_answer import OwnAnswer, Trail
from api.turns.following.relay import Relay
from api.turns.following.relay_opener import RelayOpener
from api.turns.mcp_secrets import told
from api.turns.naming import label
from api.turns.temporary import TemporaryNames
from infra.runtime.clock import Clock
from infra.runtime.identity import new_turn_id, secrets_version
from infra.runtime.logs import fields
from infra.runtime.sealing import SealContext, Sealed, Sealer
from infra.runtime.settings import Settings
from infra.store.access.limits import SubmitLimits
from infra.store.conversations.chains import ChainStore
from infra.store.placement.queue import PlacementQueue
from infra.store.turns.readers import TurnReaders
from infra.store.turns.turns import NewTurn, RepeatOf, Submitted, TurnRecord, TurnStore
from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import RequestRefused, StoreUnavailable
from infra.wire.history.answers import shown_head
from infra.wire.history.decision import GO_ON_DIGEST
from infra.wire.ids import ConversationKey, ReaderId, TurnId
from infra.wire.mcp.secrets import CallerSecrets
from infra.wire.options import TurnOptions
from infra.wire.turns import Lane, TurnRequest

log = logging.getLogger(__name__)

SIDE_RETENTION_S = 600.0
"""A side request's conversation only serves its turn, and expires soon after it."""

KEY_SLACK_S = 2 * 3600.0
"""Seconds by which a sealed key outlives the longest wait and the longest turn, for restarts and
for a gateway whose clock differs."""


class TurnOpener:
    """Submits turns and opens their relays."""

    def __init__(
        self,
        settings: Settings,
        *,
        secret: bytes,
        turns: TurnStore,
        chains: ChainStore,
        names: TemporaryNames,
        queue: PlacementQueue,
        relays: RelayOpener,
        answers: AnswerQuota,
        readers: TurnReaders,
        deferred: DeferredCalls,
        large: LargeBodies,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._sealer = Sealer(secret)
        self._mcp_sealer = Sealer(secret, Sealed.MCP_SECRETS)
        self._turns = turns
        self._chains = chains
        self._names = names
        self._queue = queue
        self._relays = relays
        self._answers = answers
        self._deferred = deferred
        self._large = large
        self._clock = clock
        self._readers = readers
        self._serials = itertools.count(1)

    async def open(self, ask: Ask) -> OwnAnswer:
        """Submit the turn, or join the one that it repeats, and follow it.

        Raises `RequestRefused` (a limit is reached) and `StoreUnavailable`.
        """
        with ExitStack() as held:
            held.enter_context(self._answers.counted(ask.caller.tenant))
            new = self._new_turn(ask, await self._conversation(ask))
            turn, conversation, is_far = new.request.turn, new.request.conversation, False
            # Attached before the submit, so that not even the first frame is missed.
            attachment = self._relays.attached(turn)
            mailbox = held.enter_context(attachment)
            joined = await self._submit(new, ask)
            if joined is None:
                await self._note_name(ask, conversation)
            with self._left_if_it_fails(joined.turn if joined else turn, new):
                if joined is not None:
                    await self._relays.require_kept(joined, after=0)
                    attachment.detach()
                    turn, conversation = joined.turn, joined.conversation
                    is_far = joined.replica != self._relays.replica
                    mailbox = held.enter_context(self._relays.attached(turn))
                relay = self._relays.relay(
                    turn, mailbox, held, is_fresh=joined is None, is_far=is_far
                )
                return self._held(ask, new, conversation, relay, held.pop_all())

    def _held(
        self, ask: Ask, new: NewTurn, conversation: ConversationKey, relay: Relay, exit: ExitStack
    ) -> OwnAnswer:
        comes_again = ask.repeat is not None and ask.repeat.comes_again
        return OwnAnswer(
            relay,
            exit,
            tenant=ask.caller.tenant,
            reader=self._reader_of(new),
            is_repeatable=comes_again,
            # The reader of a stream has seen a part of it, so disconnecting means stop.
            patience_s=self._settings.retry_grace_s if comes_again and not ask.is_streamed else 0,
            trail=self._trail(ask, conversation),
            turns=self._turns,
            readers=self._readers,
            deferred=self._deferred,
        )

    async def _conversation(self, ask: Ask) -> ConversationKey:
        """The conversation: by name, otherwise by the resent history, otherwise a new one. Side
        requests get a new one."""
        tenant = ask.caller.tenant
        if ask.lane is Lane.SIDE:
            # Never the one that it names, because a title must neither wait for a turn nor be
            # remembered.
            return self._names.another(tenant)
        if ask.name is None:
            return await self._found_by_history(ask) or self._names.another(tenant)
        if self._begins_anew(ask):
            return self._names.another(tenant)
        return await self._names.stands_for(tenant, ask.name)

    def _begins_anew(self, ask: Ask) -> bool:
        """Whether it starts another chat under a name that was used before."""
        said = ask.prompt
        return len(said.sent) < 2 and not said.has_answers and self._names.covers(ask.name)

    async def _note_name(self, ask: Ask, conversation: ConversationKey) -> None:
        """Make a new chat findable under its temporary name."""
        if ask.lane is Lane.SIDE or ask.name is None or not self._begins_anew(ask):
            return
        try:
            await self._names.let_stand(ask.caller.tenant, ask.name, conversation)
        except StoreUnavailable:
            # The turn already runs; the next one starts from the history that is sent with it.
            log.warning("temporary name not noted", extra=fields(conversation=conversation))

    async def _found_by_history(self, ask: Ask) -> ConversationKey | None:
        said = ask.prompt
        if len(said.sent) < 2:
            return None
        before, earlier = await self._large.read(
            ask.size,
            lambda: last_chains(said.system_prompt, said.sent, said.closings),
            tenant=ask.caller.tenant,
        )
        return await self._chains.take(
            ask.caller.tenant,
            before,
            earlier=earlier,
            retention_s=self._settings.retention_s,
        )

    def _trail(self, ask: Ask, conversation: ConversationKey) -> Trail | None:
        if ask.name or ask.lane is Lane.SIDE:
            return None
        said = ask.prompt
        goes_on = len(said.sent) > 1 and said.sent[-1] == GO_ON_DIGEST
        *before, last = said.sent[:-1] if goes_on else said.sent
        return Trail(
            chains=self._chains,
            tenant=ask.caller.tenant,
            conversation=conversation,
            chain=OpenChain(said.system_prompt, before),
            lasts=tuple(dict.fromkeys((last, *said.tails[:1]))),
            retention_s=self._settings.retention_s,
            begun=head_of(said.closings[-1]) if goes_on else "",
        )

    async def _submit(self, new: NewTurn, ask: Ask) -> TurnRecord | None:
        """Submit the turn. Returns the turn that it repeats, if it gets that one instead."""
        limits = self._settings
        while True:
            with self._withdrawn_if_unsure(new):
                submitted = await self._turns.submit(
                    new,
                    limits=SubmitLimits(
                        turns_waiting_max=limits.turns_waiting_max,
                        queue_max=limits.queue_max,
                        tenant_turns_max=limits.tenant_turns_max,
                        tenant_queue_max=limits.tenant_queue_max,
                        tenant_budget_tokens=limits.tenant_budget_tokens,
                        tenant_bytes_max=limits.tenant_bytes_max,
                    ),
                    retention_s=self._retention_s(new.request.lane),
                )
            if submitted.created:
                break
            if earlier := await self._repeated(submitted, new, ask):
                log.info("repeat joins its turn", extra=fields(turn=earlier.turn))
                return earlier
            new = replace(new, supersedes=submitted.turn)
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
            elif not submitted.is_told:
                await self._queue.enqueue(submitted.turn, submitted.owner)
        except StoreUnavailable:
            # Only a hint: the workers' sweep finds the turn within seconds.
            log.warning("turn not announced", extra=fields(turn=submitted.turn))
        except Exception:  # The turn is accepted, so a failed hint must not refuse it.
            log.exception("turn not announced", extra=fields(turn=submitted.turn))
        return None

    async def _repeated(self, submitted: Submitted, new: NewTurn, ask: Ask) -> TurnRecord | None:
        """The existing turn, if the repeat gets it."""
        turn = submitted.turn
        with self._left_if_it_fails(turn, new):
            earlier = await self._turns.get(turn)
        if earlier is None or submitted.is_joined:
            # Once joined, it also belongs to this request, whatever happens to it from here on.
            return earlier
        return earlier if ask.repeat is not None and ask.repeat.gets(earlier) else None

    @contextmanager
    def _left_if_it_fails(self, turn: TurnId, new: NewTurn) -> Iterator[None]:
        """A request that fails in this block never reads its turn, so it leaves as if its client
        had disconnected.

        Otherwise it would stay among the turn's readers, and the turn would outlive all of them.
        """
        try:
            yield
        except BaseException:
            # Not `new` itself, which is as large as its request, because the call may wait for
            # long.
            leave, tenant = self._readers.leave, new.request.tenant
            who = self._reader_of(new)
            self._deferred.add(
                "hang-up", turn, lambda: leave(turn, who, tenant=tenant, hung_up=True)
            )
            raise

    def _reader_of(self, new: NewTurn) -> ReaderId:
        assert new.reader is not None
        return new.reader

    @contextmanager
    def _withdrawn_if_unsure(self, new: NewTurn) -> Iterator[None]:
        """A submit whose answer was lost may have been carried out: then its reader leaves
        again."""
        try:
            yield
        except RequestRefused:
            raise
        except BaseException:
            withdraw, turn, tenant = self._readers.withdraw, new.request.turn, new.request.tenant
            who, digest = self._reader_of(new), new.idempotency
            self._deferred.add(
                "withdraw", turn, lambda: withdraw(turn, who, tenant=tenant, idempotency=digest)
            )
            raise

    def _retention_s(self, lane: Lane) -> float:
        limits = self._settings
        if lane is Lane.SIDE:
            return max(SIDE_RETENTION_S, limits.queue_timeout_s + limits.side_deadline_s)
        return limits.retention_s

    def _default_prompt(self, ask: Ask) -> str | None:
        """For the usual agent. Others have a prompt of their own, side requests none."""
        is_usual = ask.lane is not Lane.SIDE and ask.agent is None
        return self._settings.system_prompt if is_usual else None

    def _deadline_s(self, profile: AgentProfile | None) -> float:
        own_s = profile.turn_deadline_s if profile else None
        return min(own_s or self._settings.turn_deadline_s, self._settings.turn_deadline_s)

    def _idle_timeout_s(self, profile: AgentProfile | None) -> float:
        own_s = profile.idle_timeout_s if profile else None
        return own_s or self._settings.idle_timeout_s

    def _with_secrets(self, ask: Ask, context: SealContext) -> TurnOptions:
        """The turn's options, with what its caller sends for MCP servers."""
        if not ask.mcp_secrets:
            return ask.turn_options
        secrets = told(ask.mcp_secrets)
        sealed = CallerSecrets(
            names=tuple(sorted(ask.mcp_secrets)),
            sealed=self._mcp_sealer.seal(secrets, context),
            version=secrets_version(self._secret, context.tenant, secrets),
        )
        return ask.turn_options.model_copy(update={"mcp_secrets": sealed})

    def _new_turn(self, ask: Ask, conversation: ConversationKey) -> NewTurn:
        limits, is_side = self._settings, ask.lane is Lane.SIDE
        turn = new_turn_id()
        tenant = ask.caller.tenant
        deadline_s = limits.side_deadline_s if is_side else self._deadline_s(ask.profile)
        lives_s = limits.queue_timeout_s + deadline_s + KEY_SLACK_S
        expires_ms = self._clock.unix_ms() + int(lives_s * 1000)
        context = SealContext(tenant, conversation, turn, expires_ms)
        return NewTurn(
            request=TurnRequest(
                turn=turn,
                conversation=conversation,
                tenant=tenant,
                model=ask.model,
                system_prompt=ask.prompt.system_prompt or self._default_prompt(ask),
                history=ask.prompt.history,
                prompt=ask.prompt.prompt,
                deadline_s=deadline_s,
                idle_timeout_s=0.0 if is_side else self._idle_timeout_s(ask.profile),
                lane=ask.lane,
                options=ask.options,
                agent=ask.agent,
                turn_options=self._with_secrets(ask, context),
                delegation=ask.delegation,
                sent=ask.prompt.sent,
                begins=ask.prompt.begins,
                answers=tuple(map(shown_head, ask.prompt.answers)),
                tails=ask.prompt.tails,
                is_thin=ask.is_thin,
            ),
            replica=self._relays.replica,
            sealed_key=self._sealer.seal(ask.caller.api_key, context),
            key_expires_ms=expires_ms,
            on_disconnect=ask.on_disconnect,
            asked_model=ask.asked_model,
            label="" if is_side else label(ask.name),
            idempotency=ask.repeat.digest(ask.name) if ask.repeat else None,
            repeats=ask.repeat.among(ask.name) if ask.repeat else RepeatOf.ANY,
            is_large=ask.size > LARGE_BYTES,
            reader=ReaderId(f"{self._relays.replica} {next(self._serials)}"),
        )
