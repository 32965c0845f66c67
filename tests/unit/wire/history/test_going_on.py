"""The quick decision is the full one, wherever it decides at all."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.wire.history.decision import (
    GO_ON_DIGEST,
    Accepted,
    Base,
    Continue,
    Fresh,
    Rewind,
    decide,
)
from infra.wire.history.going_on import NewestPrompt, decide_from_newest, past_of
from infra.wire.ids import TurnId

TURN = TurnId("turn-1")
ANSWERS = ("Yes", "Yes,it", "No", "", "Yes" * 80)


@dataclass
class Chat:
    """A client's page and the agent's memory, turn by turn, as finish leaves the list."""

    chance: random.Random
    page: list[tuple[str, str]] = field(default_factory=list)
    """The shown messages with their answers."""
    earlier: list[list[tuple[str, str]]] = field(default_factory=list)
    """Pages of before, to switch back to."""
    accepted: list[Accepted] = field(default_factory=list)
    past: str | None = None
    resends: bool = False
    quick: int = 0

    def say(self, prompt: str, *, is_thin: bool = False, knows_answers: bool = True) -> None:
        """One turn; both decisions are compared."""
        before = [] if is_thin else [sent for sent, _ in self.page]
        answers = [answer for _, answer in self.page] if before and knows_answers else []
        sent = [*before, prompt]
        full = decide(self.accepted, sent, is_thin=is_thin, resends=self.resends, answers=answers)
        newest = NewestPrompt(
            len(self.accepted), self.accepted[-1] if self.accepted else None, self.past
        )
        quick = decide_from_newest(
            newest, sent, is_thin=is_thin, resends=self.resends, answers=answers
        )
        assert quick in (None, full)
        self.quick += quick is not None
        self.resends |= bool(before)
        self._remember(full, sent, answers)
        self._show(prompt)

    def _remember(self, base: Base, sent: list[str], answers: list[str]) -> None:
        *before, prompt = sent
        is_fresh = isinstance(base, Fresh)
        keep = base.keep if isinstance(base, Rewind) else 0 if is_fresh else len(self.accepted)
        lacking: list[str] = before if is_fresh else []
        shown = 0
        if not isinstance(base, Fresh) and base.restores:
            shown = keep if base.shown is None else base.shown
            lacking = before[shown:]
        restored = [
            Accepted(digest=said, turn=TURN, heads=self._sent_heads(answers, shown + i))
            for i, said in enumerate(lacking)
        ]
        goes_on = not is_fresh and not lacking and bool(before)
        self.past = past_of(before, answers) if goes_on else None
        told = Accepted(
            digest=prompt,
            turn=TURN,
            checkpoint=self.chance.choice((None, "at", "at")),
            heads=self.chance.choice((None, ("Yes",), ("No", "ToolNo"), ("Yes" * 60,))),
            tails=self.chance.choice(((), (), ("t",))),
        )
        self.accepted = [*self.accepted[:keep], *restored, told]

    def _sent_heads(self, answers: list[str], at: int) -> tuple[str, ...] | None:
        return (answers[at],) if at < len(answers) else None

    def _show(self, prompt: str) -> None:
        heads = self.accepted[-1].heads or ("Yes",)
        answer = self.chance.choice((heads[0], heads[-1], heads[0][:2], f"{heads[0]}more"))
        self.earlier.append(list(self.page))
        if prompt == GO_ON_DIGEST and self.page and self.chance.random() < 0.7:
            # Both parts are shown as one answer.
            said, first = self.page[-1]
            self.page[-1] = (said, (first + answer)[:200])
            return
        sent = self.chance.choice((prompt, prompt, prompt, *self.accepted[-1].tails))
        self.page.append((sent, answer))

    def stir(self) -> None:
        """What a user may do before the next message."""
        match self.chance.choice(("nothing",) * 6 + ("cut", "edit", "answer", "switch")):
            case "cut":
                del self.page[self.chance.randint(0, len(self.page)) :]
            case "edit" if self.page:
                at = self.chance.randrange(len(self.page))
                self.page[at] = (self.chance.choice("abt"), self.page[at][1])
            case "answer" if self.page:
                at = self.chance.randrange(len(self.page))
                self.page[at] = (self.page[at][0], self.chance.choice(ANSWERS))
            case "switch" if self.earlier:
                self.page = list(self.chance.choice(self.earlier))


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_the_quick_decision_is_the_full_one(seed: int) -> None:
    chance = random.Random(seed)
    chat = Chat(chance)
    thin = chance.choice((0.0, 0.0, 0.3, 1.0))
    for _ in range(chance.randint(2, 14)):
        chat.stir()
        chat.say(
            chance.choice(("a", "b", "c", GO_ON_DIGEST)),
            is_thin=chance.random() < thin,
            knows_answers=chance.random() < 0.9,
        )


class Plain(random.Random):
    """Takes the first of every choice."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        """The first."""
        return seq[0]


def test_who_resends_what_is_recorded_is_always_decided_quickly() -> None:
    chat = Chat(Plain())
    for n in range(40):
        chat.say(f"message-{n}")
    assert chat.quick == 40
    assert [entry.digest for entry in chat.accepted] == [f"message-{n}" for n in range(40)]


def test_a_redone_turn_is_followed_by_a_quick_one() -> None:
    chat = Chat(Plain())
    for n in range(6):
        chat.say(f"message-{n}")
    kept = chat.accepted[4].model_copy(update={"checkpoint": "at"})
    chat.accepted[4] = kept
    chat.page.pop()
    before = chat.quick
    chat.say("again")
    chat.say("next")
    assert chat.quick == before + 1


def test_an_edited_answer_far_back_is_left_to_the_list() -> None:
    chat = Chat(Plain())
    for n in range(6):
        chat.say(f"message-{n}")
    newest = NewestPrompt(6, chat.accepted[-1], chat.past)
    sent = [*(sent for sent, _ in chat.page), "next"]
    answers = [answer for _, answer in chat.page]
    assert _quick(newest, sent, answers) == Continue()
    assert _quick(newest, sent, ["Not that", *answers[1:]]) is None
    assert _quick(newest, ["other", *sent[1:]], answers) is None
    told = newest.last and newest.last.model_copy(update={"heads": ("Yes",)})
    assert _quick(newest._replace(last=told), sent, [*answers[:-1], "Not that"]) is None


def _quick(newest: NewestPrompt, sent: list[str], answers: list[str]) -> Base | None:
    return decide_from_newest(newest, sent, is_thin=False, resends=True, answers=answers)


def test_what_is_kept_of_a_digest_may_be_keyed() -> None:
    last = Accepted(digest="b", turn=TURN)
    kept = f"keyed {past_of(['a'], ['Yes'])}"
    newest = NewestPrompt(2, last, kept)
    decided = decide_from_newest(
        newest,
        ["a", "b", "c"],
        is_thin=False,
        resends=True,
        answers=["Yes", "No"],
        blind=lambda digest: f"keyed {digest}",
    )
    assert decided == Continue()
    assert _quick(newest, ["a", "b", "c"], ["Yes", "No"]) is None


def test_no_two_histories_have_one_digest() -> None:
    pairs = [
        (["a", "b"], []),
        (["a", "b"], [""]),
        (["a", "b"], ["", ""]),
        (["a", "b"], ["b"]),
        (["a"], ["b"]),
        (["a"], []),
        ([], []),
    ]
    assert len({past_of(before, answers) for before, answers in pairs}) == len(pairs)
    assert past_of(["a"], ["Yes", "No"]) == past_of(["a"], ["Yes"])
