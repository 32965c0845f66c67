"""Lease, fence, log and agent under hundreds of schedules of faults, in virtual time.

The scripts, the leases, the sweeps and what workers decide are the real ones; containers, links and
the way of a turn are modelled. A failure prints the shortest schedule that shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from infra.store.conversations.calls import HibernateCall, ReapCall
from infra.store.keys import Keys
from infra.store.server.calls import Call, shape_of
from infra.store.server.scripts import load
from infra.store.turns.calls import UnclaimedCall
from tests.unit.cluster_model.line import Moment
from tests.unit.cluster_model.schedules import SCRIPTS, drawn, shortest, told, warm, wild
from tests.unit.cluster_model.workers import Rules
from tests.unit.cluster_model.world import Ask, Fault, Schedule, Trouble, World

BLOCKS, BLOCK = 25, 8
WILD_BLOCK = 4
TRIES = 60
FEW = 4
"""Seeds for a schedule that is fixed but for the delays."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of expected warnings would be most of the work."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def broken_by(schedule: Schedule) -> str | None:
    try:
        World(schedule).live()
    except AssertionError as broken:
        return str(broken)
    return None


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, BLOCKS))]
)
def test_every_turn_ends_once_and_whole_whatever_happens(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        _must_hold(drawn(seed))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_and_under_wilder_faults_too(block: int) -> None:
    """A few; `make model` tries thousands."""
    for seed in range(block * WILD_BLOCK, (block + 1) * WILD_BLOCK):
        _must_hold(wild(seed))


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, 8))]
)
def test_and_when_submits_begin_them(block: int) -> None:
    """Their messages are lost, come twice or late; their owners retire, freeze and die."""
    for seed in range(block * WILD_BLOCK, (block + 1) * WILD_BLOCK):
        _must_hold(warm(seed))


@pytest.mark.slow
def test_submits_begin_many_turns_of_the_model() -> None:
    worlds = [World(warm(seed)) for seed in range(4)]
    for world in worlds:
        world.live()
    assert sum(world.begun for world in worlds) > 10


def _must_hold(schedule: Schedule) -> None:
    if broken_by(schedule):
        schedule = shortest(schedule, lambda other: broken_by(other) is not None)
        pytest.fail(f"{broken_by(schedule)}\n{told(schedule)}", pytrace=False)


def test_a_schedule_always_ends_the_same_way() -> None:
    first, second = World(drawn(7)), World(drawn(7))
    first.live()
    second.live()
    assert _course(first) == _course(second)


def _course(world: World) -> dict[str, tuple[list[str], float | None]]:
    return {turn: (seen.states, seen.ended_s) for turn, seen in world.turns.items()}


@pytest.mark.slow
def test_there_are_traps_in_every_script_that_workers_run() -> None:
    ran: set[str] = set()
    for seed in range(10):
        world = World(wild(seed))
        world.live()
        ran |= world.scripts
    assert ran > {"submit", "append", "reap", "requeue"}
    assert ran - {"submit", "cancel"} <= set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("walls", [(0.5, -0.5, 0.0), (3600.0, 0.0, -3600.0)])
def test_what_the_wall_clocks_say_changes_nothing(walls: tuple[float, float, float]) -> None:
    """No turn waits longer and none ends otherwise, whatever the machines take the time for."""
    for seed in range(10):
        right = World(replace(drawn(seed), walls_ahead_s=(0.0, 0.0, 0.0)))
        wrong = World(replace(drawn(seed), walls_ahead_s=walls))
        right.live()
        wrong.live()
        assert _course(right) == _course(wrong)


def test_a_turn_goes_on_when_its_worker_is_killed() -> None:
    for seed in range(FEW):
        _must_hold(replace(KILLED_IN_A_TURN, seed=seed))


def test_a_conversation_whose_worker_is_killed_while_it_hibernates_it_goes_on() -> None:
    for seed in range(FEW):
        world = World(replace(KILLED_IN_A_HIBERNATION, seed=seed))
        world.live()
        assert "hibernate" in world.scripts


def test_an_append_that_is_asked_again_with_more_events_costs_no_turn() -> None:
    for seed in range(FEW):
        _must_hold(replace(APPENDED_WITHOUT_AN_ANSWER, seed=seed))


# Each rule is needed: without it the invariants break.

