"""The files of a deployment, read by the programs they are for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.deployments import wait_until
from tests.parts import AGENT_IMAGE, CONTROL_IMAGE, THIRD_PARTY_IMAGES, need

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


def config_hashes(**settings: str) -> dict[str, str]:
    """What Compose tells by whether a service has to be made anew."""
    given = {"AGCLUSTER_SECRET": "s" * 64, "REDIS_API_PASSWORD": "a", "REDIS_WORKER_PASSWORD": "w"}
    command = ("docker", "compose", "--env-file", "/dev/null", "config", "--hash", "*")
    done = run(*command, environ=given | settings)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.compose
@pytest.mark.parametrize(
    ("setting", "readers"),
    [
        ("AGCLUSTER_PING_INTERVAL_S=9", {"api"}),
        ("AGCLUSTER_SLOTS=9", {"worker"}),
        ("AGCLUSTER_EGRESS_IDLE_TIMEOUT_S=99", {"gateway"}),
        ("AGCLUSTER_CONTAINER_PIDS=99", {"worker", "engine-proxy"}),
        ("AGCLUSTER_MODELS=claude-test", {"api", "worker", "gateway"}),
        # Where browsers reach it is in the API's links.
        ("AGCLUSTER_PORT=8099", {"api", "balancer"}),
    ],
)
def test_a_changed_setting_changes_the_services_that_read_it(
    setting: str, readers: set[str]
) -> None:
    """All settings went to all services, so each change restarted everything."""
    need("compose")
    before, after = config_hashes(), config_hashes(**dict([setting.split("=")]))
    assert {service for service in before if before[service] != after[service]} == readers


def speaks(url: str) -> bool:
    try:
        return httpx.get(url).status_code > 0
    except httpx.TransportError:
        return False


@pytest.mark.compose
def test_the_balancer_without_a_ready_replica_answers_as_the_api_would() -> None:
    """HAProxy's own 503 is a page of HTML that no client understands."""
    need("compose")
    place = f"{IMAGES / 'haproxy.cfg'}:/haproxy.cfg:ro"
    balancer = run(
        *("docker", "run", "-d", "--rm", "-p", "127.0.0.1::8000", "-v", place),
        *("--entrypoint", "haproxy", THIRD_PARTY_IMAGES[1], "-W", "-db", "-f", "/haproxy.cfg"),
    ).stdout.strip()
    try:
        address = run("docker", "port", balancer, "8000").stdout.split()[0]
        wait_until("the balancer", lambda: speaks(f"http://{address}"), 20)
        answer = httpx.post(f"http://{address}/v1/chat/completions", json={})
        client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.InternalServerError) as refused:
            client.models.list()
    finally:
        run("docker", "kill", balancer)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert refused.value.code == "service_unavailable"
    assert refused.value.type == "api_error"


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
    base = "ARG BASE_IMAGE=python:3.11-slim-bookworm\nFROM ${BASE_IMAGE}\n"
    on_ours = "ARG AGENT_IMAGE=agcluster-agent:0.1.0\nFROM ${AGENT_IMAGE}\n"
    assert base in text or on_ours in text
    instructions = [line for line in text.splitlines() if not line.startswith("#")]
    for too_new in ("--mount", "--link", "--chmod", "<<"):
        assert not any(too_new in line for line in instructions), too_new
    assert not text.lower().startswith("# syntax")
