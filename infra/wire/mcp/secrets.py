"""What the headers of MCP servers refer to, and what callers send for them. Pure.

${NAME}           a secret of the operator's (`AGCLUSTER_MCP_SECRETS`)
${caller:NAME}    a secret of the caller's, sent with the request
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter

from infra.wire.base import Message, decode

MCP_SECRET_HEADER = "X-AgCluster-MCP-"
CALLERS_SECRETS_MAX = 16
"""How many secrets of its caller one agent may ask for."""

_CALLERS_NAME = r"[A-Z][A-Z0-9_]{0,39}"
_OPERATORS_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
REFERENCE = re.compile(rf"\$\{{(?:caller:({_CALLERS_NAME})|({_OPERATORS_NAME}))\}}")
"""Its groups: the caller's name, the operator's."""
_ANY_REFERENCE = re.compile(r"\$\{[^}]*\}?")

CallerSecretName = Annotated[str, StringConstraints(pattern=f"^{_CALLERS_NAME}$")]


class CallerSecrets(Message):
    """The secrets that a request brings for its agent's MCP servers. Only a gateway opens them."""

    names: tuple[CallerSecretName, ...]
    sealed: str
    """A JSON object of names and values, sealed for the turn."""
    version: str
    """Others have another one; says nothing about the values themselves."""


class AgentMcpServer(Message):
    """An MCP server as its agent knows it. Without a command, the gateway leads to it by its
    name."""

    timeout_s: float = 300.0
    """How long a call may take."""
    secrets_version: str = ""
    """Which secrets of the caller's the gateway adds: a session with the server belongs to them."""
    command: tuple[str, ...] = ()
    """The program, and its arguments, of a server in the container."""
    environment: Mapping[str, str] = {}
    """The variables that such a server gets beside the usual ones."""


class ServerSeen(Message):
    """How a server is, as its agent sees it when a turn begins."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    status: Annotated[str, StringConstraints(pattern=r"^[a-z-]{1,20}$")]
    """`connected`, or what is wrong: `failed`, `pending` (it has not answered), `needs-auth`."""
    tools: Annotated[int, Field(ge=0, le=100_000)] = 0
    detail: Annotated[str, Field(max_length=200)] = ""
    """What one in the container said last, if it does not work."""


class ServerState(Message):
    """The same, as it is kept."""

    status: str
    tools: int
    detail: str
    seen_ms: int
    seen_by: str
    """The worker."""


def decode_server_state(raw: bytes | str) -> ServerState:
    """Raises `MalformedMessage`."""
    state: ServerState = decode(_STATE, raw)
    return state


_STATE: TypeAdapter[ServerState] = TypeAdapter(ServerState)


def header_of(secret: str) -> str:
    """The header in which a caller sends the secret of this name. Without an underscore: some
    proxies drop headers that have one."""
    return MCP_SECRET_HEADER + secret.replace("_", "-")


def callers_names(texts: Iterable[str]) -> frozenset[str]:
    """The caller's secrets that these texts refer to."""
    found = (match[1] for text in texts for match in REFERENCE.finditer(text))
    return frozenset(name for name in found if name)


def bad_reference(text: str) -> str | None:
    """The first thing in the text that looks like a reference and is none."""
    for found in _ANY_REFERENCE.finditer(text):
        if not REFERENCE.fullmatch(found[0]):
            return found[0]
    return None
