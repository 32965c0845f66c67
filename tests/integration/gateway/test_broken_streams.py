"""A model's stream that breaks, and a second try in other words, through gateway, CLI and agent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from infra.wire.states import TurnState
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.agents_cli import cli_behind, told
from tests.integration.gateway.conftest import Host
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]


def message(*say: Any, **more: Any) -> str:
    return "message " + json.dumps({"say": list(say), **more})


async def test_an_answer_that_breaks_goes_on_from_the_shown_text_in_other_words(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    """The CLI alone would have the whole answer said again."""
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    thought = {"thinking": "let me see"}
    async with asyncio.timeout(120), cli_behind(folder, tmp_path) as cli:
        for kind in ("drop", "error"):
            for blocks in ([["one ", "two "]], [thought, ["one ", "two "]]):
                cut = {"kind": kind, "after": 1 if len(blocks) == 1 else 5}
                broken = message(*blocks, cut=cut)
                end, text = await told(cli, f"{broken} then echo three")
                assert (end.state, text) == (TurnState.DONE, "one three"), (kind, blocks)
                assert "one " in _last_answer(model)


def _last_answer(model: RunningModel) -> str:
    """What the model was told of the answer that broke."""
    answers = [m for m in model.journal.last_body["messages"] if m["role"] == "assistant"]
    return str(answers[-1]["content"])
