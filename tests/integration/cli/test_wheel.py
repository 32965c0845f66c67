"""What a person installs who has no clone: the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.cli.up_process import Start, ask

ROOT = Path(__file__).parents[3]
PARTS = ("api", "worker", "agent", "infra")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packed, because a build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        shutil.copytree(
            ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def wheel_of(source: Path, folder: Path) -> Path:
    """Build the wheel of a folder or of an sdist into `folder`."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, source], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    return wheel_of(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, as `site-packages` has them."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def test_it_takes_one_name_and_has_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if not name.endswith("/")}
    told = {name.split("/")[0] for name in names}
    assert {name for name in told if not name.endswith(".dist-info")} == {"agcluster"}
    wanted = {
        f"agcluster/{path.relative_to(ROOT)}"
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = {name.replace("infra/package/", "") for name in wanted}
    assert own - names == set()


def test_it_tells_an_index_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith("/METADATA"))
        told = packed.read(name).decode()
    assert "Project-URL: Source, https://" in told
    assert "Classifier: Typing :: Typed" in told
    assert "Keywords: " in told
    assert "# AgCluster" in told, "the README is its description"


def test_the_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, tmp_path],
        cwd=source,
        capture_output=True,
        check=True,
        timeout=120,
    )
    (sdist,) = tmp_path.glob("agcluster-*.tar.gz")
    with zipfile.ZipFile(wheel_of(sdist, tmp_path)) as again, zipfile.ZipFile(wheel) as first:
        assert set(again.namelist()) == set(first.namelist())


@pytest.mark.bwrap
@pytest.mark.redis
@pytest.mark.sdk
def test_it_runs_beside_a_persons_own_api(start: Start, installed: Path, folder: Path) -> None:
    """Even if they have packages of our folders' names in their environment."""
    theirs = folder / "theirs"
    for name in ("api", "infra", "worker", "agent"):
        (theirs / name).mkdir(parents=True)
        (theirs / name / "__init__.py").write_text("raise RuntimeError('not yours')")
    code = {"PYTHONPATH": f"{theirs}:{installed}"}
    command = (sys.executable, "-m", "agcluster")
    up = start("--demo", command=command, **code)
    up.wait_ready()
    answer = ask(up, "What can you do?")
    assert answer.status_code == 200, up.said()
    assert all(str(installed).encode() in line for line in up.commands()), up.commands()
