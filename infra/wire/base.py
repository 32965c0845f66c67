"""What all messages share: frozen models, strict when built, tolerant when read."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from infra.wire.errors import MalformedMessage, UnknownMessage
from infra.wire.text.characters import whole
from infra.wire.text.foreign import FOREIGN_MAX_CHARS, escaped

VERSION = "0.1.0"
"""The version of AgCluster: here, and nowhere else. The package takes it from here.

Not looked up among what is installed, for the agent's image holds folders and no package.
"""

PROTOCOL_VERSION = 1
"""Major version of the worker-agent protocol. Any other major version is refused."""


class Message(BaseModel):
    """A frozen message.

    Unknown fields are ignored when reading, because two versions may run side by side during a
    deploy.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    def encode(self) -> bytes:
        """One line of JSON, without a line break at its end.

        Unpaired surrogates, which nobody could read, are repaired (`whole`).
        """
        try:
            return self.model_dump_json(exclude_none=True).encode()
        except (PydanticSerializationError, UnicodeEncodeError):
            fields = self.model_dump(exclude_none=True)
            return whole(json.dumps(fields, ensure_ascii=False, separators=(",", ":"))).encode()


def decode(union: TypeAdapter[Any], line: bytes | str, *, max_bytes: int | None = None) -> Any:
    """Read one message of a discriminated union.

    Raises `UnknownMessage` for a type that this version does not know (count it and continue) and
    `MalformedMessage` for anything else that does not fit (close the link). Neither error contains
    the received text, because errors are logged and the sender chose the text. Use `max_bytes` for
    what an agent can send: parsed JSON takes up to sixty times its length, and parsing blocks the
    loop.
    """
    if max_bytes is not None and len(line) > max_bytes:
        raise MalformedMessage(f"a message of {len(line)} bytes, where {max_bytes} are allowed")
    try:
        return union.validate_json(line)
    except ValidationError as error:
        raise _fault(error) from None


def _fault(error: ValidationError) -> UnknownMessage | MalformedMessage:
    found = error.errors(include_url=False, include_input=False)[:3]
    for fault in found:
        if fault["type"] == "union_tag_invalid":
            return UnknownMessage(str(fault["ctx"]["tag"]))
    told = (f"{'.'.join(map(str, fault['loc'])) or 'message'}: {fault['type']}" for fault in found)
    return MalformedMessage(escaped("; ".join(told))[:FOREIGN_MAX_CHARS])
