"""There is one version, in `infra/wire/base.py`."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from infra.runtime.settings import Settings
from infra.wire.base import VERSION

ROOT = Path(__file__).parents[3]


def test_what_is_installed_has_that_version() -> None:
    assert importlib.metadata.version("agcluster") == VERSION
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    read = project["tool"]["setuptools"]["dynamic"]["version"]
    assert read == {"attr": "infra.wire.base.VERSION"}


def test_no_program_writes_it_again() -> None:
    said = [
        str(path.relative_to(ROOT))
        for program in ("api", "worker", "agent", "infra")
        for path in (ROOT / program).rglob("*.py")
        if VERSION in path.read_text()
    ]
    assert said == ["infra/wire/base.py"]


def test_images_and_the_compose_file_are_of_that_version() -> None:
    assert Settings.model_fields["agent_image"].default == f"agcluster-agent:{VERSION}"
    for name in ("Makefile", "compose.yaml"):
        tags = re.findall(r"agcluster-(?:agent|control):([\d.]+)", (ROOT / name).read_text())
        assert set(tags) == {VERSION}, name