ALL = range(3)


def without(
    text: str, instead: str = "", *, of: type[Call[Any]] | None = None
) -> Callable[[str], str]:
    """`of` is the call whose names stand in the text."""
    if of is not None:
        keys = load(of, Keys()).keys
        text, instead = (shape_of(of).placed(part, keys) for part in (text, instead))
    return lambda source: source.replace(text, instead)


def in_small_steps(mutate: Callable[[str], str]) -> Callable[[str], str]:
    """Bytes are counted one by one, because what a turn of the model says fits into one step."""
    return lambda source: mutate(source).replace("STEP_BYTES = 2048", "STEP_BYTES = 1")


def frozen_at(script: str, moment: Moment, *, for_s: float) -> tuple[Fault, ...]:
    """Whichever worker comes there first."""
    return tuple(Fault(0.1, Trouble.FREEZE_AT, who, for_s, script, moment) for who in ALL)


LONG = Ask(0.5, conversation=0, events=12, every_s=2.0, is_hinted=True)
FROZEN_BEFORE_AN_APPEND = Schedule(0, (LONG,), frozen_at("append", Moment.UNSENT, for_s=22))
FROZEN_BEFORE_A_START = Schedule(0, (LONG,), frozen_at("start", Moment.UNSENT, for_s=22))
FROZEN_AFTER_A_START = Schedule(0, (LONG,), frozen_at("start", Moment.UNHEARD, for_s=35))
SUSPENDED_AFTER_A_START = Schedule(
    0,
    (LONG,),
    tuple(Fault(0.1, Trouble.SUSPEND_AT, who, 40, "start", Moment.UNHEARD) for who in (1, 2)),
)
REAPED_WITHOUT_AN_ANSWER = Schedule(
    0,
    (replace(LONG, events=3, every_s=0.1), replace(LONG, at_s=30.0, events=3)),
    tuple(Fault(0.1, Trouble.LOSE_AT, who, 1, "reap", Moment.UNHEARD) for who in ALL),
)
HIBERNATED_WITHOUT_AN_ANSWER = Schedule(
    0,
    (replace(LONG, events=3, every_s=0.1), replace(LONG, at_s=30.0, events=3)),
    tuple(Fault(0.1, Trouble.LOSE_AT, who, 1, "hibernate", Moment.UNHEARD) for who in ALL),
    has_little_memory=True,
)
KILLED_IN_A_HIBERNATION = Schedule(
    0,
    (replace(LONG, events=3, every_s=0.1), replace(LONG, at_s=20.0, events=3)),
    tuple(Fault(0.1, Trouble.KILL_AT, who, 2, "hibernate", Moment.UNHEARD) for who in (0, 2)),
    has_little_memory=True,
    costs_no_turn=True,
)
APPENDED_WITHOUT_AN_ANSWER = Schedule(
    0,
    (replace(LONG, every_s=0.05), replace(LONG, at_s=0.6, conversation=1, every_s=0.05)),
    tuple(Fault(0.1, Trouble.LOSE_AT, who, 1, "append", Moment.UNHEARD) for who in ALL),
    costs_no_turn=True,
)
"""Events come while the answer is waited for: the next append overlaps the log."""
KILLED_IN_A_TURN = Schedule(
    0,
    (LONG,),
    tuple(Fault(0.1, Trouble.KILL_AT, who, 2, "append", Moment.UNHEARD) for who in (0, 2)),
    costs_no_turn=True,
)
CUT_OFF_WITH_ITS_AGENT = Schedule(
    0, (replace(LONG, every_s=3.0),), (Fault(3.0, Trouble.CUT, 2, 40),)
)
MOVED_AND_CAME_BACK = Schedule(
    0,
    asks=(replace(LONG, events=2, every_s=0.1), replace(LONG, at_s=8.0, is_hinted=False)),
    faults=(
        Fault(5.0, Trouble.HOLE, 0, 25.0),
        Fault(5.0, Trouble.HOLE, 1, 25.0),
        Fault(5.0, Trouble.FREEZE_AT, 2, 30.0, "start", Moment.UNHEARD),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutate", "schedule"),
    [
        pytest.param(
            without(
                "if held[1] ~= run.worker or held[2] ~= run.fence then return 'lost', 0 end",
            ),
            FROZEN_BEFORE_AN_APPEND,
            id="an append is refused under an older fence",
        ),
        pytest.param(
            without("return held[1] == worker and held[2] == fence", "return true"),
            FROZEN_BEFORE_A_START,
            id="an owner's scripts are refused under an older fence",
        ),
        pytest.param(
            without("if holder and holder ~= worker then return {'held', 'owner', holder} end"),
            None,
            id="a living lease is not taken",
        ),
        pytest.param(
            without("math.max((tonumber(held[2]) or 0) + 1, now, ", "math.min(7, "),
            None,
            id="a fence grows",
        ),
        pytest.param(
            without("turn.state == 'running' then", "turn.state == 'nonsense' then"),
            KILLED_IN_A_TURN,
            id="a turn that runs is adopted",
        ),
        pytest.param(
            without("if last <= seq then return 'ok', seq end"),
            None,
            id="a run is logged once",
        ),
        pytest.param(
            without("if first <= seq then", "if false then"),
            APPENDED_WITHOUT_AN_ANSWER,
            id="of a run that is there in part the rest is logged",
        ),
        pytest.param(
            without("'attempt', turn.attempt + 1", "'attempt', turn.attempt"),
            None,
            id="attempts are counted",
        ),
        pytest.param(
            without(
                "K.turns_open, int(next_look)",
                "K.turns_open, int(next_look + 1e6)",
                of=UnclaimedCall,
            ),
            None,
            id="a turn nobody claimed is looked at again",
        ),
        pytest.param(
            without(
                "if won[1] == 'stopping' and won[2] == A.worker then return {'won'} end",
                of=ReapCall,
            ),
            REAPED_WITHOUT_AN_ANSWER,
            id="a reap that is asked again is won again",
        ),
        pytest.param(
            without(
                "if held[1] == 'stopping' and held[3] then return {'won'} end", of=HibernateCall
            ),
            HIBERNATED_WITHOUT_AN_ANSWER,
            id="a hibernation that is asked again is won again",
        ),
        pytest.param(
            without("redis.call('UNLINK', request, heads, key('turn_readers', turn.id))"),
            None,
            id="a request goes with the end of its turn",
        ),
        pytest.param(
            in_small_steps(without("if more > 0 then hold(tenant, run.turn, more) end")),
            None,
            id="what a turn says counts",
        ),
    ],
)
def test_without_this_rule_of_the_scripts_the_model_breaks(
    mutate: Callable[[str], str], schedule: Schedule | None
) -> None:
    assert_breaks(schedule, mutate=mutate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "schedule"),
    [
        pytest.param(
            Rules(fence_after_s=1e9),
            CUT_OFF_WITH_ITS_AGENT,
            id="an unconfirmed lease fences itself",
        ),
        pytest.param(
            Rules(starts_only_when_sure=False),
            FROZEN_AFTER_A_START,
            id="nothing is started under an unconfirmed lease",
        ),
        pytest.param(
            Rules(counts_suspended=False),
            SUSPENDED_AFTER_A_START,
            id="the time that a machine is suspended counts",
        ),
        pytest.param(
            Rules(knows_old_messages=False),
            None,
            id="an old message begins no turn again",
        ),
        pytest.param(
            Rules(adopts_only_the_recorded=False),
            MOVED_AND_CAME_BACK,
            id="only the container on record is adopted",
        ),
    ],
)
def test_without_this_rule_of_the_workers_the_model_breaks(
    rules: Rules, schedule: Schedule | None
) -> None:
    assert_breaks(schedule, rules=rules)


def test_in_small_steps_the_model_still_holds() -> None:
    for kind in (drawn(0), warm(0)):
        World(kind, mutate=in_small_steps(lambda source: source)).live()


def assert_breaks(
    schedule: Schedule | None,
    *,
    rules: Rules | None = None,
    mutate: Callable[[str], str] | None = None,
) -> None:
    """Chance decides the rest: some seed shows it."""
    for seed in range(TRIES):
        kinds = [replace(schedule, seed=seed)] if schedule else [drawn(seed), warm(seed)]
        for tried in kinds:
            try:
                World(tried, rules=rules or Rules(), mutate=mutate).live()
            except AssertionError:
                return
    pytest.fail(f"not noticed in {TRIES} schedules")
