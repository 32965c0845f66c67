"""What a client is told of an upstream's failure, through everything that lies between.

The gateway, the real CLI, the agent's translation, the worker's settlement, the API's table.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from api.errors import TABLE, error_response
from infra.wire.errors import ErrorCode, TurnFailed
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.agents_cli import cli_behind, told
from tests.integration.gateway.conftest import Host
from tests.parts import need
from worker.turns.endings import budget_end, settled_end

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

TOLD: dict[str, tuple[ErrorCode, int, str | None]] = {
    # First, as of a longer conversation the CLI would try to make a summary.
    "error 400": (ErrorCode.CONTEXT_TOO_LONG, 400, None),
    "error 413": (ErrorCode.CONTEXT_TOO_LONG, 400, None),
    "error 401": (ErrorCode.INVALID_KEY, 401, None),
    "error 403": (ErrorCode.PERMISSION_DENIED, 403, None),
    "error 404": (ErrorCode.MODEL_NOT_FOUND, 404, None),
    "error 429 retry-after 45": (ErrorCode.RATE_LIMITED, 429, "45"),
    "error 529 retry-after 45": (ErrorCode.OVERLOADED, 503, "45"),
    "error 500 no-retry": (ErrorCode.UPSTREAM_ERROR, 502, None),
    "stream 20000 deltas of 200 chars": (ErrorCode.BUDGET_EXCEEDED, 402, None),
}
"""By what the upstream does: the code, the status before the first byte, `retry-after`."""

ASKED_AGAIN = {"error 413", "error 404"}
"""The CLI asks once more without streaming where nothing was found, and tries to shorten what is
too long."""


async def test_every_failure_of_the_upstream_has_its_own_word(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    need("sdk")
    folder = await host.open_session()
    async with asyncio.timeout(120), cli_behind(folder, tmp_path) as cli:
        for n, (prompt, wanted) in enumerate(TOLD.items()):
            turn = TurnId(f"turn_{n:032x}")
            budget = 30_000 if "stream" in prompt else None
            await host.open_turn(turn, budget_tokens=budget)
            asked_before = len(model.journal.entries)
            end, said = await told(cli, prompt)
            meter = await host.close_turn(turn)
            overrun = budget_end() if meter.is_over_budget else None
            end = settled_end(end, interrupted=None, meter=meter, used=meter.usage, overrun=overrun)
            assert end.state is TurnState.FAILED, prompt
            assert end.error is not None
            error = TurnFailed(
                end.error.message, code=end.error.code, retry_after_s=end.error.retry_after_s
            )
            shown = error_response(error)
            found = (end.error.code, shown.status_code, shown.headers.get("retry-after"))
            assert found == wanted, prompt
            assert TABLE[end.error.code].status == wanted[1]
            assert bool(said) == ("stream" in prompt), prompt
            # Whatever cannot be mended is asked once; the budget's next try stays at the gateway.
            if prompt not in ASKED_AGAIN:
                assert len(model.journal.entries) == asked_before + 1, prompt
