"""Scenarios that are more than a crowd of turns and one fault."""

from __future__ import annotations

import asyncio

from infra.wire.states import ConversationState, Hibernation
from tests.chaos import faults
from tests.chaos.act import COMPLETE, Act, Crowd
from tests.chaos.checker import VISIBLE, Outcome, Promise
from tests.chaos.client import Telling
from tests.chaos.cluster import PLENTY_MB, until

# What is promised

EITHER = frozenset({Outcome.COMPLETE, *VISIBLE})
LOST_CONTAINER = Promise(
    VISIBLE, codes=frozenset({"container_lost", "out_of_memory"}), silence_max_s=10, end_within_s=10
)
LOST_HOST = Promise(EITHER, silence_max_s=31, end_within_s=30)
NO_ROOM = Promise(VISIBLE, codes=frozenset({"queue_timeout"}))
FORGOTTEN = Promise(EITHER, codes=frozenset({"turn_log_lost"}), silence_max_s=25, end_within_s=20)
UPSTREAM = Promise(
    EITHER, codes=frozenset({"upstream_unreachable", "upstream_error"}), end_within_s=15
)
FOLLOWED = Promise(silence_max_s=8)
REDIS = Promise(silence_max_s=20)
AGENTS = Crowd(turns=2, plain=True, numbers=(60, 90), chat="agent")
GREEDY = "sk-ant-chaos-greedy"
HIBERNATED_WITHIN_S = 15.0
"""A look each second, a stop, and a busy machine."""
ADOPTED_WITHIN_S = 45.0
"""The lease, a sweep, and then the same."""
SHORT = Crowd(numbers=(60, 90), every_ms=(50, 80))


# What is played


async def hang_up(act: Act) -> None:
    """Clients leave in mid-stream; their agents are interrupted, their conversations free."""
    leaving = Promise(frozenset({Outcome.LEFT}))
    crowd = Crowd(numbers=(400, 400), tools=False)
    for i in range(3):
        act.ask(act.telling(i, crowd, leaves_after=12), leaving)
    await act.done()
    act.scene.did("the clients hung up")


async def slow_reader(act: Act) -> None:
    """One reads nothing for a while and gets everything; its neighbours feel nothing."""
    crowd = Crowd(numbers=(300, 300), every_ms=(20, 20), tools=False)
    act.ask(act.telling(0, crowd, stalls_s=8.0))
    for i in (1, 2):
        act.ask(act.telling(i, crowd), Promise(silence_max_s=5.0))
    await act.done()


async def poison(act: Act) -> None:
    """A turn whose container dies at each start is started twice at most."""
    crowd = Crowd(prompt="crash")
    telling = act.ask(act.telling(0, crowd))
    await act.done()
    starts = act.cluster.lines_of(telling.api_key, telling.conversation, "crashes")
    if not 1 <= len(starts) <= 2:
        act.complain(f"a poison turn was started {len(starts)} times")


async def vanished_container(act: Act) -> None:
    """A container that is killed between two turns is replaced by the next one."""
    telling = act.ask(act.telling(0, Crowd(numbers=(5, 5), tools=False)))
    await act.done()
    owner = await act.cluster.owner_of(telling.api_key, telling.conversation)
    assert owner is not None, "a warm conversation has an owner"
    await faults.kill_container(act.scene, telling, act.cluster.host_of(owner))


async def one_container_killed(act: Act) -> None:
    """Its turn ends with a clear error; those around it feel nothing."""
    await _kill_one_of(act, Crowd(turns=4))


async def one_agents_container_killed(act: Act) -> None:
    """The same with real ones."""
    await _kill_one_of(act, AGENTS)


async def _kill_one_of(act: Act, crowd: Crowd) -> None:
    tellings = [act.ask(act.telling(i, crowd)) for i in range(crowd.turns)]
    await act.under_way(crowd.reached)
    victim = act.rng.choice(tellings)
    owner = await act.cluster.owner_of(victim.api_key, victim.conversation)
    assert owner is not None, "a turn that runs has an owner"
    act.promises = {
        one.asked.name: LOST_CONTAINER if one is victim else Promise(silence_max_s=6.0)
        for one in tellings
    }
    await faults.kill_container(act.scene, victim, act.cluster.host_of(owner))


async def host_is_lost(act: Act) -> None:
    """Turns of a machine that is gone end visibly; those of others go on."""
    crowd = Crowd(turns=8, numbers=(100, 140), every_ms=(80, 100))
    tellings = [act.ask(act.telling(i, crowd)) for i in range(crowd.turns)]
    await act.under_way(crowd.reached)
    victim = await act.scene.an_owner()
    host = act.cluster.host_of(victim)
    for telling in tellings:
        owner = await act.cluster.owner_of(telling.api_key, telling.conversation)
        if owner in host.workers:
            act.promises[telling.asked.name] = LOST_HOST
    await host.lose()
    act.scene.did(f"{host.name} is gone")


async def overload(act: Act) -> None:
    """Five times as many turns as slots: all are answered, and nobody waits for a greedy tenant."""
    crowd = Crowd(numbers=(20, 30), every_ms=(30, 40))
    greedy = [act.ask(act.telling(i, crowd, api_key=GREEDY)) for i in range(9)]
    for telling in greedy:
        await telling.accepted()
    modest = act.ask(act.telling(9, crowd))
    act.scene.did("ten turns for two slots, nine of them one tenant's")
    await act.done()
    later = sum(one.attempts[-1].began_text_s > modest.attempts[-1].began_text_s for one in greedy)
    if later < len(greedy) // 2:
        act.complain(f"the other tenant's only turn began before {later} of the greedy one's nine")


