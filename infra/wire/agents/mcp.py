"""The MCP servers of an agent's profile. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from infra.wire.agents.part import Line, ProfilePart, VariableName
from infra.wire.mcp.secrets import callers_names

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")]
ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]

Argument = Annotated[str, Field(max_length=8000)]

_URL = r"^https?://[^\s/@?#]+(?:/[^\s?#]*)?(?:\?[^\s#]*)?$"
_HEADER_VALUE = r"^[\x20-\x7e]{0,4000}$"


class McpServer(ProfilePart):
    """An MCP server that is reached over HTTP (`url`), or runs in the container (`command`).

    Of one over HTTP the agent knows only its name. The gateway knows its address and adds the
    headers, so no secret enters the container.
    """

    url: Annotated[str, StringConstraints(pattern=_URL, max_length=2000)] | None = None
    """Its address, as in its own documentation."""
    headers: Mapping[HeaderName, Annotated[str, StringConstraints(pattern=_HEADER_VALUE)]] = {}
    """Headers of each request. `${NAME}` stands for a secret of `AGCLUSTER_MCP_SECRETS`,
    `${caller:NAME}` for one that the caller sends in the header `X-AgCluster-MCP-NAME`."""
    login: bool = False
    """An operator logs in once, with `agcluster mcp login`; the gateway adds the token."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """A call that takes longer is ended."""
    command: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A program of the container that speaks MCP over its standard input and output."""
    args: Annotated[tuple[Argument, ...], Field(max_length=100)] = ()
    """Arguments of the command."""
    env: Mapping[VariableName, Line] = {}
    """Variables that the command sees beside the usual ones. No secrets: the agent reads them."""

    @property
    def callers_secrets(self) -> frozenset[str]:
        """The names of the secrets that its caller has to send."""
        return callers_names(self.headers.values())
