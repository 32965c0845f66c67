"""What the images install: pinned, with hashes, and listed with a licence that may be shipped."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.reference.licenses import IMAGES, SHIPPED, is_allowed, licences_of, pinned

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = {
    "agent": PROJECT["project"]["optional-dependencies"]["agent"],
    "analyst": PROJECT["project"]["optional-dependencies"]["analyst"],
    "control": PROJECT["project"]["dependencies"]
    + PROJECT["project"]["optional-dependencies"]["a2a"],
    "build": PROJECT["build-system"]["requires"],
}


@pytest.mark.parametrize("image", WANTED)
def test_an_image_installs_what_the_project_asks_for(image: str) -> None:
    """Fails when pyproject.toml has changed since: `make lock`."""
    have = pinned(image)
    for wanted in map(Requirement, WANTED[image]):
        version = have.get(canonicalize_name(wanted.name))
        assert version is not None, wanted
        assert wanted.specifier.contains(version, prereleases=True), wanted


@pytest.mark.parametrize("image", WANTED)
def test_every_package_is_pinned_with_hashes_and_no_line_says_where_to_get_it(image: str) -> None:
    text = (IMAGES / f"{image}.requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(
            r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+( ; [^\\]+)? \\"
            r"|    --hash=sha256:[0-9a-f]{64}( \\)?",
            line,
        ), line
    assert text.count("==") == len(re.findall(r"==.*\\\n    --hash", text))
    assert "://" not in text


@pytest.mark.parametrize("image", ["agent", "analyst", "control"])
def test_an_image_takes_nothing_that_was_not_pinned(image: str) -> None:
    text = (IMAGES / f"{image}.Dockerfile").read_text().replace("\\\n", " ")
    for line in re.findall(r"pip install .*?(?= && |\n)", text):
        assert "--require-hashes" in line or "--no-index" in line, line


def test_every_package_has_a_licence_that_may_be_shipped() -> None:
    """Fails for a list that is not of now: `make licenses`."""
    listed = licences_of((ROOT / "docs" / "reference" / "licenses.md").read_text())
    assert set(listed) == set().union(*(pinned(image) for image in SHIPPED))
    assert {name: licence for name, licence in listed.items() if not is_allowed(licence)} == {}


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-2.0-only", False),
        ("UNKNOWN", False),
    ],
)
def test_a_licence_is_judged_by_its_choices(licence: str, may: bool) -> None:
    assert is_allowed(licence) is may
