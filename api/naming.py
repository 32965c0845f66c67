"""Which conversation a request belongs to, by the name its client gave it. Pure.

Names are the client's; they are bounded here and only ever used through an HMAC with the tenant, so
a foreign name is simply another conversation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from infra.wire.errors import RequestRefused

_ALLOWED = re.compile(r"[\x20-\x7e]+")
_PLACEHOLDER = re.compile(r"\{\{.*\}\}|\$\{.*\}")


def conversation_name(
    headers: Mapping[str, str], *, names: Sequence[str], max_chars: int
) -> str | None:
    """The first non-empty value of the headers `names`; None when the client gave none.

    LibreChat sends the header empty where it has no conversation, and leaves placeholders it does
    not know as they are: both mean "no name". Raises `RequestRefused` for a value that is too long
    or holds characters beyond printable ASCII.
    """
    for name in names:
        value = headers.get(name, "").strip()
        if not value or _PLACEHOLDER.fullmatch(value):
            continue
        if len(value) > max_chars:
            raise RequestRefused(
                f"The header {name} is longer than {max_chars} characters.", param=name
            )
        if not _ALLOWED.fullmatch(value):
            raise RequestRefused(
                f"The header {name} may only hold printable ASCII characters.", param=name
            )
        return value
    return None


def label(name: str | None) -> str:
    """The name for display in a record: letters, digits and a few signs, at most 64."""
    return re.sub(r"[^A-Za-z0-9._:@-]", "_", name or "")[:64]


def is_given(value: str) -> bool:
    """Whether a header says anything: it is not empty and no placeholder nobody filled in."""
    return bool(value.strip()) and not _PLACEHOLDER.search(value)
