"""What a person sees on Open WebUI's page."""

from __future__ import annotations

import json
from pathlib import Path

from tests.open_webui.conftest import Look
from tests.open_webui.files import document, picture


def message(*blocks: object) -> str:
    return "message " + json.dumps({"say": blocks})


TOOLS_BETWEEN = " then ".join(
    [
        message(
            {"thinking": "I look around before I write."},
            "First I write a note.",
            {"tool": "bash echo '<b>remember</b> the milk' > note.txt; echo written; sleep 5"},
        ),
        message("The note is written. Now I read it:", {"tool": "bash cat note.txt"}),
        message({"thinking": "That is all."}, "It says to remember the milk."),
    ]
)


def in_order(page: str, *words: str) -> bool:
    at = -1
    for word in words:
        at = page.find(word, at + 1)
        if at < 0:
            return False
    return True


def test_what_was_done_stays_where_it_was_done(look: Look) -> None:
    [first, second] = look(
        {
            "say": TOOLS_BETWEEN,
            "during": "Bash: echo",
            "until": "It says to remember the milk.",
            "unfold": True,
            "shot": "open-webui-order.png",
        },
        {"say": "history", "until": "user", "shot": "open-webui-next.png"},
    )
    live, done = first.split("\n=====\n")
    assert "First I write a note." in live
    assert "The note is written" not in live
    assert in_order(
        done,
        "Thought for",
        "I look around before I write.",
        "First I write a note.",
        "View Result from Bash: echo",
        "written",
        "The note is written. Now I read it:",
        "View Result from Bash: cat note.txt",
        "<b>remember</b> the milk",
        "Thought for",
        "That is all.",
        "It says to remember the milk.",
    ), done
    # The next turn goes on in the agent's own memory, and nothing that was shown came back.
    assert "details" not in second
    assert "<think>" not in second


def test_a_tour_is_folded_and_its_file_is_linked(look: Look) -> None:
    [page] = look({"say": "Look around, please.", "until": "Try next:", "shot": "open-webui.png"})
    assert in_order(
        page,
        "Thought for",
        "First I look around",
        "View Result from Bash",
        "Now I write a file:",
        "View Result from Write",
        "Done:",
    ), page
    assert in_order(page, "hello.md lies", "Files", "hello.md ·"), page
    assert "Linux" not in page, "what a tool printed is folded"


def test_a_picture_reaches_the_model(look: Look, tmp_path: Path) -> None:
    given = tmp_path / "colours.png"
    given.write_bytes(picture())
    [page] = look(
        {
            "say": "image",
            "files": [str(given)],
            "until": "images:",
            "shot": "open-webui-picture.png",
        }
    )
    assert "image/png" in page


def test_a_document_reaches_the_model_as_its_text(look: Look, tmp_path: Path) -> None:
    """Open WebUI reads documents itself and sends what they say."""
    given = tmp_path / "note.pdf"
    given.write_bytes(document("The code word is pelican."))
    [page] = look(
        {
            "say": "What is the code word?",
            "files": [str(given)],
            "until": "pelican",
            "shot": "open-webui-document.png",
        }
    )
    assert "The code word is pelican." in page
