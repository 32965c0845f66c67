"""Tables can be read: a cell holds no more than a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md")])
CURRENT = [page for page in PAGES if "adr" not in page.parts and page.name != "CHANGELOG.md"]
_CODE = re.compile(r"`[^`]*`")
_SENTENCE_ENDS = re.compile(r"[.!?] +(?=[A-Z`])")
_ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)
QUOTED = {
    # What users are told, word for word: some of it is two sentences.
    "docs/reference/clients.md",
}


def cells(page: Path) -> list[str]:
    """All cells of all tables, code left out."""
    rows = _ROW.findall(page.read_text())
    return [_CODE.sub("x", cell).strip() for row in rows for cell in row.split("|")]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_cell_is_longer_than_a_sentence(page: Path) -> None:
    if str(page.relative_to(ROOT)) in QUOTED:
        return
    assert [cell for cell in cells(page) if _SENTENCE_ENDS.search(cell)] == []
