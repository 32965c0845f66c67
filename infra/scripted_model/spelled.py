"""A message of the scripted model, spelled out in JSON: for what no verb of the script says. Pure.

    {"say": [BLOCK, …]}        its blocks, in order; a BLOCK is
        "TEXT"                     a text block, one delta a word
        ["PIECE", …]               a text block, these deltas
        {"start": "TEXT", "text": [PIECE, …]}   one that has text in its start already
        {"thinking": "TEXT"}       a thinking block
        {"tool": "bash CMD"}       a tool call, in the words of the script
        {"raw": {…}, "deltas": [{…}, …]}        any block and its deltas, as they are
    "stop": REASON             else "tool_use" after a tool call, or "end_turn"
    "tokens": [IN, OUT, CREATED, READ, THINKING]      its usage
    "pace_ms": N               time before each delta
    "cut": {"kind": "drop" | "error" | "hang" | "unsaid", "after": DELTAS, "blocks": N, "status": N}
                               where it breaks off; `unsaid` ends well, but without a stop reason

    {"status": N, "error": {…}, "headers": {…}}     an HTTP error instead, with this inner object

A list of such messages is for requests that are repeated: one for each attempt, the last one for
all further ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from infra.scripted_model.calls import tool_use
from infra.scripted_model.replies import (
    Block,
    Cut,
    CutKind,
    Raw,
    Refusal,
    Reply,
    Stop,
    Text,
    Thinking,
    Tokens,
    ToolUse,
    words,
)


def spelled(raw: str, *, attempt: Callable[[], int]) -> Reply | Refusal | None:
    """The message; None for what is no JSON. `attempt` is asked where there are several."""
    try:
        told = json.loads(raw)
    except ValueError:
        return None
    if isinstance(told, list):
        told = told[min(attempt(), len(told)) - 1]
    if "status" in told:
        return Refusal(told["status"], told.get("headers", {}), told.get("error"))
    return _reply(told)


def _reply(told: Mapping[str, Any]) -> Reply:
    blocks = tuple(_block(item) for item in told.get("say", ()))
    usual = Stop.TOOL_USE if any(isinstance(b, ToolUse) for b in blocks) else Stop.END_TURN
    cut = told.get("cut")
    return Reply(
        blocks,
        stop=told.get("stop", usual),
        pace_s=told.get("pace_ms", 0) / 1000,
        cut=Cut(**{**cut, "kind": CutKind(cut["kind"])}) if cut else None,
        tokens=Tokens(*told["tokens"]) if "tokens" in told else None,
    )


def _block(told: Any) -> Block:
    if isinstance(told, str):
        return Text(words(told))
    if isinstance(told, list):
        return Text(tuple(told))
    return _named_block(told)


def _named_block(told: Mapping[str, Any]) -> Block:
    if "start" in told:
        return Text(tuple(told.get("text", ())), opening=told["start"])
    if "thinking" in told:
        return Thinking(words(told["thinking"]))
    if "raw" in told:
        return Raw(told["raw"], tuple(told.get("deltas", ())))
    if call := tool_use(told["tool"]):
        return call
    raise ValueError(f"not a block: {told!r}")
