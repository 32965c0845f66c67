"""Every error code with its cause and its cure: `tests/errors.toml` and the code, as a document.

`python -m tests.errors [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from api.errors import TABLE
from infra.reference.generated import command
from infra.wire.errors import ErrorCode
from infra.wire.text.words import SENTENCES

REASONS = Path(__file__).resolve().parent / "errors.toml"
PAGE = Path("docs/reference/errors.md")

HEAD = """\
# Errors

Every error has OpenAI's form: `{"error": {"message", "type", "param", "code"}}`. A code means the
same as an answer's error and at the end of a stream, where the status has been sent already. What
clients do with each status: [clients.md](clients.md#statuses). Generated from `tests/errors.toml`:
`make docs`.
"""


class Reason(BaseModel):
    """Why a code is told, and what helps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cause: str
    cure: str


def reasons() -> Mapping[ErrorCode, Reason]:
    """By code. Raises `ValueError` for a code that does not exist."""
    found = tomllib.loads(REASONS.read_text())
    return {ErrorCode(code): Reason.model_validate(told) for code, told in found.items()}


def page() -> str:
    """The text of the page. Raises `KeyError` if a code has no reason."""
    known = reasons()
    lines = [HEAD.rstrip()]
    for code in sorted(ErrorCode):
        shown, reason = TABLE[code], known[code]
        lines += ["", f"## `{code.value}`", f"Status {shown.status}, type `{shown.type}`.", ""]
        lines += [f"- **Message:** {SENTENCES[code]}", f"- **Cause:** {reason.cause}"]
        lines.append(f"- **Cure:** {reason.cure}")
        if shown.should_retry is False:
            lines.append("- **Again:** not by itself (`x-should-retry: false`).")
        elif shown.retry_after_s is not None:
            wait = f"after {shown.retry_after_s:g} s, unless the answer says otherwise"
            lines.append(f"- **Again:** {wait}.")
    return "\n".join(lines) + "\n"


def renewed() -> dict[Path, str]:
    """The page as it should be."""
    return {PAGE: page()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or write or check it."""
    return command(
        renewed, printed=page, program="tests.errors", about=__doc__, arguments=arguments
    )


if __name__ == "__main__":
    sys.exit(main())
