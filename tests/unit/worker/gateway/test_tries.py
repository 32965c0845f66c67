"""When another try of a model call is pointless."""

from __future__ import annotations

from worker.gateway.tries import FailedTries


def test_the_third_failure_of_a_call_is_the_last() -> None:
    tries = FailedTries()
    assert [tries.add(b"a") for _ in range(4)] == [False, False, True, True]


def test_calls_side_by_side_do_not_use_up_each_others_tries() -> None:
    tries = FailedTries()
    assert [tries.add(body) for body in (b"a", b"b", b"c", b"a")] == [False] * 4


def test_what_is_remembered_is_bounded() -> None:
    tries = FailedTries()
    tries.add(b"first")
    for i in range(1000):
        tries.add(b"%d" % i)
    assert [tries.add(b"first") for _ in range(3)] == [False, False, True]
