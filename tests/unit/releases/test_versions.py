"""The order of versions."""

from __future__ import annotations

import pytest

from infra.releases.versions import version_key


def test_versions_are_in_the_order_of_semantic_versioning() -> None:
    rising = [
        "0.9.9", "1.0.0-1", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2",
        "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "10.0.0",
    ]  # fmt: skip
    keys = [version_key(version) for version in rising]
    assert None not in keys
    assert [key for key in keys if key] == sorted(key for key in keys if key)
    assert len(set(keys)) == len(rising)
    assert version_key("1.0.0+one") == version_key("1.0.0+two")


@pytest.mark.parametrize(
    "version", ["1", "1.0", "01.0.0", "1.0.0-", "1.0.0-a..b", "v1.0.0", "1.0.٣", f"1.0.{10**9}"]
)
def test_anything_else_has_no_order(version: str) -> None:
    assert version_key(version) is None
