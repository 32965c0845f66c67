"""What a file is, by its bytes, whatever its sender says."""

from __future__ import annotations

import pytest

from infra.wire.files.kinds import HEAD_BYTES, ending_for, media_type_of

PNG = b"\x89PNG\r\n\x1a\n...."
CASES = [
    (PNG, "text/html", "a.html", "image/png"),
    (b"\xff\xd8\xff\xe0", "", "a.png", "image/jpeg"),
    (b"RIFF\0\0\0\0WEBPVP8 ", "audio/wav", "a.wav", "image/webp"),
    (b"%PDF-1.7", "", "", "application/pdf"),
    # A type that a model reads has to be in the bytes.
    (b"MZ\x90\0\xff", "image/png", "a.png", "application/octet-stream"),
    (b"no document", "application/pdf", "a.pdf", "text/plain"),
    (b"\xff\xfe\0binary", "text/plain", "a.txt", "application/octet-stream"),
    # Of the others nobody checks the words.
    (b"PK\x03\x04\xff", "application/msword", "a.docx", "application/msword"),
    (b"RIFF\0\0\0\0WAVE", "audio/wav", "", "audio/wav"),
    (b"a;b", "text/csv; charset=utf-8", "a.csv", "text/csv"),
    (b"a;b", "", "a.csv", "text/csv"),
    (b"a;b", "sk-ant-a-key", "", "text/plain"),
    (b"", "", "", "text/plain"),
]


@pytest.mark.parametrize(("head", "said", "name", "media_type"), CASES)
def test_a_type_that_models_read_is_in_the_bytes(
    head: bytes, said: str, name: str, media_type: str
) -> None:
    assert media_type_of(head, said=said, name=name) == media_type


def test_a_head_may_end_within_a_character() -> None:
    head = ("x" * (HEAD_BYTES - 1) + "ö").encode()[:HEAD_BYTES]
    assert media_type_of(head) == "text/plain"
    assert media_type_of(head[:100] + b"\xc3") == "application/octet-stream"


def test_an_ending_is_the_same_on_each_machine() -> None:
    assert ending_for("image/png") == ".png"
    assert ending_for("made/up") == ".bin"
