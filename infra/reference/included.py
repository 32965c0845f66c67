"""Renews code that documents show from files: a reader's copy is what the tests run.

After `<!-- file: ../examples/stream.py -->`, a path from the document's folder, stands the file in
a block of code. `python -m infra.reference.included [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.reference.generated import command

DOCUMENTS = (Path("docs/how-to/cookbook.md"),)
_LANGUAGES = {".py": "python", ".mjs": "js", ".sh": "sh", ".yaml": "yaml"}
_SHOWN = re.compile(r"(<!-- file: (\S+) -->\n)(?:```\w*\n.*?^```\n)?", re.DOTALL | re.MULTILINE)


def renewed(document: Path) -> str:
    """The document with the files as they are."""

    def shown(found: re.Match[str]) -> str:
        file = document.parent / found[2]
        return f"{found[1]}```{_LANGUAGES[file.suffix]}\n{file.read_text()}```\n"

    return _SHOWN.sub(shown, document.read_text())


def files(document: Path) -> list[str]:
    """Which files it shows."""
    return [found[2] for found in _SHOWN.finditer(document.read_text())]


def documents() -> Mapping[Path, str]:
    """All of them as they should be."""
    return {document: renewed(document) for document in DOCUMENTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check them."""
    return command(
        documents,
        printed=lambda: "\n".join(documents().values()),
        program="infra.reference.included",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
