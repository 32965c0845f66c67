"""How turns end that a worker has a say in."""

from __future__ import annotations

import pytest

from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, TurnError, Usage
from infra.wire.gateway import TurnMeter, UpstreamError
from infra.wire.ids import ConversationKey
from infra.wire.link import InterruptReason
from infra.wire.states import TurnState
from worker.hosts.host import ContainerExit, ContainerId
from worker.turns.endings import exit_end, settled_end

C = ConversationKey("c" * 24)
NO_METER = TurnMeter()


@pytest.mark.parametrize("reason", InterruptReason)
def test_a_turn_we_interrupted_ends_for_our_reason(reason: InterruptReason) -> None:
    said = TurnEnded(
        state=TurnState.FAILED, error=TurnError(code=ErrorCode.UPSTREAM_ERROR, message="x")
    )
    end = settled_end(said, interrupted=reason, meter=NO_METER)
    assert (end.state, end.error) == (interrupted_end(reason).state, interrupted_end(reason).error)


def test_an_answer_that_was_complete_before_the_interrupt_stays_done() -> None:
    end = settled_end(
        TurnEnded(state=TurnState.DONE), interrupted=InterruptReason.CANCELLED, meter=NO_METER
    )
    assert end.state is TurnState.DONE


def test_an_end_with_nothing_to_add_is_passed_on_as_it_is() -> None:
    said = TurnEnded(state=TurnState.DONE, usage=Usage(input_tokens=1))
    assert settled_end(said, interrupted=None, meter=NO_METER) is said


def test_the_books_know_more_of_a_turns_usage_than_its_agent() -> None:
    """It told 66 tokens of a turn whose sub-agents had used 6,600 more."""
    said = TurnEnded(state=TurnState.DONE, usage=Usage(input_tokens=66))
    used = Usage(input_tokens=6666, output_tokens=4444)
    assert settled_end(said, interrupted=None, meter=NO_METER, used=used).usage == used


def test_the_agents_own_retry_after_is_not_overwritten() -> None:
    said = TurnEnded(
        state=TurnState.FAILED,
        error=TurnError(code=ErrorCode.RATE_LIMITED, message="x", retry_after_s=3),
    )
    meter = TurnMeter(last_error=UpstreamError(status=429, retry_after_s=60))
    end = settled_end(said, interrupted=None, meter=meter, used=meter.usage)
    assert end.error is not None
    assert end.error.retry_after_s == 3


def test_a_done_turn_gets_no_error_from_an_upstream_error_it_survived() -> None:
    meter = TurnMeter(last_error=UpstreamError(status=529, retry_after_s=5))
    end = settled_end(
        TurnEnded(state=TurnState.DONE), interrupted=None, meter=meter, used=meter.usage
    )
    assert end.error is None


@pytest.mark.parametrize(
    ("is_oom", "code"), [(True, ErrorCode.OUT_OF_MEMORY), (False, ErrorCode.CONTAINER_LOST)]
)
def test_an_exit_tells_why_the_turn_failed(is_oom: bool, code: ErrorCode) -> None:
    end = exit_end(ContainerExit(ContainerId("x"), C, 137, is_oom))
    assert end.error is not None
    assert end.error.code is code


@pytest.mark.parametrize("reason", InterruptReason)
def test_an_error_is_set_exactly_when_the_end_is_a_failure(reason: InterruptReason) -> None:
    end = interrupted_end(reason)
    assert (end.error is None) is (end.state in (TurnState.CANCELLED, TurnState.DONE))


def test_every_declared_end_has_words_without_names_or_paths() -> None:
    for code in (ErrorCode.OUT_OF_MEMORY, ErrorCode.CONTAINER_LOST, ErrorCode.INTERNAL):
        end = declared_end(code)
        assert end.error is not None
        assert end.error.message.endswith(".")
        assert "/" not in end.error.message
