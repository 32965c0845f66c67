"""What memory a turn is started on, from what is accepted, what is sent and what there is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from infra.store.conversations.transcripts import StoredTranscript
from infra.store.turns.history import TurnBase
from infra.store.turns.records import Unheard
from infra.store.turns.turns import Claimed, TurnRecord
from infra.wire.history.decision import GO_ON, Accepted, Continue, digest
from infra.wire.history.going_on import past_of
from infra.wire.ids import ConversationKey, Fence, ReplicaId, TenantId, TurnId
from infra.wire.link import AgentSettings, BaseKind, StartTurn, decode_command
from infra.wire.options import ConversationOptions
from infra.wire.states import TurnState
from infra.wire.turns import HistoryMessage, Lane, OnDisconnect, TextBlock, TurnRequest
from worker.turns.memory import Standing, begins_afresh, needs_transcript, stand

C = ConversationKey("c" * 24)
TENANT = TenantId("t" * 20)
TURN = TurnId("turn_1")
TRANSCRIPT = StoredTranscript("session-1", {"": [b'{"uuid":"a"}'], "sub": [b'{"uuid":"x"}']})


def of(text: str) -> str:
    return digest([TextBlock(text=text)])


PAST = past_of((of("one"),), ("one!",))


def accepted(*texts: str) -> tuple[Accepted, ...]:
    return tuple(
        Accepted(digest=of(text) if text else "", turn=TURN, checkpoint=f"at-{text}")
        for text in texts
    )


def claimed(
    known: tuple[Accepted, ...],
    *sent: str,
    is_thin: bool = False,
    base: TurnBase | None = None,
    **more: object,
) -> Claimed:
    """A claim whose client sent these user messages, the prompt last."""
    *history, prompt = sent
    request = TurnRequest(
        turn=TURN,
        conversation=C,
        tenant=TENANT,
        model="m",
        history=tuple(
            HistoryMessage(role=role, content=(TextBlock(text=said),))  # type: ignore[arg-type]
            for text in history
            for role, said in (("user", text), ("assistant", f"{text}!"))
        ),
        begins=tuple(range(0, 2 * len(history), 2)),
        answers=tuple(f"{text}!" for text in history),
        prompt=(TextBlock(text=prompt),),
        deadline_s=1,
        idle_timeout_s=1,
        is_thin=is_thin,
    )
    record = TurnRecord(
        turn=TURN,
        conversation=C,
        tenant=TENANT,
        replica=ReplicaId("api-1"),
        state=TurnState.CLAIMED,
        model="m",
        attempt=1,
        fence=Fence(1),
        seq=0,
        created_ms=0,
        sealed_key=None,
        key_expires_ms=0,
        on_disconnect=OnDisconnect.CANCEL,
        lane=Lane.AGENT,
        cancel=None,
        base=base,
    )
    return Claimed(
        record,
        request,
        False,
        accepted=known,
        sdk_session="session-1" if known else None,
        **more,  # type: ignore[arg-type]
    )


def kind(claim: Claimed, *, has_session: bool = True, has_transcript: bool = False) -> TurnBase:
    given = TRANSCRIPT if has_transcript else None
    base = stand(claim, has_session=has_session, transcript=given, restores=True).base
    assert claim.record.base or base.known == len(claim.accepted)
    return base.model_copy(update={"known": None})


def test_the_first_turn_goes_on_from_nothing() -> None:
    base = kind(claimed((), "one"), has_session=False)
    assert base == TurnBase(kind=BaseKind.CONTINUE, digest=of("one"))
    assert needs_transcript(claimed((), "one")) is None


def test_an_agent_that_remembers_what_nobody_said_here_begins_anew() -> None:
    base = kind(claimed((), "one"), has_session=True)
    assert base == TurnBase(kind=BaseKind.FRESH, digest=of("one"))


def test_the_next_turn_goes_on_from_where_the_last_one_ended() -> None:
    assert kind(claimed(accepted("one"), "one", "two")) == TurnBase(
        kind=BaseKind.CONTINUE, keep=1, checkpoint="at-one", digest=of("two"), past=PAST
    )


def test_a_decision_made_without_the_list_makes_the_same_base() -> None:
    known = accepted("one", "two", "three")
    sent = ("one", "two", "three", "four")
    whole = claimed(known, *sent)
    brief = claimed(known[-1:], *sent, unread=2, decided=Continue())
    assert brief.known == whole.known
    assert stand(brief, has_session=True) == stand(whole, has_session=True)
    assert needs_transcript(brief) == needs_transcript(whole) == "session-1"


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        pytest.param(("one",), ("one", "lost", "three"), id="restored"),
        pytest.param(("one",), ("other", "two"), id="fresh"),
        pytest.param(("one",), ("one",), id="lone"),
    ],
)
def test_only_what_the_client_shows_is_kept_as_its_past(
    known: tuple[str, ...], sent: tuple[str, ...]
) -> None:
    assert kind(claimed(accepted(*known), *sent)).past is None


def test_a_redone_turn_goes_back_to_the_one_before_it() -> None:
    assert kind(claimed(accepted("one", "two"), "one", "two again")) == TurnBase(
        kind=BaseKind.REWIND, keep=1, checkpoint="at-one", digest=of("two again"), past=PAST
    )


def test_an_edited_first_message_begins_anew_without_a_past() -> None:
    base = kind(claimed(accepted("one", "two"), "other"))
    assert base == TurnBase(kind=BaseKind.FRESH, digest=of("other"))


def test_a_past_nobody_knows_comes_from_the_sent_history() -> None:
    base = kind(claimed(accepted("one"), "a", "b", "c"))
    assert base == TurnBase(
        kind=BaseKind.FRESH, before=(of("a"), of("b")), heads=("a!", "b!"), digest=of("c")
    )


def test_a_doubt_about_the_last_turn_is_settled_by_the_sent_history() -> None:
    base = kind(claimed(accepted("one", ""), "one", "lost", "three"))
    assert base == TurnBase(
        kind=BaseKind.REWIND, keep=1, checkpoint="at-one", before=(of("lost"),), heads=("lost!",),
        digest=of("three"),
    )  # fmt: skip
    assert kind(claimed(accepted("one", ""), "one", "again")).kind is BaseKind.REWIND


def test_an_agent_that_cannot_be_told_what_it_lacks_begins_anew() -> None:
    """One of the version before, in a container that outlived an upgrade."""
    claim = claimed(accepted("one"), "one", "lost", "three")
    assert stand(claim, has_session=True).base.kind is BaseKind.FRESH
    assert stand(claim, has_session=True, restores=True).base.kind is BaseKind.CONTINUE


def test_what_the_memory_lacks_is_named_by_where_it_stands_in_the_history() -> None:
    claim = claimed(accepted("one"), "one", "lost", "three")
    start = line(stand(claim, has_session=True, restores=True), claim)
    assert (start.base, start.restore_from) == (BaseKind.CONTINUE, 2)
    assert start.history == claim.request.history
    assert line(stand(claim, has_session=True), claim).restore_from is None


def test_a_picked_or_edited_answer_is_put_where_the_page_shows_it() -> None:
    known = tuple(a.model_copy(update={"heads": ("one!",)}) for a in accepted("one", "two"))
    same = claimed(known[:1], "one", "two")
    assert kind(same).kind is BaseKind.CONTINUE
    other = claimed(known, "one", "two", "three")  # "two!" is shown, "one!" was said.
    base = kind(other)
    assert (base.kind, base.keep, base.before) == (BaseKind.REWIND, 1, (of("two"),))
    assert line(stand(other, has_session=True, restores=True), other).restore_from == 2


def test_a_thin_client_goes_on_and_one_that_resends_does_not() -> None:
    thin = claimed(accepted("one"), "two", is_thin=True)
    assert kind(thin).kind is BaseKind.CONTINUE
    edits = claimed(accepted("one"), "two", is_thin=True, is_resending=True)
    assert kind(edits).kind is BaseKind.FRESH


def test_a_thin_client_may_say_the_same_twice_but_redoes_its_first_message() -> None:
    assert kind(claimed(accepted("one"), "one", is_thin=True)).kind is BaseKind.FRESH
    assert kind(claimed(accepted("one", "go on"), "go on", is_thin=True)).kind is BaseKind.CONTINUE


@pytest.mark.parametrize("sent", [("one", "two"), ("two",)])
def test_an_agent_without_a_session_goes_on_from_the_transcript(sent: tuple[str, ...]) -> None:
    claim = claimed(accepted("one"), *sent, is_thin=len(sent) == 1)
    assert needs_transcript(claim) == "session-1"
    assert kind(claim, has_session=False, has_transcript=True).kind is BaseKind.CONTINUE


def test_without_session_and_transcript_the_sent_history_is_the_memory() -> None:
    claim = claimed(accepted("one"), "one", "two")
    assert kind(claim, has_session=False) == TurnBase(
        kind=BaseKind.FRESH, before=(of("one"),), heads=("one!",), digest=of("two")
    )
    again = claimed(accepted("one", "two"), "one", "other")
    assert kind(again, has_session=False).kind is BaseKind.FRESH


def test_a_transcript_that_was_too_large_is_not_asked_for() -> None:
    claim = claimed(accepted("one"), "one", "two", is_transcript_full=True)
    assert needs_transcript(claim) is None


@pytest.mark.parametrize(
    ("known", "sent", "is_afresh"),
    [
        ((), ("one",), True),
        (("one", "two"), ("other",), True),
        (("one",), ("one", "two"), False),
        ((), ("one", "two"), False),
    ],
    ids=["the first turn", "edited to begin anew", "a next turn", "a past nobody knows"],
)
def test_a_cli_can_be_started_early_only_for_a_session_without_a_past(
    known: tuple[str, ...], sent: tuple[str, ...], is_afresh: bool
) -> None:
    assert begins_afresh(claimed(accepted(*known), *sent)) is is_afresh


def test_an_adopted_turn_stands_on_what_was_decided_before() -> None:
    base = TurnBase(kind=BaseKind.REWIND, keep=1, checkpoint="at-one", digest=of("x"))
    claim = claimed((), "anything", base=base)
    assert kind(claim, has_session=False) == base


def waiting(*texts: str) -> tuple[Unheard, ...]:
    return tuple(Unheard(digest=of(t), prompt=(TextBlock(text=t),)) for t in texts)


def test_what_was_stopped_goes_with_the_next_message_of_a_thin_client() -> None:
    claim = claimed(accepted("one"), "three", is_thin=True, unheard=waiting("two"))
    standing = stand(claim, has_session=True)
    assert (standing.base.keep, standing.base.known, standing.base.before) == (1, 2, (of("two"),))
    start = line(standing, claim)
    assert [block.text for block in start.prompt] == ["two", "three"]  # type: ignore[union-attr]
    assert (start.base, start.restore_from) == (BaseKind.CONTINUE, None)
    # An owner that takes the turn over gives it on the same way.
    again = claimed(
        accepted("one"), "three", is_thin=True, unheard=waiting("two"), base=standing.base
    )
    assert line(stand(again, has_session=True), again).prompt == start.prompt


@pytest.mark.parametrize("known", [(), ("one",)])
def test_a_message_that_is_tried_again_is_said_once(known: tuple[str, ...]) -> None:
    claim = claimed(accepted(*known), "two", is_thin=True, unheard=waiting("two"))
    standing = stand(claim, has_session=bool(known))
    assert (standing.base.kind, standing.base.before) == (BaseKind.CONTINUE, ())
    assert line(standing, claim).prompt == claim.request.prompt


def test_a_cold_first_turn_that_was_stopped_is_in_the_second() -> None:
    claim = claimed((), "two", is_thin=True, unheard=waiting("one"))
    assert needs_transcript(claim) is None
    start = line(stand(claim, has_session=False), claim)
    assert [block.text for block in start.prompt] == ["one", "two"]  # type: ignore[union-attr]


def test_a_client_that_sends_its_history_says_itself_what_was_stopped() -> None:
    claim = claimed(accepted("one"), "one", "two", "three", unheard=waiting("two"))
    standing = stand(claim, has_session=True, restores=True)
    assert (standing.base.kind, standing.base.before) == (BaseKind.CONTINUE, (of("two"),))
    start = line(standing, claim)
    assert (start.prompt, start.restore_from) == (claim.request.prompt, 2)


def settings() -> AgentSettings:
    return AgentSettings(model="m", tools=("Bash",))


def line(standing: Standing, claim: Claimed) -> StartTurn:
    command = decode_command(standing.start_line(claim.request, settings()))
    assert isinstance(command, StartTurn)
    return command


def test_the_agent_is_given_transcript_and_history_where_it_has_no_session() -> None:
    claim = claimed(accepted("one"), "one", "two")
    start = line(stand(claim, has_session=False, transcript=TRANSCRIPT), claim)

    assert start.base is BaseKind.CONTINUE
    assert start.transcript is not None
    assert start.transcript.sdk_session == "session-1"
    assert [p.subpath for p in start.transcript.parts] == [None, "sub"]
    assert start.transcript.parts[0].entries == ({"uuid": "a"},)
    assert start.history == claim.request.history


def test_the_agent_is_given_the_options_of_the_conversation() -> None:
    options = ConversationOptions(egress_profile="research")
    claim = claimed(accepted("one"), "one", "two")
    claim = replace(claim, request=claim.request.model_copy(update={"options": options}))
    assert line(stand(claim, has_session=True), claim).options == options


def test_an_agent_that_remembers_is_given_neither() -> None:
    claim = claimed(accepted("one"), "one", "two")
    start = line(stand(claim, has_session=True), claim)

    assert (start.transcript, start.history) == (None, ())
    assert json.loads(stand(claim, has_session=True).start_line(claim.request, settings()))


@pytest.mark.parametrize("sent", [("one", "other"), ("a", "b", "c")])
def test_history_is_sent_along_wherever_the_agent_may_need_it(sent: tuple[str, ...]) -> None:
    claim = claimed(accepted("one", "two"), *sent)
    assert line(stand(claim, has_session=True), claim).history == claim.request.history


def test_what_follows_an_answer_in_two_parts_is_restored_from_its_place_on_the_page() -> None:
    """The agent knows two prompts where the page shows one turn."""
    parts = accepted("one", GO_ON)
    claim = claimed(parts, "one", "lost", "three")
    base = kind(claim)
    assert base == TurnBase(
        kind=BaseKind.CONTINUE,
        keep=2,
        shown=1,
        checkpoint=f"at-{GO_ON}",
        before=(of("lost"),),
        heads=("lost!",),
        digest=of("three"),
    )
    standing = stand(claim, has_session=True, restores=True)
    start = decode_command(standing.start_line(claim.request, AgentSettings(model="m", tools=())))
    assert isinstance(start, StartTurn)
    assert start.restore_from == 2
    assert kind(claimed(parts, "one", "two")).kind is BaseKind.CONTINUE
