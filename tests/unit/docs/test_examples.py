"""The list of examples names all of them, and the cookbook shows them as they are."""

from __future__ import annotations

from infra.reference.included import DOCUMENTS, documents, files
from tests.examples import FOLDER


def test_every_example_is_listed() -> None:
    listed = (FOLDER / "README.md").read_text()
    names = [path.name for path in FOLDER.iterdir() if path.name != "README.md"]
    assert names
    assert [name for name in names if f"]({name})" not in listed] == []


def test_the_cookbook_shows_the_files_as_they_are() -> None:
    """If this fails: `make docs`."""
    assert {path: path.read_text() for path in DOCUMENTS} == documents()


def test_the_cookbook_shows_every_example() -> None:
    shown = {name.removeprefix("../examples/") for name in files(DOCUMENTS[0])}
    programs = [path for path in FOLDER.iterdir() if path.suffix in {".py", ".mjs", ".sh"}]
    there = {str(path.relative_to(FOLDER)) for path in (*programs, *FOLDER.glob("agents/*"))}
    assert shown == there
