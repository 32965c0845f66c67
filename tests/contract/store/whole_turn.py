"""A turn with one word in all that is said of it, and all of Redis to search for that word."""

from __future__ import annotations

from dataclasses import replace

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.turns.history import TurnBase
from infra.store.turns.turns import NewTurn
from infra.wire.events import TextDelta, TurnEnded, TurnStarted, encode_event
from infra.wire.history.decision import digest
from infra.wire.ids import TurnId
from infra.wire.link import BaseKind
from infra.wire.states import TurnState
from infra.wire.turns import TextBlock
from tests.contract.store.scene import TENANT, C, Scene
from tests.fakes.raw_parts import raw_part

MARKER = "heliotrope"
SAID = (TextBlock(text=f"My password is {MARKER}."),)
SESSION = "5f3c"
STARTED = encode_event(TurnStarted(sdk_session=SESSION, model="m"))
WORD = encode_event(TextDelta(text=MARKER))
IDEMPOTENCY = "0" * 64


async def begun_turn(scene: Scene) -> tuple[Lease, TurnId]:
    """It runs, on a history that its client sent, and has said its word."""
    turn = (await scene.offer(_saying(scene.new_turn(idempotency=IDEMPOTENCY)))).turn
    lease = await scene.acquire()
    claimed = await scene.claim(lease)
    assert claimed.request.prompt == SAID
    await scene.warm_up(lease)
    base = TurnBase(
        kind=BaseKind.FRESH, before=("1" * 16,), heads=(MARKER,), digest=claimed.request.sent[-1]
    )
    await scene.store.turns.start(lease, turn, base=base)
    await scene.store.log.append(lease, turn, [(1, STARTED), (2, WORD)])
    part = raw_part(entries=({"uuid": "u1", "message": MARKER},))
    await scene.store.transcripts.append(lease, SESSION, part)
    return lease, turn


async def end_turn(scene: Scene, lease: Lease, turn: TurnId) -> None:
    """And a message behind it that is stopped before the agent has it."""
    record = await scene.store.turns.get(turn)
    assert record is not None
    assert record.base is not None
    await scene.store.chains.put(TENANT, digest(SAID) * 2, C, retention_s=60)
    # Somebody else's number: the script has to log the end behind what is there.
    end = TurnEnded(state=TurnState.DONE, heads=(MARKER, f"Bash{MARKER}"))
    await scene.store.turns.finish(
        lease, turn, 2, end, idle_timeout_s=60, digest=record.base.digest
    )
    unheard = (await scene.offer(_saying(scene.new_turn(is_thin=True)))).turn
    await scene.store.turns.cancel(unheard, tenant=TENANT, reason="stopped")


async def whole_turn(scene: Scene) -> TurnId:
    lease, turn = await begun_turn(scene)
    await end_turn(scene, lease, turn)
    return turn


def _saying(new: NewTurn) -> NewTurn:
    request = new.request.model_copy(update={"prompt": SAID, "sent": (digest(SAID),)})
    return replace(new, request=request)


async def all_of_redis(redis: Redis, keys: Keys) -> dict[str, bytes]:
    """Everything of this deployment that this user may read, whatever its type, by key."""
    found: dict[str, bytes] = {}
    async for raw in redis.scan_iter(f"{keys.prefix}:*"):
        name = raw.decode()
        try:
            found[name] = b"\n".join(await _values(redis, name))
        except NoPermissionError:
            continue
    return found


async def _values(redis: Redis, name: str) -> list[bytes]:
    match (await redis.type(name)).decode():
        case "string":
            return [await redis.get(name)]
        case "hash":
            return [b" ".join(pair) for pair in (await redis.hgetall(name)).items()]  # type: ignore[misc]
        case "list":
            return list(await redis.lrange(name, 0, -1))  # type: ignore[misc]
        case "stream":
            return [b" ".join(entry.values()) for _, entry in await redis.xrange(name)]
        case "set":
            return list(await redis.smembers(name))  # type: ignore[misc]
        case "zset":
            return list(await redis.zrange(name, 0, -1))
        case other:
            raise AssertionError(f"a type that is not searched: {other}")
