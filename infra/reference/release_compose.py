"""Makes the compose file of a release: `compose.yaml` without a clone.

`python -m infra.reference.release_compose [--images ghcr.io/agcluster] > compose.yaml`. Images have
the release's version instead of being built. The files that `compose.yaml` mounts from the clone
come out of the image, by way of a volume: an inline config cannot be put into a container with a
read-only root. Everything else stays as it is, with its comments.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.wire.base import VERSION

SOURCE = Path("compose.yaml")
IMAGES = "ghcr.io/agcluster"
_MOUNT = re.compile(r"^      - \./infra/images/[\w.-]+:([\w./-]+):ro$")
_BUILD = re.compile(r"^    build:$")
_INSIDE = re.compile(r"^      ")
_HEAD = """\
# AgCluster {version}, without a clone:
#
#     curl -LO {release}/make-env.sh && sh make-env.sh .env    # fresh secrets, once
#     docker compose up                                        # http://127.0.0.1:8000/v1
#
# Profiles of agents are read from the folder `agents` beside this file.
"""
_CONFIG_SERVICE = """\
  # Ends at once: puts the files of this version where Redis and the balancer read them.
  config:
    <<: [*hardened, *control]
    user: "0:0"
    network_mode: none
    restart: "no"
    entrypoint:
      - python
      - -c
      - >-
        import agcluster, pathlib, shutil;
        files = pathlib.Path(agcluster.code_folder()) / "infra" / "images";
        [shutil.copy(files / name, "/config")
        for name in ("haproxy.cfg", "redis.conf", "users.acl", "start-redis.sh")]
    volumes: ["config:/config"]
"""
_CONFIG_VOLUME = """\
  # What `config` puts there.
  config:
"""
_AFTER_CONFIG = "      config: { condition: service_completed_successfully }"
RELEASES = "https://github.com/agcluster/agcluster/releases/download"


def release_compose(root: Path, *, images: str = IMAGES) -> str:
    """The text of the file. Raises `ValueError` if a file of the clone would still be needed."""
    lines = (root / SOURCE).read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    text = "\n".join(_without_clone(lines[head:])) + "\n"
    text = text.replace("\nservices:\n", f"\nservices:\n{_CONFIG_SERVICE}\n", 1)
    text = text.replace("\nvolumes:\n", f"\nvolumes:\n{_CONFIG_VOLUME}", 1)
    text = _with_images(text, images)
    if left := [line for line in text.splitlines() if "./infra" in line]:
        raise ValueError(f"needs the clone: {left}")
    return _HEAD.format(version=VERSION, release=f"{RELEASES}/v{VERSION}") + text


def _without_clone(lines: Sequence[str]) -> Iterator[str]:
    """The lines without builds, with the volume of files in place of mounts."""
    is_build, folder = False, ""
    for line in lines:
        is_build = bool(_BUILD.match(line)) or (is_build and bool(_INSIDE.match(line)))
        if is_build:
            continue
        if found := _MOUNT.match(line):
            if folder != (folder := found[1].rpartition("/")[0]):
                yield f"      - config:{folder}:ro"
            continue
        if folder:
            yield from ("    depends_on:", _AFTER_CONFIG)
            folder = ""
        yield line


def _with_images(text: str, images: str) -> str:
    agent, control = (f"{images}/agcluster-{name}:v{VERSION}" for name in ("agent", "control"))
    text = text.replace(f"agcluster-control:{VERSION}", control)
    text = text.replace(f"agcluster-agent:{VERSION}", agent)
    text = re.sub(
        r"^    AGCLUSTER_AGENT_IMAGE:$",
        f"    AGCLUSTER_AGENT_IMAGE: ${{AGCLUSTER_AGENT_IMAGE:-{agent}}}",
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(r"^  pull_policy: never.*$", "  pull_policy: missing", text, flags=re.MULTILINE)
    return text.replace("${COMPOSE_AGENTS_DIR:-./infra/agents}", "${COMPOSE_AGENTS_DIR:-./agents}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the file."""
    parser = argparse.ArgumentParser(prog="python -m infra.reference.release_compose")
    parser.add_argument("--images", default=IMAGES, help="where the images are")
    given = parser.parse_args(arguments)
    print(release_compose(Path(), images=given.images), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
