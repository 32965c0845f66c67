"""The list of accepted prompts says what is in the agent's memory, whatever happens to a turn."""

from __future__ import annotations

import pytest

from infra.store.conversations.leases import Lease
from infra.store.turns.history import Memory, TurnBase
from infra.store.turns.turns import Claimed
from infra.wire.events import TurnEnded, TurnStarted, encode_event
from infra.wire.history.decision import Accepted, Continue
from infra.wire.history.going_on import past_of
from infra.wire.ids import TurnId
from infra.wire.link import BaseKind
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import TextBlock
from tests.contract.store.scene import CANCELLED, TENANT, W1, W2, C, Scene, failed
from tests.fakes.raw_parts import raw_part

CONTINUE = TurnBase(kind=BaseKind.CONTINUE, digest="c" * 16)
REWIND = TurnBase(kind=BaseKind.REWIND, keep=1, checkpoint="at-a", digest="d" * 16)
FRESH = TurnBase(kind=BaseKind.FRESH, before=("1" * 16, "2" * 16), digest="f" * 16)


def started(session: str) -> list[tuple[int, bytes]]:
    """Unchecked: the script is to hold against a name that no worker lets through."""
    event = TurnStarted.model_construct(type="started", sdk_session=session, model="m")
    return [(1, encode_event(event))]


def done(checkpoint: str | None = None) -> TurnEnded:
    return TurnEnded(state=TurnState.DONE, checkpoint=checkpoint)


class Talk:
    """A conversation of worker 1, turn by turn."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.lease: Lease | None = None
        self.turns: list[TurnId] = []

    async def begin(
        self, base: TurnBase | None, *, resends: bool = False, is_thin: bool = False
    ) -> TurnId:
        turn = await self.scene.submit(is_thin=is_thin)
        first = self.lease is None
        lease = self.lease = self.lease or await self.scene.acquire()
        await self.scene.claim(lease)
        if first:
            await self.scene.warm_up(lease)
        await self.scene.store.turns.start(lease, turn, base=base, is_resending=resends)
        self.turns.append(turn)
        return turn

    async def hear(self, turn: TurnId, session: str = "session-1") -> None:
        assert self.lease
        await self.scene.store.log.append(self.lease, turn, started(session))

    async def end(
        self,
        turn: TurnId,
        end: TurnEnded,
        memory: Memory = Memory.TOLD,
        *,
        digest: str | None = None,
    ) -> None:
        assert self.lease
        record = await self.scene.store.turns.get(turn)
        assert record
        await self.scene.store.turns.finish(
            self.lease,
            turn,
            record.seq + 1,
            end,
            idle_timeout_s=60,
            memory=memory,
            digest=digest,
        )

    async def say(self, base: TurnBase, checkpoint: str, session: str = "session-1") -> TurnId:
        """A whole turn."""
        turn = await self.begin(base)
        await self.hear(turn, session)
        await self.end(turn, done(checkpoint))
        return turn

    async def remembered(self) -> tuple[Accepted, ...]:
        """As the next turn's claim finds it."""
        return (await self.next()).accepted

    async def next(self, *sent: str, answers: tuple[str, ...] = ()) -> Claimed:
        """Of a client that shows another history, unless another one is named."""
        sent = sent or ("another past", "another prompt")
        await self.scene.offer(self.scene.new_turn(sent=sent, answers=answers))
        assert self.lease
        return await self.scene.claim(self.lease)


@pytest.fixture
def talk(scene: Scene) -> Talk:
    return Talk(scene)


async def test_each_told_turn_is_remembered_with_where_it_ended(talk: Talk) -> None:
    one = await talk.say(CONTINUE, "at-a")
    two = await talk.say(TurnBase(kind=BaseKind.CONTINUE, keep=1, digest="e" * 16), "at-b")

    claimed = await talk.next()

    assert claimed.accepted == (
        Accepted(digest="c" * 16, turn=one, checkpoint="at-a"),
        Accepted(digest="e" * 16, turn=two, checkpoint="at-b"),
    )
    assert (claimed.sdk_session, claimed.is_resending) == ("session-1", False)


