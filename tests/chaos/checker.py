"""Did a client get what was promised: each number once, in order, in time, or an honest end? Pure.

A client asks for an answer made of numbered deltas (`0 1 2 …`) and writes down every attempt to get
it: the request itself, coming back to the stream after it broke (`RESUME`: the rest is expected),
asking again under the same key (`REPEAT`: the whole answer is expected). `check` names each number
that was lost, doubled or out of order, the longest silence, a tool that ran twice, an end nobody
told of, and an end that never came.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

_WORD = re.compile(r"\s*(\S+)\s")
_NUMBER = re.compile(r"(\d+)(?:@\d+)?")
_NAMED_MAX = 12
"""So many offenders are named; of more than that the count says enough."""


NO_JSON = "no_json"
NEVER_HONEST = frozenset({NO_JSON, "internal_error"})
"""No fault of ours is an excuse for these: an answer that is not in our form, and a bug."""


class How(StrEnum):
    """What an attempt asked for."""

    ASK = "ask"
    RESUME = "resume"
    REPEAT = "repeat"


class Outcome(StrEnum):
    """How an answer ended, as its client sees it."""

    COMPLETE = "complete"
    FAILED = "failed"
    """An error event in the stream: visible."""
    REFUSED = "refused"
    """An honest status before the first byte: visible."""
    BROKEN = "broken"
    """The connection broke and the client did not come back: visible to it."""
    SILENT = "silent"
    """The stream ended as if all were well, without its end mark. Never allowed."""
    HUNG = "hung"
    """No end at all. Never allowed."""
    LEFT = "left"
    """The client hung up on purpose."""


VISIBLE = frozenset({Outcome.FAILED, Outcome.REFUSED})
"""Ends that say that something went wrong."""


@dataclass(frozen=True)
class Asked:
    """What a client wanted. `mark` is the word its tool writes once, if it has one."""

    name: str
    numbers: int
    mark: str | None = None


@dataclass(frozen=True)
class Arrival:
    """A chunk with text: when it came, the event's number, what it said."""

    at_s: float
    id: int
    text: str


@dataclass(frozen=True)
class Failure:
    """An error as the client was told of it. `status` is None within a stream."""

    code: str
    message: str
    status: int | None = None
    retry_after: str | None = None


@dataclass
class Attempt:
    """One request and everything that came of it. Times are one clock's, in seconds."""

    how: How
    where: str
    began_s: float
    arrivals: list[Arrival] = field(default_factory=list)
    pings_s: list[float] = field(default_factory=list)
    failure: Failure | None = None
    is_done: bool = False
    broke: str | None = None
    has_left: bool = False
    ended_s: float | None = None

    @property
    def began_text_s(self) -> float:
        """When its first text came; for ever away if none did."""
        return self.arrivals[0].at_s if self.arrivals else math.inf

    @property
    def outcome(self) -> Outcome:
        if self.is_done:
            return Outcome.COMPLETE
        if self.failure is not None:
            return Outcome.FAILED if self.failure.status is None else Outcome.REFUSED
        if self.has_left:
            return Outcome.LEFT
        if self.broke is not None:
            return Outcome.BROKEN
        return Outcome.HUNG if self.ended_s is None else Outcome.SILENT


@dataclass(frozen=True)
class Promise:
    """What must hold. `codes`: the errors that are honest here; None: any."""

    outcomes: frozenset[Outcome] = frozenset({Outcome.COMPLETE})
    codes: frozenset[str] | None = None
    silence_max_s: float = 20.0
    """Between two numbers of an answer, and before its visible end."""
    end_within_s: float | None = None
    """After the last fault, for answers that do not complete."""
    has_notes: bool = False
    """Words that are no numbers may stand in the answer (a break, a tool's line)."""


@dataclass(frozen=True)
class Told:
    """A number or a word of the answer as it was put together, and when its last byte came."""

    at_s: float
    word: str

    @property
    def number(self) -> int | None:
        found = _NUMBER.fullmatch(self.word)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one answer; nothing when `violations` is empty."""

    asked: Asked
    attempts: Sequence[Attempt]
    outcome: Outcome
    lost: tuple[int, ...] = ()
    doubled: tuple[int, ...] = ()
    disordered: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    longest_silence_s: float = 0.0
    marks: int | None = None
    violations: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether the promise was kept."""
        return not self.violations

    def story(self, *, since_s: float = 0.0) -> str:
        """What the client asked and got, in lines for people; times count from `since_s`."""
        lines = [f"{self.asked.name}: {self.outcome} {'; '.join(self.violations) or 'as promised'}"]
        lines += [f"    {line}" for one in self.attempts for line in _told(one, since_s)]
        return "\n".join(lines)


def check(
    asked: Asked,
    attempts: Sequence[Attempt],
    promise: Promise,
    *,
    last_fault_s: float | None = None,
    marks: int | None = None,
) -> Verdict:
    """Compare one answer with its promise.

    `marks` is how often the tool's word stands in its file; None where that cannot be known.
    """
    outcome = attempts[-1].outcome
    told = list(answer_of(attempts))
    numbers = [(one.at_s, one.number) for one in told if one.number is not None]
    seen = [number for _, number in numbers]
    expected = _expected(asked, outcome, seen)
    counts = Counter(seen)
    verdict = Verdict(
        asked=asked,
        attempts=attempts,
        outcome=outcome,
        lost=tuple(n for n in expected if n not in counts),
        doubled=tuple(sorted(n for n, count in counts.items() if count > 1)),
        disordered=tuple(b for a, b in pairwise(seen) if b < a),
        notes=tuple(one.word for one in told if one.number is None),
        longest_silence_s=_longest_silence(attempts, [at_s for at_s, _ in numbers]),
        marks=marks,
    )
    extra = tuple(n for n in counts if n >= asked.numbers)
    return _with_violations(verdict, promise, last_fault_s, extra)


