"""What all messages share: frozen models, strict to build, tolerant to read."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from infra.wire.errors import MalformedMessage, UnknownMessage

PROTOCOL_VERSION = 1
"""Major version of the worker-agent protocol.

Another major version is refused, never guessed at.
"""


class Message(BaseModel):
    """A frozen message.

    Unknown fields are ignored on reading: two versions talk during a deploy.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    def encode(self) -> bytes:
        """One line of JSON without a line break at its end."""
        return self.model_dump_json(exclude_none=True).encode()


def decode(union: TypeAdapter[Any], line: bytes | str) -> Any:
    """Read one message of a discriminated union.

    Raises `UnknownMessage` for a type this version does not know (count it and go on) and
    `MalformedMessage` for anything else that does not fit (the link is broken).
    """
    try:
        return union.validate_json(line)
    except ValidationError as error:
        if any(e["type"] == "union_tag_invalid" for e in error.errors(include_url=False)):
            raise UnknownMessage(_type_of(line)) from error
        raise MalformedMessage(
            str(error.errors(include_url=False, include_input=False)[:3])
        ) from error


def _type_of(line: bytes | str) -> str:
    try:
        return str(json.loads(line).get("type"))
    except (ValueError, AttributeError):  # pragma: no cover - the tag error implies an object
        return "?"
