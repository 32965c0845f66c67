"""Where an answer shows what the agent does: the request's word, its agent's, or the deployment's.
Pure."""

from __future__ import annotations

from collections.abc import Mapping

from api.turns.naming import is_given
from infra.runtime.settings import AnswerSettings, ToolDisplay
from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import RequestRefused

DISPLAY_HEADER = "X-AgCluster-Tool-Display"


def display_of(
    headers: Mapping[str, str], settings: AnswerSettings, profile: AgentProfile | None
) -> ToolDisplay:
    """`profile` is the agent's; None for the usual one. Raises `RequestRefused` for a value that
    does not exist."""
    said = headers.get(DISPLAY_HEADER, "").strip()
    if is_given(said):
        return _named(said)
    if profile is not None and profile.tool_display is not None:
        return ToolDisplay(profile.tool_display)
    folds = any(is_given(headers.get(name, "")) for name in settings.inline_client_headers)
    if folds and settings.tool_display is ToolDisplay.REASONING:
        return ToolDisplay.INLINE
    return settings.tool_display


def _named(said: str) -> ToolDisplay:
    try:
        return ToolDisplay(said.lower())
    except ValueError:
        names = ", ".join(ToolDisplay)
        raise RequestRefused(
            f"The header {DISPLAY_HEADER} must be one of {names}.", param=DISPLAY_HEADER
        ) from None
