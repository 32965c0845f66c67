"""Only what a trusted publisher has signed is read, and nothing that was changed since."""

from __future__ import annotations

import hashlib
import json

import pytest

from infra.releases.keys import PublisherKey
from infra.releases.refused import ReleaseRefused
from infra.releases.release import (
    RELEASE_MAX_BYTES,
    ReleasedContent,
    SignedHeader,
    open_release,
    sign_release,
)
from tests.fakes.releases import ACME, OTHER, PUBLISHERS, release

FILES = {"skills/a/SKILL.md": b"how to", "skills/a/run.sh": b"#!/bin/sh\n"}


def signed_by_hand(manifest: dict[str, object], body: bytes, key: PublisherKey = ACME) -> bytes:
    """What a hostile publisher could write: any manifest, properly signed."""
    text = json.dumps(manifest)
    told = b"AgCluster agent release 1\nacme\n" + text.encode()
    envelope = SignedHeader(publisher="acme", manifest=text, signature=key.sign(told))
    return envelope.model_dump_json().encode() + b"\n" + body


def manifest(*paths: str, body: bytes = b"x", **other: object) -> dict[str, object]:
    digest = hashlib.sha256(body).hexdigest()
    files = [{"path": path, "bytes": len(body), "sha256": digest} for path in paths]
    return {"name": "acme/a", "version": "1.0.0", "files": files, **other}


def test_what_was_signed_is_read_as_it_was_and_made_the_same_again() -> None:
    made = release(files=FILES)
    read = open_release(made.raw, PUBLISHERS)
    assert read.contents == made.contents
    assert (read.manifest.name, read.manifest.version) == ("acme/reviewer", "1.0.0")
    assert release(files=dict(reversed(FILES.items()))).raw == made.raw


def test_a_change_of_any_byte_is_refused() -> None:
    raw = release(files=FILES).raw
    for at in range(0, len(raw), 7):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(ReleaseRefused):
            open_release(changed, PUBLISHERS)
    for changed in (raw + b"x", raw[:-1], b"", raw.replace(b"\n", b" \n", 1)):
        with pytest.raises(ReleaseRefused):
            open_release(changed, PUBLISHERS)


def test_unknown_publishers_other_keys_and_no_signature_are_refused() -> None:
    with pytest.raises(ReleaseRefused, match="not a publisher that this deployment trusts"):
        open_release(release(name="evil/reviewer").raw, PUBLISHERS)
    with pytest.raises(ReleaseRefused, match="the signature is not that of acme"):
        open_release(release(key=OTHER).raw, PUBLISHERS)
    unsigned = json.loads(release().header) | {"signature": ""}
    raw = SignedHeader.model_validate(unsigned).model_dump_json().encode() + b"\n"
    with pytest.raises(ReleaseRefused, match="the signature is not that of acme"):
        open_release(raw, PUBLISHERS)


def test_a_publisher_signs_in_no_other_name() -> None:
    told = manifest("agent.yaml", name="trusted/a")
    with pytest.raises(ReleaseRefused, match="acme has signed it, but it is called trusted/a"):
        open_release(signed_by_hand(told, b"x"), PUBLISHERS)


@pytest.mark.parametrize(
    "path",
    [
        "../agent.yaml",
        "/etc/passwd",
        "skills/../../x",
        "skills//x",
        "skills/./x",
        "skills\\x",
        "C:x",
        "skills/x\0",
        "skills/x\n",
        "skills/ｓkill",
        "skills/sкill",  # A letter of another alphabet that looks like k.
        "skills/x.",
        "skills/ x",
        "a/" * 12 + "x",
        "x" * 241,
    ],
)
def test_a_path_that_leads_elsewhere_or_looks_like_another_is_refused(path: str) -> None:
    paths = sorted(["agent.yaml", path])
    with pytest.raises(ReleaseRefused):
        open_release(signed_by_hand(manifest(*paths), b"xx"), PUBLISHERS)


@pytest.mark.parametrize(
    "paths",
    [
        ("agent.yaml", "agent.yaml"),
        ("README", "agent.yaml", "readme"),
        ("A/x", "a/y", "agent.yaml"),
        ("agent.yaml", "b", "b/c"),
        ("b", "agent.yaml"),
        ("b",),
    ],
)
def test_names_that_stand_twice_or_out_of_order_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(ReleaseRefused):
        open_release(signed_by_hand(manifest(*paths), b"x" * len(paths)), PUBLISHERS)


def test_a_release_takes_no_more_than_it_is_long() -> None:
    with pytest.raises(ReleaseRefused, match="larger than"):
        open_release(b"x" * (RELEASE_MAX_BYTES + 1), PUBLISHERS)
    with pytest.raises(ReleaseRefused):
        sign_release(
            name="acme/a",
            version="1.0.0",
            description="",
            contents={"agent.yaml": ReleasedContent(b"x" * RELEASE_MAX_BYTES)},
            key=ACME,
        )
    many = [f"f{n:04d}" for n in range(600)]
    with pytest.raises(ReleaseRefused, match="files"):
        open_release(signed_by_hand(manifest("agent.yaml", *many), b"x" * 601), PUBLISHERS)
    large = manifest("agent.yaml")
    large["files"] = [{"path": "agent.yaml", "bytes": 2**40, "sha256": "0" * 64}]
    with pytest.raises(ReleaseRefused, match="bytes"):
        open_release(signed_by_hand(large, b"x"), PUBLISHERS)


@pytest.mark.parametrize("version", ["1.0", "1.0.0+x", "v1.0.0", "1.0.0 ", "latest", "1.0.٣", ""])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ReleaseRefused):
        open_release(signed_by_hand(manifest("agent.yaml", version=version), b"x"), PUBLISHERS)


@pytest.mark.parametrize("name", ["acme/Reviewer", "acme/rеviewer", "acme", "acme/a/b", "acme/.a"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ReleaseRefused):
        open_release(signed_by_hand(manifest("agent.yaml", name=name), b"x"), PUBLISHERS)


def test_what_this_version_does_not_know_is_refused() -> None:
    for odd in ({"format": 2}, {"hooks": ["x"]}):
        with pytest.raises(ReleaseRefused, match="not a release of this version"):
            open_release(signed_by_hand(manifest("agent.yaml", **odd), b"x"), PUBLISHERS)