async def test_a_cancelled_turn_is_remembered_too(talk: Talk) -> None:
    turn = await talk.begin(CONTINUE)
    await talk.hear(turn)
    await talk.end(turn, CANCELLED)

    assert await talk.remembered() == (Accepted(digest="c" * 16, turn=turn),)


async def test_a_rewind_keeps_what_it_kept_and_takes_the_new_session(talk: Talk) -> None:
    one = await talk.say(CONTINUE, "at-a")
    await talk.say(CONTINUE, "at-b")
    again = await talk.say(REWIND, "at-d", "session-2")

    claimed = await talk.next()

    assert claimed.accepted == (
        Accepted(digest="c" * 16, turn=one, checkpoint="at-a"),
        Accepted(digest="d" * 16, turn=again, checkpoint="at-d"),
    )
    assert claimed.sdk_session == "session-2"


async def test_a_fresh_memory_begins_with_the_sent_history(talk: Talk) -> None:
    await talk.say(CONTINUE, "at-a")
    turn = await talk.say(FRESH, "at-f", "session-2")

    assert await talk.remembered() == (
        Accepted(digest="1" * 16, turn=turn),
        Accepted(digest="2" * 16, turn=turn),
        Accepted(digest="f" * 16, turn=turn, checkpoint="at-f"),
    )


async def test_how_answers_begin_is_kept_beside_their_prompts(talk: Talk) -> None:
    """Said ones and sent ones; an edit of the second answer is seen by it."""
    sent = FRESH.model_copy(update={"heads": ("An", "")})
    turn = await talk.begin(sent)
    await talk.hear(turn)
    end = done("at-f").model_copy(update={"heads": ("Text", "ToolText")})
    await talk.end(turn, end, digest=FRESH.digest)
    assert [a.heads for a in await talk.remembered()] == [("An",), ("",), ("Text", "ToolText")]


async def test_how_a_message_may_come_back_is_kept_beside_it(talk: Talk) -> None:
    await talk.say(CONTINUE.model_copy(update={"tails": ("7" * 16,)}), "at-a")
    assert [a.tails for a in await talk.remembered()] == [("7" * 16,)]


async def test_a_rewind_puts_sent_messages_behind_what_it_keeps(talk: Talk) -> None:
    await talk.say(CONTINUE, "at-a")
    await talk.say(CONTINUE, "at-b")
    await talk.say(REWIND.model_copy(update={"before": ("1" * 16,)}), "at-d", "session-2")
    assert [a.digest[0] for a in await talk.remembered()] == ["c", "1", "d"]


async def test_a_turn_the_agent_never_got_leaves_the_memory_alone(talk: Talk) -> None:
    await talk.say(CONTINUE, "at-a")
    before = await talk.begin(REWIND)
    await talk.end(before, failed(), Memory.NOTHING)

    claimed = await talk.next()

    assert [a.checkpoint for a in claimed.accepted] == ["at-a"]
    assert claimed.sdk_session == "session-1"


async def test_a_turn_that_ended_before_its_first_event_leaves_a_doubt(talk: Talk) -> None:
    one = await talk.say(CONTINUE, "at-a")
    await talk.say(CONTINUE, "at-b")
    turn = await talk.begin(REWIND)
    await talk.end(turn, failed())

    claimed = await talk.next()

    assert claimed.accepted == (
        Accepted(digest="c" * 16, turn=one, checkpoint="at-a"),
        Accepted(digest="", turn=turn),
    )
    assert claimed.sdk_session == "session-1"


async def test_an_agent_that_vanished_leaves_a_doubt_unless_its_entries_are_stored(
    talk: Talk,
) -> None:
    turn = await talk.begin(FRESH)
    await talk.hear(turn, "session-2")
    await talk.end(turn, failed(), Memory.UNKNOWN)
    assert await talk.remembered() == (Accepted(digest="", turn=turn),)

    assert talk.lease
    lease = talk.lease
    running = talk.scene.store
    claimed = await running.turns.claim(lease)
    assert claimed is not None
    await running.turns.start(lease, claimed.record.turn, base=FRESH)
    await running.log.append(lease, claimed.record.turn, started("session-3"))
    part = raw_part(entries=({"uuid": "u-1"},))
    assert await running.transcripts.append(lease, "session-3", part)
    await talk.end(claimed.record.turn, failed(), Memory.UNKNOWN)

    after = await talk.next()
    assert [a.digest for a in after.accepted] == ["1" * 16, "2" * 16, "f" * 16]
    assert after.sdk_session == "session-3"