async def impatient_overload(act: Act) -> None:
    """A turn that finds no room in the queue's time is refused with 503 and Retry-After, or by an
    error in its stream.
    """
    long = Crowd(numbers=(260, 260), every_ms=(60, 60), tools=False)
    for i in range(2):
        act.ask(act.telling(i, long), COMPLETE)
    await act.under_way(3)
    act.scene.did("both slots are taken for longer than the queue waits")
    for i in range(2, 4):
        act.ask(act.telling(i, long), NO_ROOM)
    await act.done()


async def crowded_conversation(act: Act) -> None:
    """Turns of one conversation run one after the other; too many are refused with 429."""
    for i in range(12):
        # Each asks something of its own: the same words would join the turn that runs.
        crowd = Crowd(numbers=(10 + i, 10 + i), every_ms=(10, 10), tools=False)
        telling = act.telling(i, crowd)
        telling.conversation = act.scenario.name
        act.ask(telling, Promise(frozenset({Outcome.COMPLETE, Outcome.REFUSED})))
    await act.done()
    refused = sum(one.outcome is Outcome.REFUSED for one in act.scene.tellings)
    if not 3 <= refused <= 4:
        act.complain(f"{refused} of 12 turns were refused; one runs, eight may wait")


async def idle_containers(act: Act) -> None:
    """A container nobody uses is gone within its ttl and 15 s."""
    telling = act.ask(act.telling(0, Crowd(numbers=(5, 5), tools=False)))
    await act.done()
    idle_s = act.cluster.hosts[0].settings.idle_timeout_s
    await _until_gone(act, telling, within_s=idle_s + 15)


async def memory_comes_and_goes(act: Act) -> None:
    """Idle conversations go while others run, and come back knowing everything; a turn that comes
    while nothing may start waits until memory is back."""
    resting = await _at_rest(act, 3)
    crowd = Crowd(turns=4)
    for i in range(3, 3 + crowd.turns):
        act.ask(act.telling(i, crowd))
    await act.under_way(crowd.reached)
    for host in act.cluster.hosts:
        host.has_memory(faults.SHORT_MB)
    act.scene.did("the machines have little memory left")
    for telling in resting:
        await _until_gone(act, telling, within_s=HIBERNATED_WITHIN_S)
        record = await act.cluster.conversation(telling.api_key, telling.conversation)
        if record is None or record.hibernated is not Hibernation.MEMORY:
            act.complain(f"{telling.conversation} went, but its record says {record}")
    waiting = act.telling(len(act.scene.tellings), Crowd(numbers=(5, 5), tools=False))
    waiting.conversation = resting[0].conversation
    act.ask(waiting)
    await waiting.accepted()
    for host in act.cluster.hosts:
        host.has_memory(PLENTY_MB)
    act.scene.did("memory is back")
    await act.done()


async def killed_while_it_hibernates(act: Act) -> None:
    """Its worker dies in the middle: the container is stopped, and the conversation goes on."""
    victim, *others = await _at_rest(act, 3)
    owner = await act.cluster.owner_of(victim.api_key, victim.conversation)
    assert owner is not None, "a warm conversation has an owner"
    for host in act.cluster.hosts:
        host.has_memory(faults.LOW_MB)
    await asyncio.sleep(act.rng.uniform(0.3, 1.2))
    await owner.kill()
    act.scene.did(f"memory is low, and kill -9 {owner.name} in the next moment")
    owner.start()
    await act.cluster.ready()
    for telling in (victim, *others):
        await _until_gone(act, telling, within_s=ADOPTED_WITHIN_S)
    for host in act.cluster.hosts:
        host.has_memory(PLENTY_MB)
    act.scene.did("memory is back")


async def _at_rest(act: Act, count: int) -> list[Telling]:
    """Conversations that are warm and have nothing to do."""
    crowd = Crowd(numbers=(5, 5), tools=False)
    tellings = [act.ask(act.telling(i, crowd)) for i in range(count)]
    await act.done()

    async def rest() -> bool:
        found = [await act.cluster.conversation(t.api_key, t.conversation) for t in tellings]
        return all(one and one.state is ConversationState.WARM for one in found)

    await until("the conversations rest", rest)
    return tellings


async def orphaned_container(act: Act) -> None:
    """A container whose conversation nobody knows is gone within 90 s and a little."""
    telling = act.ask(act.telling(0, Crowd(numbers=(5, 5), tools=False)))
    await act.done()
    key = act.cluster.key_of(telling.api_key, telling.conversation)
    owner = await act.cluster.owner_of(telling.api_key, telling.conversation)
    assert owner is not None, "a warm conversation has an owner"
    await owner.kill()
    keys = act.cluster.store.keys
    await act.cluster.store.redis.delete(keys.conversation(key), keys.lease(key))
    await act.cluster.store.redis.zrem(keys.idle(), key)
    act.scene.did(f"kill -9 {owner.name}, and its conversation is forgotten")
    owner.start()
    await act.cluster.ready()
    await _until_gone(act, telling, within_s=95)


async def _until_gone(act: Act, telling: Telling, *, within_s: float) -> None:
    c = act.cluster.key_of(telling.api_key, telling.conversation)

    async def is_gone() -> bool:
        found = [one for host in act.cluster.hosts for one in await host.containers()]
        return c not in {one.conversation for one in found}

    try:
        await until("the container is gone", is_gone, within_s=within_s)
    except TimeoutError as error:
        act.complain(str(error))


async def emptied(act: Act) -> None:
    """Redis loses everything: running answers end, visibly; new turns work."""
    crowd = Crowd(tools=False)
    for i in range(crowd.turns):
        act.ask(act.telling(i, crowd))
    await act.under_way(crowd.reached)
    await faults.redis_emptied(act.scene)
    await act.done()
