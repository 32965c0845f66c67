"""An earlier conversation becomes a transcript with its roles."""

from __future__ import annotations

from typing import Any

from agent.memory.history import content_of, messages_of, transcript_of
from infra.wire.model.upstream import OPENING
from infra.wire.turns import DocumentBlock, HistoryMessage, ImageBlock, TextBlock


def said(role: Any, *texts: str) -> HistoryMessage:
    return HistoryMessage(role=role, content=tuple(TextBlock(text=text) for text in texts))


def entries_of(*history: HistoryMessage) -> list[dict[str, Any]]:
    return transcript_of(
        messages_of(history),
        session="s",
        cwd="/workspace",
        model="m",
        timestamp="2026-01-01T00:00:00.000Z",
    )


def test_roles_are_kept_and_entries_form_a_chain() -> None:
    entries = entries_of(said("user", "a"), said("assistant", "b"), said("user", "c"))
    assert [entry["type"] for entry in entries] == ["user", "assistant", "user"]
    assert [entry["parentUuid"] for entry in entries] == [
        None,
        entries[0]["uuid"],
        entries[1]["uuid"],
    ]
    assert {entry["sessionId"] for entry in entries} == {"s"}
    assert entries[1]["message"]["content"] == [{"type": "text", "text": "b"}]


def test_neighbours_of_one_role_are_joined_and_empty_ones_left_out() -> None:
    entries = entries_of(said("user", "a", " "), said("assistant", ""), said("user", "b"))
    assert [entry["message"]["content"] for entry in entries] == [
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ]


def test_a_history_that_begins_with_the_assistant_gets_an_opening() -> None:
    entries = entries_of(said("assistant", "welcome"))
    assert entries[0]["message"]["content"][0]["text"] == OPENING
    assert entries[1]["type"] == "assistant"


def test_a_history_that_says_nothing_is_none() -> None:
    assert entries_of(said("user", " "), said("assistant")) == []


def test_an_assistant_says_text_only() -> None:
    image = ImageBlock(media_type="image/png", data="AAAA")
    message = HistoryMessage(role="assistant", content=(TextBlock(text="see"), image))
    assert entries_of(said("user", "a"), message)[1]["message"]["content"] == [
        {"type": "text", "text": "see"}
    ]


def test_images_and_documents_keep_their_bytes() -> None:
    blocks = (
        ImageBlock(media_type="image/png", data="AAAA"),
        DocumentBlock(media_type="application/pdf", data="BBBB"),
        DocumentBlock(media_type="application/pdf", data="CCCC", filename="c.pdf"),
    )
    image, plain, named = content_of(blocks)
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert "title" not in plain
    assert named["title"] == "c.pdf"
