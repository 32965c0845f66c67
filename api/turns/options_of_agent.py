"""What the agent that a request picked says about the request's options. Pure."""

from __future__ import annotations

from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import RequestRefused
from infra.wire.options import TurnOptions


def options_of_agent(
    options: TurnOptions, profile: AgentProfile | None, *, form_param: str
) -> TurnOptions:
    """The turn's options with the agent's own where the request says nothing. `form_param` is what
    the dialect calls the form of an answer.

    Raises `RequestRefused` for what the agent does not do.
    """
    if profile is None:
        return options
    if options.answer_form is not None and profile.structured_output == "off":
        raise RequestRefused(
            f"This agent answers in text only: leave `{form_param}` away, or pick another model.",
            param=form_param,
        )
    if options.effort is None and profile.effort is not None:
        return options.model_copy(update={"effort": profile.effort})
    return options
