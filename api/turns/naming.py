"""Finds a request's conversation by the name that its client gave it. Pure.

Names come from clients. They are limited here and only used through an HMAC with the tenant, so the
same name of another tenant is another conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from api.http.auth import without_key
from infra.wire.errors import RequestRefused

METADATA_FIELD = "metadata.conversation_id"

_ALLOWED = re.compile(r"[\x20-\x7e]+")
_PLACEHOLDER = re.compile(r"\{\{.*\}\}|\$\{.*\}")
_RESENDING = ("x-parent-message-id", "x-openwebui-chat-id", "chatui-conversation-id")
"""Headers of clients that are known to send the whole history each time."""


def conversation_name(
    headers: Mapping[str, str],
    metadata: Mapping[str, object] | None = None,
    *,
    names: Sequence[str],
    max_chars: int,
) -> str | None:
    """The first name that the client gave: from the headers `names`, then
    `metadata.conversation_id`.

    None if it gave none. LibreChat sends the header empty if it has no conversation, and leaves
    unknown placeholders in place; both mean "no name". Raises `RequestRefused` for a value that is
    too long, contains other characters than printable ASCII, or contains a key.
    """
    for param, value in _given(headers, metadata or {}, names):
        if not is_given(value):
            continue
        if len(value) > max_chars:
            raise RequestRefused(f"`{param}` is longer than {max_chars} characters.", param=param)
        if not _ALLOWED.fullmatch(value):
            raise RequestRefused(
                f"`{param}` may only hold printable ASCII characters.", param=param
            )
        if without_key(value, headers) != value:
            # A name is stored, shown in lists and sent in the answer's headers.
            raise RequestRefused(f"`{param}` holds an API key.", param=param)
        return value
    return None


def is_given(value: str) -> bool:
    """Whether a header has a value: not empty, and not a placeholder that was not filled in."""
    return bool(value.strip()) and not _PLACEHOLDER.search(value)


def resends_history(headers: Mapping[str, str]) -> bool:
    """Whether the client is known to send the whole conversation with each turn."""
    return any(is_given(headers.get(name, "")) for name in _RESENDING)


def _given(
    headers: Mapping[str, str], metadata: Mapping[str, object], names: Sequence[str]
) -> Iterable[tuple[str, str]]:
    for name in names:
        yield name, headers.get(name, "").strip()
    value = metadata.get("conversation_id")
    if value is not None and not isinstance(value, str):
        raise RequestRefused(f"`{METADATA_FIELD}` must be a string.", param=METADATA_FIELD)
    yield METADATA_FIELD, (value or "").strip()


def label(name: str | None) -> str:
    """The name for display in a record: letters, digits and a few signs, at most 64."""
    return re.sub(r"[^A-Za-z0-9._:@-]", "_", name or "")[:64]