def answer_of(attempts: Sequence[Attempt]) -> Iterator[Told]:
    """The answer as its reader put it together: a repeat begins anew, a resume goes on."""
    first = max((i for i, one in enumerate(attempts) if one.how is not How.RESUME), default=0)
    rest = ""
    at_s = 0.0
    for attempt in attempts[first:]:
        for arrival in attempt.arrivals:
            at_s = arrival.at_s
            rest += arrival.text
            end = 0
            while found := _WORD.match(rest, end):
                yield Told(at_s, found[1])
                end = found.end()
            rest = rest[end:]
    if rest.strip():
        yield Told(at_s, rest.strip())


def _expected(asked: Asked, outcome: Outcome, seen: Sequence[int]) -> range:
    """All of them of a complete answer; of a broken one everything before its last."""
    if outcome is Outcome.COMPLETE:
        return range(asked.numbers)
    return range(max(seen, default=-1) + 1)


def _longest_silence(attempts: Sequence[Attempt], arrived_s: Sequence[float]) -> float:
    """Between two numbers, and from the last one to the end. The first one may have waited for
    its turn, so what is before it counts as waiting, not as silence.
    """
    moments = [*arrived_s]
    if arrived_s and (end_s := attempts[-1].ended_s) is not None:
        moments.append(end_s)
    return max((b - a for a, b in pairwise(moments)), default=0.0)


def _with_violations(
    verdict: Verdict, promise: Promise, last_fault_s: float | None, extra: Sequence[int]
) -> Verdict:
    found = [
        f"{what}: {_named(which)}"
        for what, which in (
            ("lost", verdict.lost),
            ("doubled", verdict.doubled),
            ("out of order", verdict.disordered),
            ("never asked for", extra),
        )
        if which
    ]
    found += _wrong_ids(verdict.attempts)
    if verdict.notes and not promise.has_notes:
        found.append(f"words that are no numbers: {verdict.notes[:_NAMED_MAX]}")
    found += _wrong_end(verdict, promise, last_fault_s)
    if verdict.longest_silence_s > promise.silence_max_s:
        found.append(
            f"late: {verdict.longest_silence_s:.1f} s of silence, promised {promise.silence_max_s}"
        )
    if verdict.marks is not None:
        found += _wrong_marks(verdict)
    return replace(verdict, violations=tuple(found))


def _wrong_end(verdict: Verdict, promise: Promise, last_fault_s: float | None) -> Iterator[str]:
    last = verdict.attempts[-1]
    if verdict.outcome not in promise.outcomes:
        why = last.failure or last.broke or ""
        yield f"it ended {verdict.outcome} {why}, promised {'/'.join(sorted(promise.outcomes))}"
    failure = last.failure
    if failure and failure.code in NEVER_HONEST:
        yield f"the error says {failure.code}: {failure.message}"
    if failure and promise.codes is not None and failure.code not in promise.codes:
        yield f"the error says {failure.code}, honest would be {'/'.join(sorted(promise.codes))}"
    if failure and failure.status in (429, 503) and not failure.retry_after:
        yield f"{failure.status} without Retry-After"
    if promise.end_within_s is None or last_fault_s is None or last.ended_s is None:
        return
    took_s = last.ended_s - last_fault_s
    if verdict.outcome is not Outcome.COMPLETE and took_s > promise.end_within_s:
        yield f"late: it ended {took_s:.1f} s after the fault, promised {promise.end_within_s}"


def _wrong_marks(verdict: Verdict) -> Iterator[str]:
    assert verdict.marks is not None
    if verdict.marks > 1:
        yield f"its tool ran {verdict.marks} times"
    if verdict.marks == 0 and verdict.outcome is Outcome.COMPLETE:
        yield "its tool did not run"


def _wrong_ids(attempts: Sequence[Attempt]) -> Iterator[str]:
    """Each text has its own event's number, and they only grow."""
    for attempt in attempts:
        ids = [arrival.id for arrival in attempt.arrivals]
        if bad := [b for a, b in pairwise(ids) if b <= a]:
            yield f"event ids that do not grow: {_named(bad)}"


def _named(numbers: Sequence[int]) -> str:
    """`3, 7-9 (4 in all)`."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    more = "" if len(words) <= _NAMED_MAX else ", …"
    return f"{', '.join(words[:_NAMED_MAX])}{more} ({len(set(numbers))} in all)"


def _told(attempt: Attempt, since_s: float) -> Iterator[str]:
    def at(moment_s: float | None) -> str:
        return "never" if moment_s is None else f"{moment_s - since_s:.2f} s"

    yield f"{at(attempt.began_s)}: {attempt.how} at {attempt.where}"
    texts = attempt.arrivals
    if texts:
        first, last = texts[0], texts[-1]
        yield (
            f"{at(first.at_s)} to {at(last.at_s)}: {len(texts)} texts, events {first.id} to "
            f"{last.id}, {first.text[:40]!r} … {last.text[-40:]!r}"
        )
        gap_s, before = max(
            ((b.at_s - a.at_s, a) for a, b in pairwise(texts)),
            key=lambda gap: gap[0],
            default=(0.0, first),
        )
        if gap_s > 1:
            yield f"{at(before.at_s)}: {gap_s:.1f} s of silence after event {before.id}"
    if attempt.pings_s:
        yield f"{len(attempt.pings_s)} pings, the last at {at(attempt.pings_s[-1])}"
    yield f"{at(attempt.ended_s)}: {attempt.outcome} {attempt.failure or attempt.broke or ''}"
