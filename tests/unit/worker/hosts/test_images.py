"""When the agent's image is built, and from what."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.wire.errors import ContainerFailed
from worker.hosts.docker.images import DOCKERFILE, LOCK, BuildContext, build, digest, project_root


class FakeImages:
    """Images that only remember what they were built from."""

    def __init__(self, present: dict[str, str] | None = None) -> None:
        self.present = present or {}

    def sources(self, tag: str) -> str | None:
        return self.present.get(tag)

    def building(
        self, context: bytes, *, tag: str, dockerfile: str, base: str, sources: str
    ) -> Iterator[str]:
        yield f"Step 1/9 : FROM {base}"
        self.present[tag] = sources


class BrokenImages(FakeImages):
    """A builder that fails at its first step."""

    def building(
        self, context: bytes, *, tag: str, dockerfile: str, base: str, sources: str
    ) -> Iterator[str]:
        raise ContainerFailed("no such base image")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project as small as the image's sources can be."""
    for name in ("agent/main.py", "infra/__init__.py", "infra/wire/base.py", DOCKERFILE, LOCK):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


def _build(images: FakeImages, root: Path, *, if_missing: bool = True) -> list[str]:
    return list(build(images, tag="t:1", base="base:1", if_missing=if_missing, root=root))


def test_only_what_the_image_needs_is_sent_to_the_builder(root: Path) -> None:
    for name in (".env", "worker/main.py", "infra/store/keys.py", "agent/__pycache__/main.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")

    with tarfile.open(fileobj=io.BytesIO(BuildContext(root).archive())) as archive:
        names = archive.getnames()

    assert names == ["agent/main.py", "infra/__init__.py", DOCKERFILE, LOCK, "infra/wire/base.py"]


def test_the_same_sources_give_the_same_context(root: Path) -> None:
    before = digest(BuildContext(root).archive(), "base:1")
    (root / "agent/main.py").touch()
    assert digest(BuildContext(root).archive(), "base:1") == before
    assert digest(BuildContext(root).archive(), "base:2") != before


def test_a_missing_image_is_built_and_then_found(root: Path) -> None:
    images = FakeImages()

    assert any("Step 1/9" in line for line in _build(images, root))
    assert _build(images, root) == ["image t:1 is there"]


def test_changed_sources_are_built_again(root: Path) -> None:
    images = FakeImages()
    _build(images, root)

    (root / "agent/main.py").write_text("# newer\n")

    assert _build(images, root)[-1] == "image t:1 is ready"


def test_an_image_built_in_another_way_is_left_alone_unless_asked(root: Path) -> None:
    images = FakeImages({"t:1": ""})

    assert _build(images, root) == ["image t:1 is there"]
    assert _build(images, root, if_missing=False)[-1] == "image t:1 is ready"


def test_a_failed_build_says_why(root: Path) -> None:
    with pytest.raises(ContainerFailed, match="no such base image"):
        _build(BrokenImages(), root)


def test_the_real_context_holds_the_contract_and_the_dockerfile() -> None:
    files = set(BuildContext(project_root()).files())

    assert {DOCKERFILE, "infra/wire/link.py", "agent/__init__.py"} <= files
    assert not any(name.startswith(("infra/store", "worker", "api")) for name in files)
