"""docs/explanation/performance.md: what stands between its markers is a run's."""

from __future__ import annotations

from pathlib import Path


class Document:
    """A page with places for what a run found: `<!-- NAME -->` ... `<!-- /NAME -->`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._text = file.read_text()

    def put(self, name: str, text: str) -> None:
        """Replace what stands there. Raises `ValueError` for a page without such a place."""
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, found, rest = self._text.partition(opening)
        _, ended, tail = rest.partition(closing)
        if not found or not ended:
            raise ValueError(f"{self._file} has no {opening} ... {closing}")
        self._text = f"{head}{opening}\n\n{text}\n\n{closing}{tail}"

    def save(self) -> None:
        self._file.write_text(self._text)
