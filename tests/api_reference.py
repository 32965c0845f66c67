"""The API's own OpenAPI document as a page of the documents.

`python -m tests.api_reference [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from api.routes.manual import DocumentedOperation, operations
from infra.reference.generated import command, wrapped
from tests.fakes.running_api import running_api

PAGE = Path("docs/reference/api.md")
HEAD = """\
# API

Every path, with what it reads and answers. A running replica has the same at `/docs`, and for
programs at `/openapi.json`. What the fields of a chat request do: [clients.md](clients.md). Errors:
[errors.md](errors.md). Generated from the API itself: `make docs`.
"""


def page() -> str:
    """The text of the page."""
    lines = [HEAD.rstrip()]
    for group, members in groupby(operations(_document()), key=lambda one: one.group):
        lines += ["", f"## {group}"]
        for one in members:
            lines += ["", *_lines(one)]
    return "\n".join(lines) + "\n"


def _lines(one: DocumentedOperation) -> Iterator[str]:
    key = "" if one.needs_key else " Needs no key."
    yield f"### {one.method} `{one.path}`"
    yield wrapped(f"{one.told}{key}")
    if one.parameters:
        yield ""
    for told in one.parameters:
        required = ", required" if told.is_required else ""
        text = f": {' '.join(told.told.split())}" if told.told else ""
        yield wrapped(f"`{told.name}` ({told.place}{required}){text}", item="- ")
    yield ""
    yield f"Answers: {', '.join(one.statuses)}."


def _document() -> Mapping[str, Any]:
    async def ask() -> Mapping[str, Any]:
        async with running_api() as api:
            told: Mapping[str, Any] = (await api.http.get("/openapi.json")).json()
            return told

    return asyncio.run(ask())


def renewed() -> dict[Path, str]:
    """The page as it should be."""
    return {PAGE: page()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or write or check it."""
    return command(
        renewed,
        printed=page,
        program="tests.api_reference",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
