"""What is asked and answered, sealed: opens with the right secret at the right place only."""

from __future__ import annotations

import pytest

from infra.runtime.contents import SealedContents, contents_of
from infra.runtime.settings import SettingsRefused, load_settings
from infra.wire.errors import ContentNotOpened
from infra.wire.events import (
    TextDelta,
    TurnEnded,
    TurnStarted,
    decode_event,
    encode_event,
    is_end,
)
from infra.wire.states import TurnState

SECRET, OTHER = b"s" * 32, b"o" * 32
TEXT = encode_event(TextDelta(text="the patient's name"))


def test_what_is_sealed_opens_again_and_never_looks_the_same() -> None:
    contents = SealedContents(SECRET)
    once, again = (contents.seal(b"the patient's name", "here") for _ in range(2))
    assert once != again
    assert b"patient" not in once
    assert contents.open(once, "here") == contents.open(again, "here") == b"the patient's name"


def test_it_opens_at_its_own_place_only() -> None:
    contents = SealedContents(SECRET)
    with pytest.raises(ContentNotOpened, match="another place"):
        contents.open(contents.seal(b"said", "event turn-1 1"), "event turn-1 2")


def test_another_secret_opens_nothing_and_says_what_to_change() -> None:
    sealed = SealedContents(SECRET).seal(b"said", "here")
    with pytest.raises(ContentNotOpened, match="AGCLUSTER_CONTENT_SECRET"):
        SealedContents(OTHER).open(sealed, "here")


def test_a_renewed_secret_still_opens_what_the_old_one_sealed() -> None:
    sealed = SealedContents(SECRET).seal(b"said", "here")
    renewed = contents_of(f"{OTHER.decode()}, {SECRET.decode()}")
    assert renewed.open(sealed, "here") == b"said"
    with pytest.raises(ContentNotOpened):
        SealedContents(SECRET).open(renewed.seal(b"said", "here"), "here")


def test_a_broken_one_does_not_open() -> None:
    contents = SealedContents(SECRET)
    sealed = contents.seal(b"said", "here")
    other = b"A" if sealed[-8:-7] != b"A" else b"B"
    with pytest.raises(ContentNotOpened):
        contents.open(sealed[:-8] + other + sealed[-7:], "here")


def test_an_events_type_stays_readable_and_nothing_else() -> None:
    contents = SealedContents(SECRET)
    sealed = contents.seal_event(TEXT, "event turn-1 1")
    assert sealed.startswith(b'{"type":"text","sealed":"')
    assert b"patient" not in sealed
    assert contents.open_event(sealed, "event turn-1 1") == TEXT


def test_scripts_can_still_tell_an_end() -> None:
    end = encode_event(TurnEnded(state=TurnState.DONE))
    assert is_end(SealedContents(SECRET).seal_event(end, "end turn-1"))


def test_the_start_is_left_open_for_the_script_that_reads_its_session() -> None:
    started = encode_event(TurnStarted(sdk_session="5f3c", model="claude-test"))
    assert SealedContents(SECRET).seal_event(started, "event turn-1 1") == started


def test_what_was_kept_before_there_was_a_secret_is_still_read() -> None:
    contents = SealedContents(SECRET)
    assert contents.open(b'{"plain":1}', "here") == b'{"plain":1}'
    assert contents.open_event(TEXT, "event turn-1 1") == TEXT
    assert decode_event(contents.open_event(TEXT, "event turn-1 1")) == TextDelta(
        text="the patient's name"
    )


def test_a_digest_is_blinded_by_the_secret_and_keeps_its_length() -> None:
    digest = "0123456789abcdef"
    blinded = SealedContents(SECRET).blind(digest)
    assert blinded != digest
    assert len(blinded) == len(digest)
    assert blinded == SealedContents(SECRET).blind(digest) != SealedContents(OTHER).blind(digest)
    assert SealedContents(SECRET).blind("") == ""


def test_a_short_content_secret_is_refused() -> None:
    with pytest.raises(SettingsRefused, match=r"AGCLUSTER_CONTENT_SECRET: .* 32 characters"):
        load_settings({"AGCLUSTER_CONTENT_SECRET": "x" * 32 + ",short"}, env_file=None)
