"""Decides which memory a claimed turn continues, and what its agent gets of it. Pure.

The decision is `infra.wire.history.decision.decide`. This module combines it with what exists: an
agent that remembers, a stored transcript, or neither. If neither exists, only the history that the
client sent is left, and the agent's memory starts anew with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.store.conversations.transcripts import StoredTranscript
from infra.store.turns.history import TurnBase
from infra.store.turns.records import Unheard
from infra.store.turns.turns import Claimed
from infra.wire.history.decision import Base, Continue, Fresh, Rewind, decide, sent_by
from infra.wire.history.going_on import past_of
from infra.wire.link import AgentSettings, BaseKind, StartTurn
from infra.wire.turns import TurnRequest


@dataclass(frozen=True)
class Standing:
    """The base of a turn, and the stored transcript for an agent without a session."""

    base: TurnBase
    transcript: bytes | None = None
    has_session: bool = False
    restores: bool = False
    """Whether the messages of the sent history after the base are replayed into the memory."""
    unheard: tuple[Unheard, ...] = ()
    """Messages that are sent together with the prompt."""

    @property
    def tells_history(self) -> bool:
        """Whether the agent gets the sent history. One that goes on has it."""
        is_known = self.base.kind is BaseKind.CONTINUE and self.has_session
        return self.restores or not is_known

    def start_line(
        self, request: TurnRequest, settings: AgentSettings, *, notices: tuple[str, ...] = ()
    ) -> bytes:
        """The encoded `StartTurn`.

        The transcript is included as stored, because parsing 32 MiB would delay everybody else's
        deltas.
        """
        unheard = tuple(block for said in self.unheard for block in said.prompt)
        line = StartTurn(
            turn=request.turn,
            settings=settings,
            options=request.options,
            turn_options=request.turn_options.without_secrets,
            base=self.base.kind,
            checkpoint=self.base.checkpoint,
            history=request.history if self.tells_history else (),
            restore_from=request.begins[self.base.restored_from] if self.restores else None,
            prompt=(*unheard, *request.prompt),
            notices=notices,
        ).encode()
        if self.transcript is None:
            return line
        return line[:-1] + b',"transcript":' + self.transcript + b"}"


def needs_transcript(claimed: Claimed) -> str | None:
    """The SDK session whose transcript an agent without a session needs; None if it needs none.

    A session without any accepted prompt is of no use.
    """
    if claimed.is_transcript_full or not (claimed.known or claimed.record.base):
        return None
    is_fresh = isinstance(_decided(claimed), Fresh)
    return None if is_fresh else claimed.sdk_session


def begins_afresh(claimed: Claimed) -> bool:
    """Whether a new agent will begin an empty session for the turn."""
    return needs_transcript(claimed) is None and not claimed.request.history


def stand(
    claimed: Claimed,
    *,
    has_session: bool,
    transcript: StoredTranscript | None = None,
    restores: bool = False,
) -> Standing:
    """Decide. `has_session`: the agent remembers something. `restores`: messages that its memory
    lacks can be replayed into it.

    A turn that was started before keeps its decision, because its agent may already have it.
    """
    encoded = transcript.encode() if transcript and not has_session else None
    base = claimed.record.base or _base(
        claimed,
        has_session=has_session,
        can_resume=has_session or encoded is not None,
        can_restore=restores,
    )
    is_fresh = base.kind is BaseKind.FRESH
    is_sent = bool(claimed.request.history)
    return Standing(
        base,
        None if is_fresh else encoded,
        has_session,
        restores=is_sent and not is_fresh and bool(base.before),
        unheard=() if is_sent else claimed.unheard[: len(base.before)],
    )


def begun_base(claimed: Claimed) -> TurnBase | None:
    """What a turn that its submit began stands on if nothing else is on record: its agent goes on
    from all that it remembers. None for another turn.

    It follows from the request and the accepted prompts alone, which do not change while the turn
    runs, so that the next owner finds the same.
    """
    if claimed.record.begun is None or claimed.record.base is not None:
        return None
    base = _base(claimed, has_session=True, can_resume=True, can_restore=False)
    return base if base.kind is BaseKind.CONTINUE and not base.before else None


def is_resending(request: TurnRequest) -> bool:
    """Whether the client resends earlier messages."""
    return bool(request.history)


def _base(claimed: Claimed, *, has_session: bool, can_resume: bool, can_restore: bool) -> TurnBase:
    base = _base_of_sent(
        claimed, has_session=has_session, can_resume=can_resume, can_restore=can_restore
    )
    unheard = tuple(said.digest for said in _unheard(claimed))
    return base.model_copy(
        update={
            "known": claimed.known + len(claimed.unheard),
            "before": (*base.before, *unheard),
            "tails": claimed.request.tails,
            "past": None if unheard else _past(claimed.request, base),
        }
    )


def _past(request: TurnRequest, base: TurnBase) -> str | None:
    """The digest of the sent history, if the kept prompts are all of it."""
    *before, _ = sent_by(request)
    if not before or base.kind is BaseKind.FRESH or base.before:
        return None
    return past_of(before, request.answers)


def _unheard(claimed: Claimed) -> tuple[Unheard, ...]:
    """What is sent with the prompt of a client that will not send it again, unless it does so
    now."""
    request, unheard = claimed.request, claimed.unheard
    sent = sent_by(request)
    if not unheard or not request.is_thin or claimed.is_resending or len(sent) > 1:
        return ()
    return unheard[:-1] if unheard[-1].digest == sent[-1] else unheard


def _base_of_sent(
    claimed: Claimed, *, has_session: bool, can_resume: bool, can_restore: bool
) -> TurnBase:
    request = claimed.request
    *before, prompt = sent_by(request)
    fresh = TurnBase(
        kind=BaseKind.FRESH, before=tuple(before), heads=request.answers, digest=prompt
    )
    decided, known = _decided(claimed), claimed.known
    if not known:
        # Whatever the agent remembers does not belong to this conversation.
        is_new = isinstance(decided, Continue) and not has_session
        return TurnBase(kind=BaseKind.CONTINUE, digest=prompt) if is_new else fresh
    if isinstance(decided, Fresh) or not can_resume:
        return fresh
    if decided.restores and not (can_restore and request.begins):
        return fresh
    # Continuing starts where the last turn ended, so a transcript that ends earlier cannot be used.
    is_rewind = isinstance(decided, Rewind)
    keep = decided.keep if isinstance(decided, Rewind) else known
    shown = keep if decided.shown is None else decided.shown
    return TurnBase(
        kind=BaseKind.REWIND if is_rewind else BaseKind.CONTINUE,
        keep=keep,
        checkpoint=claimed.accepted[keep - 1 - claimed.unread].checkpoint,
        shown=decided.shown,
        before=tuple(before[shown:]) if decided.restores else (),
        heads=request.answers[shown:] if decided.restores else (),
        digest=prompt,
    )


def _decided(claimed: Claimed) -> Base:
    if base := claimed.record.base:
        return Fresh() if base.kind is BaseKind.FRESH else Continue()
    if _unheard(claimed):
        return Continue()
    if claimed.decided is not None:
        return claimed.decided
    return decide(
        claimed.accepted,
        sent_by(claimed.request),
        is_thin=claimed.request.is_thin,
        resends=claimed.is_resending,
        answers=claimed.request.answers,
    )
