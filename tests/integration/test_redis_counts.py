"""How often Redis is asked for a turn and for a delta: counts, which are the same on every machine.

Real Redis, API and worker processes; stand-in agents. The limits and what they should become stand
in `tests/bench/counts.py`.
"""

from __future__ import annotations

import pytest

from tests.bench import counts
from tests.bench.field import OURS, field_of
from tests.parts import need

pytestmark = [pytest.mark.redis, pytest.mark.timeout(90)]


async def test_a_turn_and_a_delta_ask_redis_no_more_often_than_agreed() -> None:
    need("redis")
    with field_of() as field:
        found = (await counts.measure(field, False)).figures
    above = {
        limit.what: (found[limit.figure][OURS], limit.limit)
        for limit in counts.LIMITS
        if found[limit.figure][OURS] > limit.limit
    }
    assert not above
    assert all(found[limit.figure][OURS] > 0 for limit in counts.LIMITS)
