"""What senders say of a file: read, or refused with what to change."""

from __future__ import annotations

import re
from collections.abc import Mapping

from api.files.shapes import PURPOSES
from infra.wire.errors import RequestRefused

EXPIRES_MIN_S, EXPIRES_MAX_S = 3600, 2_592_000
BATCH_LIFE_S = 2_592_000.0
"""OpenAI deletes files for batches after 30 days, unless something else was asked for."""
NAME_MAX_CHARS = 512
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")


def file_name(said: str, *, param: str) -> str:
    """The name, as it was sent: it is data, and no path of ours is made of it."""
    if len(said) > NAME_MAX_CHARS:
        raise RequestRefused(
            f"The file's name is longer than {NAME_MAX_CHARS} characters.", param=param
        )
    if not said:
        raise RequestRefused("The file needs a name.", param=param)
    try:
        said.encode()
    except UnicodeEncodeError:
        raise RequestRefused("The file's name is not valid Unicode.", param=param) from None
    return said


def media_type(said: str) -> str:
    """The media type without its parameters; empty if it is none."""
    kind = said.partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else ""


def purpose_of(fields: Mapping[str, str]) -> str:
    """The purpose that a form names."""
    said = fields.get("purpose")
    if said is None:
        raise RequestRefused(
            f"Say what the file is for: `purpose` is one of {', '.join(PURPOSES)}.",
            param="purpose",
        )
    return known_purpose(said)


def known_purpose(said: str) -> str:
    """The same word. Raises `RequestRefused` for an unknown one."""
    if said not in PURPOSES:
        raise RequestRefused(f"`purpose` must be one of {', '.join(PURPOSES)}.", param="purpose")
    return said


def life_of(fields: Mapping[str, str], purpose: str) -> float | None:
    """Seconds until the file expires, by the fields of a form; None: never."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return default_life(purpose)
    if anchor != "created_at":
        raise RequestRefused(
            "`expires_after[anchor]` must be `created_at`.", param="expires_after[anchor]"
        )
    if not re.fullmatch(r"[0-9]{1,10}", seconds or "") or not (
        EXPIRES_MIN_S <= int(seconds or 0) <= EXPIRES_MAX_S
    ):
        raise RequestRefused(
            f"`expires_after[seconds]` must be a number from {EXPIRES_MIN_S} to {EXPIRES_MAX_S}.",
            param="expires_after[seconds]",
        )
    return float(seconds or 0)


def default_life(purpose: str) -> float | None:
    """Seconds that a file stays of which nothing else was said; None: until it is deleted."""
    return BATCH_LIFE_S if purpose == "batch" else None
