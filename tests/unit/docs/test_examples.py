"""The list of examples names all of them."""

from __future__ import annotations

from tests.examples import FOLDER


def test_every_example_is_listed() -> None:
    listed = (FOLDER / "README.md").read_text()
    names = [path.name for path in FOLDER.iterdir() if path.name != "README.md"]
    assert names
    assert [name for name in names if f"]({name})" not in listed] == []
