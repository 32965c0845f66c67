"""An MCP server as its publisher describes it: the official `server.json`.

The fields that we use are checked; the rest is kept as it came, so what readers get is what was
published. The form is that of the schema 2025-12-11.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic.alias_generators import to_camel

from infra.releases.refused import ReleaseRefused

SERVER_JSON_MAX_BYTES = 32 * 1024
PUBLISHERS_OWN = "io.modelcontextprotocol.registry/publisher-provided"
"""The only part of `_meta` that a publisher writes; the rest is the registry's to say."""
_RANGE = re.compile(r"[\^~<>=*|,\s]|\b[xX]\b|^latest$")


def _one_version(version: str) -> str:
    if _RANGE.search(version):
        raise ValueError("must be one version, not `latest` and not a range")
    return version


def _web(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s<>\"]{1,2000}", url):
        raise ValueError("must be an http or https URL")
    return url


OneVersion = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_one_version)]
WebUrl = Annotated[str, AfterValidator(_web)]
UrlTemplate = Annotated[
    str,
    StringConstraints(pattern=r"^(https?://[^\s]+|\{[a-zA-Z_][a-zA-Z0-9_]*\}[^\s]*)$"),
    Field(max_length=2000),
]
Words = Annotated[str, Field(max_length=2000)]


class ServerPart(BaseModel):
    """A part of a `server.json`. Fields that we do not use are nobody's fault."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True
    )


class ServerInput(ServerPart):
    """A value that the one who installs a server may have to give."""

    description: Words = ""
    is_required: bool = False
    is_secret: bool = False
    value: Words | None = None
    """Fixed; `{name}` in it stands for a variable."""
    default: Words | None = None
    choices: Annotated[tuple[Words, ...], Field(max_length=100)] = ()


class VariedInput(ServerInput):
    """One whose value has variables."""

    variables: Annotated[dict[str, ServerInput], Field(max_length=50)] = {}


class NamedInput(VariedInput):
    """A header, or an environment variable."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]


class ServerArgument(VariedInput):
    """An argument of a command."""

    type: Literal["positional", "named"]
    name: Annotated[str, Field(max_length=200)] | None = None
    value_hint: Words | None = None


class ServerTransport(ServerPart):
    """How a package is spoken to."""

    type: Literal["stdio", "streamable-http", "sse"]
    url: UrlTemplate | None = None


class ServerPackage(ServerPart):
    """A program that is the server."""

    registry_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
    identifier: Annotated[str, Field(min_length=1, max_length=500)]
    version: OneVersion | None = None
    runtime_hint: Annotated[str, Field(max_length=100)] | None = None
    transport: ServerTransport
    runtime_arguments: Annotated[tuple[ServerArgument, ...], Field(max_length=100)] = ()
    package_arguments: Annotated[tuple[ServerArgument, ...], Field(max_length=100)] = ()
    environment_variables: Annotated[tuple[NamedInput, ...], Field(max_length=100)] = ()


class ServerRemote(ServerPart):
    """An address where the server runs."""

    type: Literal["streamable-http", "sse"]
    url: UrlTemplate
    headers: Annotated[tuple[NamedInput, ...], Field(max_length=50)] = ()
    variables: Annotated[dict[str, ServerInput], Field(max_length=50)] = {}


class ServerIcon(ServerPart):
    """A picture of it."""

    src: Annotated[str, StringConstraints(pattern=r"^https://[^\s]+$"), Field(max_length=255)]


class ServerRepository(ServerPart):
    """Where its source is."""

    url: WebUrl
    source: Annotated[str, Field(max_length=100)]


class ServerJson(ServerPart):
    """A `server.json`."""

    name: Annotated[
        str,
        StringConstraints(pattern=r"^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"),
        Field(min_length=3, max_length=200),
    ]
    description: Annotated[str, Field(min_length=1, max_length=100)]
    version: OneVersion
    title: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    website_url: WebUrl | None = None
    repository: ServerRepository | None = None
    icons: Annotated[tuple[ServerIcon, ...], Field(max_length=20)] = ()
    packages: Annotated[tuple[ServerPackage, ...], Field(max_length=20)] = ()
    remotes: Annotated[tuple[ServerRemote, ...], Field(max_length=20)] = ()
    meta: dict[str, Any] = Field({}, alias="_meta")

    @field_validator("meta")
    @classmethod
    def _publishers(cls, meta: dict[str, Any]) -> dict[str, Any]:
        if other := sorted(meta.keys() - {PUBLISHERS_OWN}):
            raise ValueError(f"{other[0]} is the registry's to say; yours is {PUBLISHERS_OWN}")
        return meta


def read_server_json(raw: bytes) -> ServerJson:
    """Raises `ReleaseRefused`, whose message names the first fault."""
    if len(raw) > SERVER_JSON_MAX_BYTES:
        raise ReleaseRefused(f"server.json is larger than {SERVER_JSON_MAX_BYTES // 1024} KiB")
    try:
        return ServerJson.model_validate(strict_json(raw))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ReleaseRefused(f"server.json: {where}: {fault['msg']}") from None
    except ValueError as error:
        raise ReleaseRefused(f"server.json: not JSON: {error}") from None


def strict_json(raw: bytes) -> Any:
    """JSON in which no field stands twice and every number is one. Raises `ValueError`."""
    try:
        return json.loads(raw, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands there twice")
    return found


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")
