"""What a claim's answer means: the request opened, the decision on the memory made where that is
quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from redis.asyncio import Redis

from infra.runtime.contents import Contents
from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import fields
from infra.store.turns.calls import ClaimAnswer
from infra.store.turns.history import UnheardTurn, read_accepted, read_newest
from infra.store.turns.records import Claimed, Unheard, options_kept, turn_record
from infra.wire.control import BegunTurn
from infra.wire.history.decision import Accepted, Base, sent_by
from infra.wire.history.going_on import NewestPrompt, decide_from_newest
from infra.wire.ids import ConversationKey, HostId, TurnId
from infra.wire.turns import TurnRequest, decode_turn_request


def claim_of(turn: TurnId, begun: BegunTurn) -> ClaimAnswer:
    """What the owner's claim would answer."""
    return ClaimAnswer(
        outcome="claimed",
        turn=turn,
        record=fields(begun.record),
        request=begun.request.encode(),
        host=HostId(begun.host) if begun.host else None,
        sdk_session=begun.sdk_session or None,
        is_resending=bool(begun.is_resending),
        transcript_full=begun.transcript_full or None,
        known=begun.known,
        newest=begun.newest.encode(),
    )


class ClaimReader:
    """Reads claims.

    A claim brings the length of the list of accepted prompts and its last entry. That is enough for
    a client that goes on from all that is recorded; only for the others the list is read, so that
    the usual turn costs the same however long its conversation is.
    """

    def __init__(self, redis: Redis, keys: Keys, contents: Contents) -> None:
        self._redis = redis
        self._keys = keys
        self._contents = contents

    async def read(self, c: ConversationKey, answer: ClaimAnswer) -> Claimed:
        """The claimed turn, with as much of the accepted prompts as it takes.

        Raises `StoreUnavailable`, `MalformedMessage`, `UnknownMessage`, `ContentNotOpened`.
        """
        claimed = self._without_past(c, answer)
        newest = read_newest(self._contents, c, answer.newest, known=answer.known)
        if newest is None:
            return await self._with_all(c, claimed, answer.known)
        if claimed.record.base is None:
            decided = self._decided(claimed.request, newest, resends=claimed.is_resending)
            if decided is None:
                return await self._with_all(c, claimed, answer.known)
            claimed = replace(claimed, decided=decided)
        accepted = () if newest.last is None else (newest.last,)
        return replace(claimed, accepted=accepted, unread=newest.known - len(accepted))

    def _without_past(self, c: ConversationKey, answer: ClaimAnswer) -> Claimed:
        request = self._request(answer.turn, answer.request)
        # An API of before keeps the options with the conversation only.
        if kept := answer.record.get("options", answer.options):
            options = request.options.over(options_kept(kept))
            request = request.model_copy(update={"options": options})
        return Claimed(
            record=turn_record(answer.turn, answer.record),
            request=request,
            is_adoption=answer.is_adoption,
            host=answer.host,
            sdk_session=answer.sdk_session,
            is_resending=answer.is_resending,
            is_transcript_full=answer.transcript_full == answer.sdk_session,
            age_s=answer.age_ms / 1000,
        )

    def _decided(self, request: TurnRequest, newest: NewestPrompt, *, resends: bool) -> Base | None:
        return decide_from_newest(
            newest,
            sent_by(request),
            is_thin=request.is_thin,
            resends=resends,
            answers=request.answers,
            blind=self._contents.blind,
        )

    async def _with_all(self, c: ConversationKey, claimed: Claimed, known: int) -> Claimed:
        """With the list as the claim found it: what was stopped since stands behind that."""
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.lrange(self._keys.accepted(c), 0, known - 1)
                pipe.hgetall(self._keys.unheard(c))
                entries, unheard = await pipe.execute()
        kept = [read_accepted(self._contents, c, entry) for entry in entries]
        return replace(
            claimed,
            accepted=tuple(entry for entry in kept if isinstance(entry, Accepted)),
            unheard=self._unheard(kept, unheard),
        )

    def _unheard(
        self, kept: Sequence[Accepted | UnheardTurn], said: Mapping[bytes, bytes]
    ) -> tuple[Unheard, ...]:
        waiting = (entry.turn for entry in kept if isinstance(entry, UnheardTurn))
        return tuple(self._message(turn, said.get(turn.encode())) for turn in waiting)

    def _message(self, turn: TurnId, raw: bytes | None) -> Unheard:
        if raw is None:
            return Unheard(digest="", prompt=())
        request = self._request(turn, raw)
        return Unheard(digest=request.sent[-1] if request.sent else "", prompt=request.prompt)

    def _request(self, turn: TurnId, raw: bytes) -> TurnRequest:
        return decode_turn_request(self._contents.open(raw, request_place(turn)))


def request_place(turn: TurnId) -> str:
    """Where a request is sealed to."""
    return f"request {turn}"
