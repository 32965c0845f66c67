"""The recipes of docs/reference/operations.md, as its readers would copy them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reference" / "operations.md"


@dataclass(frozen=True)
class Recipe:
    """A heading of the document and the commands under it."""

    title: str
    commands: str


def recipes() -> list[Recipe]:
    """All `###` sections that hold a shell block with redis-cli or agcluster in it."""
    sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    found = []
    for section in sections:
        if blocks := re.findall(r"```sh\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL):
            commands = "".join(blocks)
            if commands.startswith(("redis-cli", "agcluster")):
                found.append(Recipe(section.partition("\n")[0].strip(), commands))
    return found
