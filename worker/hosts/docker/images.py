"""Builds the agents' image: `python -m worker.hosts.docker.images [--if-missing] [--tag T]
[--base-image B]`.

`agcluster up` runs it before the worker if Docker is the isolation. The build context is created in
memory from what the image needs (`agent/`, `infra/wire/`, the Dockerfile), so it works from a clone
and from an installed package, and no other file of the machine can get in. The image is labelled
with a digest of that context: `--if-missing` builds again if the sources have changed, and does not
touch an image that was built in another way.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import infra
from infra.runtime.console import complain, tell
from infra.runtime.settings import SettingsRefused, load_settings
from infra.wire.errors import ContainerFailed
from worker.hosts.docker.engine import ImageStore

DOCKERFILE = "infra/images/agent.Dockerfile"
_FOLDERS = ("agent", "infra/wire")
LOCK = "infra/images/agent.requirements.txt"
_FILES = ("infra/__init__.py", DOCKERFILE, LOCK)


class Images(Protocol):
    """An image store: the engine's, or a fake in tests."""

    def sources(self, tag: str) -> str | None:
        """The digest of what the image was built from (empty: not built by us); None if there is no
        such image."""
        ...

    def building(
        self, context: bytes, *, tag: str, dockerfile: str, base: str, sources: str
    ) -> Iterator[str]:
        """Build and tag an image; yields the builder's lines. Raises `ContainerFailed`."""
        ...


class BuildContext:
    """The files from which an image is built; the same sources give the same bytes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> Iterator[str]:
        """Paths below the root, in order. Only sources, because caches would change the digest."""
        found = set(_FILES)
        for folder in _FOLDERS:
            for path in (self._root / folder).rglob("*"):
                if path.is_file() and path.suffix != ".pyc":
                    found.add(path.relative_to(self._root).as_posix())
        yield from sorted(found)

    def archive(self) -> bytes:
        """The context as a tar archive, without owners and times."""
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w") as archive:
            for name in self.files():
                content = (self._root / name).read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o644
                archive.addfile(entry, io.BytesIO(content))
        return output.getvalue()


def project_root() -> Path:
    """The folder that contains `agent/` and `infra/`: a clone, or the folder of installed
    packages."""
    return Path(infra.__file__).resolve().parents[1]


def digest(context: bytes, base: str) -> str:
    """Identifies what an image was built from."""
    return hashlib.sha256(base.encode() + b"\0" + context).hexdigest()[:16]


def build(
    store: Images, *, tag: str, base: str, if_missing: bool, root: Path | None = None
) -> Iterator[str]:
    """Build the image if necessary; yields lines for people. Raises `ContainerFailed`."""
    context = BuildContext(root or project_root()).archive()
    sources = digest(context, base)
    present = store.sources(tag)
    if if_missing and present is not None and present in ("", sources):
        yield f"image {tag} is there"
        return
    yield f"building image {tag} from {base} (once; a minute or two)"
    yield from store.building(context, tag=tag, dockerfile=DOCKERFILE, base=base, sources=sources)
    yield f"image {tag} is ready"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if the image exists at the end."""
    try:
        settings = load_settings()
    except SettingsRefused as error:
        complain(str(error))
        return 2
    parser = argparse.ArgumentParser(
        prog="python -m worker.hosts.docker.images", description=build.__doc__
    )
    parser.add_argument("--tag", default=settings.agent_image)
    parser.add_argument("--base-image", default=settings.base_image)
    parser.add_argument("--if-missing", action="store_true", help="only when it is not there")
    chosen = parser.parse_args(arguments)
    store = ImageStore()
    try:
        for line in build(
            store, tag=chosen.tag, base=chosen.base_image, if_missing=chosen.if_missing
        ):
            tell(line)
    except ContainerFailed as error:
        complain(str(error))
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
