"""Keys in memory: for as long as they are needed, for nobody else to see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from infra.runtime.sealing import Sealer
from infra.wire.ids import Fence
from tests.unit.worker.gateway.test_sessions import C, Desk
from worker.gateway.keys import KeyWiped, TurnKey
from worker.gateway.sessions import Turn

KEY = "sk-ant-canary-0123456789abcdef"


def test_a_key_is_overwritten_where_it_lay() -> None:
    key = TurnKey(KEY)
    place = memoryview(key._bytes)
    seen = bytes(place)
    place.release()
    assert seen == KEY.encode()
    key.wipe()
    assert key.is_wiped
    with pytest.raises(KeyWiped):
        key.reveal()


def test_a_key_is_in_no_text_about_it() -> None:
    key = TurnKey(KEY)
    assert KEY not in f"{key!r} {key!s} {vars(Sealer(b's' * 32))}"


@pytest.mark.parametrize("way", ["turn", "session", "stop", "next turn", "expiry"])
async def test_every_way_a_turn_can_end_wipes_its_key(way: str) -> None:
    async with asyncio.TaskGroup() as group:
        desk = Desk(group)
        await desk.open_session(1)
        desk.open_turn("a", 1, key=KEY, lasts_s=30)
        turn: Turn = desk.sessions[0].running_turn()
        match way:
            case "turn":
                desk.table.close_turn(C, turn.id, Fence(1))
            case "session":
                await desk.table.close_session(C, Fence(1))
            case "stop":
                await desk.table.aclose()
            case "next turn":
                desk.open_turn("b", 1)
            case "expiry":
                await desk.clock.advance(31)
        assert turn.key.is_wiped
        await desk.table.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is a call of Linux")
def test_a_program_with_keys_leaves_no_core_and_cannot_be_looked_into() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import ctypes, resource; from infra.runtime.memory import forbid_dumps; "
            "forbid_dumps(); "
            "print(ctypes.CDLL(None).prctl(3), *resource.getrlimit(resource.RLIMIT_CORE))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[4],
    ).stdout
    assert told.split() == ["0", "0", "0"]


@pytest.mark.parametrize("module", ["api.main", "worker.gateway.main"])
def test_the_programs_that_see_keys_forbid_it_first(module: str) -> None:
    source = (Path(__file__).parents[4] / Path(*module.split("."))).with_suffix(".py").read_text()
    main = source[source.index("def main(") :]
    assert 0 < main.index("forbid_dumps()") < main.index("asyncio.Runner(")