async def test_an_adopter_finds_the_base_and_finishes_with_it(talk: Talk) -> None:
    await talk.say(CONTINUE, "at-a")
    turn = await talk.begin(REWIND)
    await talk.hear(turn, "session-2")
    await talk.scene.lapse()
    stale, talk.lease = talk.lease, await talk.scene.acquire(W2)
    assert stale

    claimed = await talk.scene.claim(talk.lease)
    assert (claimed.is_adoption, claimed.record.base) == (True, REWIND)
    # A second start changes nothing: what was decided stands.
    await talk.scene.store.turns.start(talk.lease, turn, base=FRESH)
    await talk.end(turn, done("at-d"))

    assert [a.checkpoint for a in await talk.remembered()] == ["at-a", "at-d"]


async def test_a_turn_given_back_to_the_queue_leaves_no_trace(scene: Scene) -> None:
    turn = await scene.submit()
    lease = await scene.acquire()
    await scene.claim(lease)
    assert await scene.store.turns.requeue(lease, turn)

    claimed = await scene.claim(lease)

    assert (claimed.accepted, claimed.record.base) == ((), None)


async def test_finishing_twice_remembers_once(talk: Talk) -> None:
    turn = await talk.say(CONTINUE, "at-a")
    await talk.end(turn, done("at-a"))

    assert len(await talk.remembered()) == 1


async def test_who_ever_sent_history_is_known_for_it(talk: Talk) -> None:
    turn = await talk.begin(CONTINUE, resends=True)
    await talk.end(turn, done())
    await talk.say(CONTINUE, "at-b")

    assert (await talk.next()).is_resending


@pytest.mark.parametrize("session", ["../../etc", "x" * 65, 'a"b', ""])
async def test_a_session_with_a_name_no_sdk_gives_is_not_taken_over(
    talk: Talk, session: str
) -> None:
    await talk.say(CONTINUE, "at-a")
    await talk.say(CONTINUE, "at-b", session)

    assert (await talk.next()).sdk_session == "session-1"


async def test_a_conversation_that_went_cold_remembers(talk: Talk) -> None:
    await talk.say(CONTINUE, "at-a")
    assert talk.lease
    await talk.scene.store.leases.release(talk.lease, ConversationState.COLD)

    talk.lease = await talk.scene.acquire(W2)

    claimed = await talk.next()
    assert [a.checkpoint for a in claimed.accepted] == ["at-a"]
    record = await talk.scene.store.conversations.get(C)
    assert record is not None
    assert (record.owner, record.sdk_session) == (W2, "session-1")
    assert W1 != W2


async def stopped_unheard(talk: Talk, *, base: TurnBase = CONTINUE) -> TurnId:
    """A turn of a client that sends only what is new, cancelled before its agent had it."""
    turn = await talk.begin(base, is_thin=True)
    await talk.end(turn, CANCELLED, Memory.NOTHING)
    return turn


async def test_a_message_stopped_before_its_agent_had_it_waits_for_the_next(talk: Talk) -> None:
    """Nobody said it again: it was on the page, and the agent never heard of it."""
    await talk.say(CONTINUE, "at-a")
    await stopped_unheard(talk)

    claimed = await talk.next()

    assert [a.checkpoint for a in claimed.accepted] == ["at-a"]
    assert [said.prompt for said in claimed.unheard] == [(TextBlock(text="Hello"),)]


async def test_what_was_heard_with_another_message_waits_no_longer(talk: Talk) -> None:
    await talk.say(CONTINUE, "at-a")
    await stopped_unheard(talk)
    with_it = CONTINUE.model_copy(update={"keep": 1, "known": 2, "before": ("8" * 16,)})
    await talk.say(with_it, "at-b")

    claimed = await talk.next()

    assert [a.digest[0] for a in claimed.accepted] == ["c", "8", "c"]
    assert claimed.unheard == ()
    assert not await talk.scene.redis.exists(talk.scene.keys.unheard(C))


