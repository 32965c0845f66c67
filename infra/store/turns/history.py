"""The memory that a turn was started on: stored with its start, applied by its finish.

The decision itself is pure (`infra.wire.history.decision.decide`). It is stored in the turn's hash
before the agent can hear of the turn, so that an adopter gives the turn to the agent with the same
base. The conversation's list of accepted prompts changes only when the turn ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum

from pydantic import TypeAdapter

from infra.runtime.contents import Contents
from infra.wire.base import Message, decode
from infra.wire.errors import ContentNotOpened
from infra.wire.history.answers import HEAD_CHARS, HEADS_MAX
from infra.wire.history.decision import Accepted
from infra.wire.history.going_on import NewestPrompt
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import BaseKind


class TurnBase(Message):
    """What a turn does to the agent's memory.

    `keep` of the `known` accepted prompts stay (to continue: all that the agent has). `shown` is
    the number of turns of the sent history that they correspond to (None: the same number).
    `before` has digests of prompts after those, from a sent history or not heard until now; `heads`
    has the beginnings of their answers ('' if unknown; stored separately, because they are an
    agent's words). `digest` is the prompt's own, and `tails` are those under which it may come
    back. `past` is the digest of the sent history, if the kept prompts are just that
    (`infra.wire.history.going_on`).
    """

    kind: BaseKind
    keep: int = 0
    shown: int | None = None
    known: int | None = None
    checkpoint: str | None = None
    before: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    digest: str
    tails: tuple[str, ...] = ()
    past: str | None = None

    @property
    def restored_from(self) -> int:
        """The first sent turn that the memory lacks, if any."""
        return self.keep if self.shown is None else self.shown


class Memory(StrEnum):
    """What the agent remembers of a turn that ends."""

    NOTHING = "nothing"
    """It never got the turn, or did not keep it: its memory is unchanged."""
    UNKNOWN = "unknown"
    """It got the turn, but did not report the end."""
    TOLD = "told"
    """It reported the end itself."""


class KeptPrompt(Message):
    """`Accepted` as stored in Redis, with its heads as `keep_heads` encoded them."""

    digest: str
    turn: TurnId
    checkpoint: str | None = None
    answer: str | None = None
    tails: tuple[str, ...] = ()
    past: str | None = None
    unheard: bool = False


class UnheardTurn(Message):
    """An entry for a message that the agent has not received; its request is stored beside the
    list."""

    turn: TurnId


def decode_kept(raw: bytes | str) -> KeptPrompt:
    """Raises `MalformedMessage`."""
    kept: KeptPrompt = decode(_KEPT, raw)
    return kept


def keep_heads(
    contents: Contents, c: ConversationKey, heads: Sequence[str] | None, *, of: str
) -> str:
    """The heads of an answer, as stored with the digest `of` its prompt.

    They may be an agent's words, and are cut to the length that an honest agent reports.
    """
    if heads is None:
        return ""
    bounded = [head[:HEAD_CHARS] for head in heads[:HEADS_MAX]]
    return contents.seal(
        json.dumps(bounded, ensure_ascii=False).encode("utf-8", "replace"), f"answer {c} {of}"
    ).decode()


def read_accepted(contents: Contents, c: ConversationKey, raw: bytes) -> Accepted | UnheardTurn:
    """An entry of the list, as scripts write it.

    Raises `MalformedMessage`.
    """
    kept = decode_kept(raw)
    return UnheardTurn(turn=kept.turn) if kept.unheard else _accepted(contents, c, kept)


def read_newest(
    contents: Contents, c: ConversationKey, raw: bytes, *, known: int
) -> NewestPrompt | None:
    """The end of the list of `known` entries, by its last one (empty: there is none); None if that
    has not been heard.

    Raises `MalformedMessage`.
    """
    if not raw:
        return NewestPrompt(0, None)
    kept = decode_kept(raw)
    return None if kept.unheard else NewestPrompt(known, _accepted(contents, c, kept), kept.past)


def _accepted(contents: Contents, c: ConversationKey, kept: KeptPrompt) -> Accepted:
    heads = None
    if kept.answer:
        try:
            opened = contents.open(kept.answer.encode(), f"answer {c} {kept.digest}")
            heads = tuple(json.loads(opened))
        except ContentNotOpened:
            pass  # Sealed with a secret that is gone: then they are unknown.
    return Accepted(
        digest=kept.digest,
        turn=kept.turn,
        checkpoint=kept.checkpoint,
        heads=heads,
        tails=kept.tails,
    )


_KEPT: TypeAdapter[KeptPrompt] = TypeAdapter(KeptPrompt)
_BASE: TypeAdapter[TurnBase] = TypeAdapter(TurnBase)


def decode_base(raw: str) -> TurnBase:
    """Raises `MalformedMessage`."""
    base: TurnBase = decode(_BASE, raw)
    return base
