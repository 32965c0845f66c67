"""Reads the options that a client chooses for its conversation, from headers and metadata. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping

from api.access.agents import ChosenAgent
from api.turns.naming import is_given
from infra.wire.errors import RequestRefused
from infra.wire.options import ConversationOptions

EGRESS_PROFILE_HEADER = "X-AgCluster-Egress-Profile"
_EGRESS_PROFILE_FIELD = "egress_profile"

CLIENT_TOOLS_HEADER = "X-AgCluster-Client-Tools"

OPTION_HEADERS: Mapping[str, str] = {
    EGRESS_PROFILE_HEADER: "The egress profile that the conversation's tools go out by.",
    CLIENT_TOOLS_HEADER: "`on` or `off`: whether the agent may call what the body has in `tools`.",
}
"""The meaning of each, for the OpenAPI document."""


def read_options(
    headers: Mapping[str, str],
    metadata: Mapping[str, object] | None = None,
    *,
    egress_profiles: Container[str],
) -> ConversationOptions:
    """The options that the request names. `egress_profiles` are the deployment's.

    Raises `RequestRefused` for an invalid value.
    """
    return ConversationOptions(
        egress_profile=_egress_profile(headers, metadata or {}, known=egress_profiles)
    )


def options_under(chosen: ChosenAgent, named: ConversationOptions) -> ConversationOptions:
    """The conversation's options, with what its agent prescribes. Raises `RequestRefused` if the
    request names something else."""
    if chosen.profile is None or (egress := chosen.profile.egress_profile) is None:
        return named
    if named.egress_profile not in (None, egress):
        raise RequestRefused(
            f"This agent goes out by the egress profile `{egress}`; leave "
            f"`{EGRESS_PROFILE_HEADER}` away.",
            param=EGRESS_PROFILE_HEADER,
        )
    return named.model_copy(update={"egress_profile": egress})


def _egress_profile(
    headers: Mapping[str, str], metadata: Mapping[str, object], *, known: Container[str]
) -> str | None:
    for param, value in (
        (EGRESS_PROFILE_HEADER, headers.get(EGRESS_PROFILE_HEADER, "").strip()),
        (f"metadata.{_EGRESS_PROFILE_FIELD}", metadata.get(_EGRESS_PROFILE_FIELD) or ""),
    ):
        if not isinstance(value, str):
            raise RequestRefused(f"`{param}` must be a string.", param=param)
        if not is_given(value):
            continue
        if value not in known:
            raise RequestRefused(f"`{param}` names no egress profile of this service.", param=param)
        return value
    return None
