"""Pages of docs/reference that are made of the code are as `make docs` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.reference import metrics, pages, pictures
from tests import errors

ROOT = Path(__file__).resolve().parents[3]
MAINS: dict[str, Callable[[list[str]], int]] = {
    "pictures": pictures.main,
    "commands, logs and keys": pages.main,
    "metrics": metrics.main,
    "errors": errors.main,
}


@pytest.mark.parametrize("page", MAINS)
def test_a_page_does_not_drift(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert MAINS[page](["--check"]) == 0


def test_every_line_of_the_log_is_found_where_logs_are_used() -> None:
    text = pages.log_page()
    for words in ("turn claimed", "first delta", "upstream away", "egress refused", "spare ready"):
        assert f"“{words}”" in text
