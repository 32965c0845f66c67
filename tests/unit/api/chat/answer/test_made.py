"""What an answer says of the files of its turn, and how that is taken out again."""

from __future__ import annotations

import pytest

from api.chat.answer.made import FileDisplay, without_files
from api.files.links import FileLinks
from infra.runtime.links import LinkSigner
from infra.wire.events import Artifact, TurnFiles
from infra.wire.files.shown import ArtifactDisplay
from infra.wire.ids import FileId

LINKS = FileLinks(LinkSigner([b"secret"]), base_url="https://a.example")


def artifact(path: str, media_type: str = "text/csv", size: int = 8) -> Artifact:
    return Artifact(
        file=FileId(f"file-{size:032x}"),
        path=path,
        bytes=size,
        media_type=media_type,
        expires_ms=1,
    )


def text_of(made: TurnFiles) -> str:
    shown = FileDisplay(LINKS, ArtifactDisplay.LINKS).shown(made)
    assert shown is not None
    return shown.text


MANY = TurnFiles(
    files=tuple(artifact(f"outputs/{n} [x](y)\\*.png", "image/png", n) for n in range(30)),
    not_kept=("big`.bin (too large)", "**Files** (out of time)"),
    more=3,
)


@pytest.mark.parametrize("said", ["", "Short.", "Long. " * 100, "A\n---\n**Files**\nare fine"])
@pytest.mark.parametrize("made", [TurnFiles(files=(artifact("a.csv"),)), MANY, TurnFiles(more=1)])
def test_what_is_added_is_taken_out_again(said: str, made: TurnFiles) -> None:
    answer = said + text_of(made)
    assert without_files(answer).strip() == said.strip()
    continued = f"{answer}\nand on"
    assert without_files(continued).split() == f"{said} and on".split()


def test_few_links_are_shown_and_all_are_counted() -> None:
    text = text_of(MANY)
    assert text.count("\n- [") == 20
    assert "- and 13 more" in text


def test_an_answer_without_files_is_left_as_it_is() -> None:
    for said in (
        "",
        "text",
        "**Files**\n- [a](https://b.example/v1/artifacts/x)",
        "---\n**Files**",
    ):
        assert without_files(said) is said or without_files(said) == said


@pytest.mark.parametrize(
    "piece", ["\n---\n**Files**\n", "- [", "\n", " ", "- [a](x/v1/artifacts/b"]
)
def test_a_hostile_answer_costs_no_time(piece: str) -> None:
    hostile = "**Files**" + "\n---\n**Files**\n" + piece * 20_000
    assert without_files(hostile).startswith("**Files**")


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (25_000_000, "25 MB")]
)
def test_sizes(size: int, shown: str) -> None:
    assert f"· {shown}\n" in text_of(TurnFiles(files=(artifact("a", size=size),)))
