"""The files of a deployment, read by the programs they are for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.parts import AGENT_IMAGE, CONTROL_IMAGE, need

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "infra" / "images"


def run(*command: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=os.environ | (environ or {}),
    )


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    made = tmp_path / ".env"
    done = run("sh", str(IMAGES / "make-env.sh"), str(made))
    assert done.returncode == 0, done.stderr
    return made


def test_a_fresh_env_has_secrets_of_its_own_and_is_not_overwritten(env_file: Path) -> None:
    lines = dict(
        line.split("=", 1) for line in env_file.read_text().splitlines() if line[:1].isupper()
    )
    secrets = [lines[name] for name in lines if name.endswith(("SECRET", "PASSWORD"))]
    assert len(set(secrets)) == 4
    assert all(len(secret) == 64 for secret in secrets)
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert run("sh", str(IMAGES / "make-env.sh"), str(env_file)).returncode == 1


@pytest.mark.compose
def test_compose_takes_the_file(env_file: Path) -> None:
    need("compose")
    done = run(
        "docker", "compose", "--env-file", str(env_file), "--profile", "demo", "config", "-q"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.compose
def test_compose_without_secrets_says_how_to_make_them(tmp_path: Path) -> None:
    need("compose")
    empty = tmp_path / "empty"
    empty.write_text("")
    done = run("docker", "compose", "--env-file", str(empty), "config", "-q")
    assert done.returncode != 0
    assert "make env" in done.stderr


@pytest.mark.compose
@pytest.mark.parametrize("image", [AGENT_IMAGE, CONTROL_IMAGE])
def test_images_run_as_an_ordinary_user_and_hold_no_program_that_would_change_that(
    image: str,
) -> None:
    need("compose")
    search = "id -u; find / -xdev -type f -perm /6000 2>/dev/null"
    done = run(
        *("docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", search)
    )
    assert done.stdout.split() == ["1000"]


def test_make_says_what_there_is() -> None:
    done = run("make", "-s", "help")
    assert done.returncode == 0, done.stderr
    for target in ("run", "test", "check", "image", "bench", "docs", "clean"):
        assert f"make {target} " in done.stdout


@pytest.mark.parametrize("dockerfile", sorted(IMAGES.rglob("*Dockerfile")), ids=lambda p: p.name)
def test_dockerfiles_build_with_old_builders_and_without_a_registry(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm\nFROM ${BASE_IMAGE}\n" in text
    instructions = [line for line in text.splitlines() if not line.startswith("#")]
    for too_new in ("--mount", "--link", "--chmod", "<<"):
        assert not any(too_new in line for line in instructions), too_new
    assert not text.lower().startswith("# syntax")