async def test_what_is_stopped_while_another_turn_runs_is_not_lost_with_its_end(
    talk: Talk,
) -> None:
    first = await talk.begin(CONTINUE.model_copy(update={"known": 0}), is_thin=True)
    waiting = await talk.scene.submit(is_thin=True)
    await talk.scene.store.turns.cancel(waiting, tenant=TENANT, reason="test")
    await talk.hear(first)
    await talk.end(first, done("at-a"))

    claimed = await talk.next()

    assert [a.checkpoint for a in claimed.accepted] == ["at-a"]
    assert [said.prompt for said in claimed.unheard] == [(TextBlock(text="Hello"),)]


async def test_a_client_that_sends_its_history_needs_nothing_kept(talk: Talk) -> None:
    turn = await talk.begin(CONTINUE, resends=True, is_thin=True)
    await talk.end(turn, CANCELLED, Memory.NOTHING)
    waiting = await talk.scene.submit()
    await talk.scene.store.turns.cancel(waiting, tenant=TENANT, reason="test")

    assert (await talk.next()).unheard == ()


async def test_what_waits_goes_with_its_conversation(talk: Talk) -> None:
    await stopped_unheard(talk)
    redis, key = talk.scene.redis, talk.scene.keys.unheard(C)
    assert await redis.pttl(key) > 0
    await talk.scene.store.conversations.delete(C, tenant=None, is_forced=True, reason="test")
    assert not await redis.exists(key)


async def remembered_past(talk: Talk, *digests: str, past: str | None = None) -> None:
    """Turns that go on from one another; the last one's client showed `past`."""
    for n, digest in enumerate(digests):
        base = TurnBase(kind=BaseKind.CONTINUE, keep=n, known=n, digest=digest)
        is_last = n == len(digests) - 1
        await talk.say(base.model_copy(update={"past": past if is_last else None}), f"at-{digest}")


async def test_who_goes_on_from_all_that_is_recorded_has_no_list_read(talk: Talk) -> None:
    await remembered_past(talk, "a", "b", "c", past=past_of("ab", ("A", "B")))

    claimed = await talk.next("a", "b", "c", "d", answers=("A", "B", "C"))

    assert (claimed.decided, claimed.unread, claimed.known) == (Continue(), 2, 3)
    assert [entry.checkpoint for entry in claimed.accepted] == ["at-c"]


@pytest.mark.parametrize(
    "sent", [("a", "x", "c", "d"), ("a", "b", "x", "d"), ("a", "b", "d"), ("a", "b", "c", "d", "e")]
)
async def test_who_shows_something_else_has_the_whole_list_read(
    talk: Talk, sent: tuple[str, ...]
) -> None:
    await remembered_past(talk, "a", "b", "c", past=past_of("ab", ("A", "B")))

    claimed = await talk.next(*sent, answers=("A", "B", "C", "D")[: len(sent) - 1])

    assert (claimed.decided, claimed.unread, claimed.known) == (None, 0, 3)
    assert [entry.checkpoint for entry in claimed.accepted] == ["at-a", "at-b", "at-c"]


async def test_a_new_message_alone_has_no_list_read(talk: Talk) -> None:
    await remembered_past(talk, "a", "b", "c")
    await talk.scene.submit(is_thin=True)
    assert talk.lease

    claimed = await talk.scene.claim(talk.lease)

    assert (claimed.decided, claimed.unread) == (Continue(), 2)


async def test_a_rewind_leaves_the_past_of_what_it_keeps(talk: Talk) -> None:
    """A digest stands with its prompt, so it goes with it and never speaks of another list."""
    await remembered_past(talk, "a", "b", "c", past=past_of("ab", ("A", "B")))
    await talk.say(REWIND, "at-d")

    claimed = await talk.next("a", "b", "c", "e", answers=("A", "B", "C"))

    assert (claimed.decided, claimed.known) == (None, 2)
