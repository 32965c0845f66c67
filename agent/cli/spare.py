"""What a spare's CLI can still become: the one place that knows of the CLI's undocumented requests.

A spare's CLI is connected before its conversation is known. Until its first turn, model and system
prompt can be replaced by control requests that leave no trace: the turn's calls of the model are
those of a CLI that was started with them. tests/contract/agent/test_spares.py compares them, since
the SDK documents none of this. What a CLI cannot change is its class (`AgentSettings.spare_class`).
"""

from __future__ import annotations

from typing import Any

from agent.cli.setup import with_note
from infra.wire.link import AgentSettings, StartTurn


def begins_afresh(start: StartTurn) -> bool:
    """Whether the turn continues nothing, so that it needs no CLI that resumes a session."""
    return start.transcript is None and start.checkpoint is None and not start.history


def restatements(spare: AgentSettings, wanted: AgentSettings) -> list[dict[str, Any]] | None:
    """The control requests that give a spare's CLI other settings; None if it cannot get them."""
    if spare.spare_class != wanted.spare_class:
        return None
    requests: list[dict[str, Any]] = []
    if wanted.model != spare.model:
        # Not `set_model`, which tries the model with a call of its own, on the caller's key.
        requests.append({"subtype": "apply_flag_settings", "settings": {"model": wanted.model}})
    if wanted.system_prompt != spare.system_prompt:
        if not wanted.system_prompt:
            # A prompt can be replaced, but not taken away again.
            return None
        requests.append(
            {
                "subtype": "set_model",
                "model": wanted.model,
                "system_prompt": with_note(wanted.system_prompt),
                # So that the model is not tried here either.
                "only_if_model_is_current": True,
            }
        )
    return requests
