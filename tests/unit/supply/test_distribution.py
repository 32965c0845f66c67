"""What is published: the package's description, the workflows, a release's compose file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from infra.reference.release_compose import release_compose
from infra.wire.base import VERSION

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ISSUE_FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def run(*command: str | Path) -> str:
    """What a program says; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pyproject_keeps_its_specification() -> None:
    assert "Valid" in run("validate_pyproject", ROOT / "pyproject.toml")


def test_the_package_says_where_it_comes_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["urls"]) == {"Source", "Documentation", "Changelog", "Issues"}
    source = project["urls"]["Source"]
    assert all(url.startswith((source, "https://agcluster.")) for url in project["urls"].values())
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(project["classifiers"])
    site = (ROOT / "mkdocs.yml").read_text()
    assert f"repository: {source}\n" in site


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_keeps_its_schema_and_gets_no_more_than_it_needs(workflow: Path) -> None:
    run("check_jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)
    told = yaml.safe_load(workflow.read_text())
    assert told["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in told["jobs"].values())


def test_an_attacker_finds_nothing_to_use_in_the_workflows() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")
    found = subprocess.run(
        [zizmor, "--offline", "--no-progress", "--config", ".github/zizmor.yml", ".github"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert found.returncode == 0, found.stdout


def test_workflows_call_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        target
        for workflow in WORKFLOWS
        for line in re.findall(r"run: make (.*)", workflow.read_text())
        for target in line.split()
    }
    assert called
    assert called <= targets


def test_dependabot_is_told_by_its_schema() -> None:
    run(
        "check_jsonschema", "--builtin-schema", "vendor.dependabot", ROOT / ".github/dependabot.yml"
    )


@pytest.mark.parametrize("form", ISSUE_FORMS, ids=lambda path: path.name)
def test_an_issue_form_keeps_its_schema(form: Path) -> None:
    kind = "config" if form.name == "config.yml" else "forms"
    run("check_jsonschema", "--builtin-schema", f"vendor.github-issue-{kind}", form)


def test_vulnerabilities_are_led_to_the_private_form() -> None:
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    private = f"{source}/security/advisories/new"
    told = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text())
    assert [link["url"] for link in told["contact_links"]] == [private]
    assert f"({private})" in (ROOT / "SECURITY.md").read_text()


def test_the_badges_are_true() -> None:
    readme = (ROOT / "README.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (workflow,) = set(re.findall(r"actions/workflows/([a-z.]+)", readme))
    assert ROOT / ".github" / "workflows" / workflow in WORKFLOWS
    least = project["requires-python"].removeprefix(">=")
    assert f"badge/python-{least}%2B-" in readme
    assert f"badge/licence-{project['license']}-" in readme


def test_a_releases_compose_file_needs_nothing_of_the_clone() -> None:
    told = yaml.safe_load(release_compose(ROOT, images="registry.example/us"))
    services = told["services"]
    assert [name for name, service in services.items() if "build" in service] == []
    images = {service.get("image") for service in services.values()}
    assert f"${{CONTROL_IMAGE:-registry.example/us/agcluster-control:v{VERSION}}}" in images
    assert f"${{AGCLUSTER_AGENT_IMAGE:-registry.example/us/agcluster-agent:v{VERSION}}}" in images
    for name in ("redis", "balancer"):
        assert "config" in services[name]["depends_on"]
    for program in ("worker", "engine-proxy"):
        assert "registry.example" in services[program]["environment"]["AGCLUSTER_AGENT_IMAGE"]


def test_a_file_of_the_clone_that_is_left_is_an_error(tmp_path: Path) -> None:
    text = (ROOT / "compose.yaml").read_text()
    (tmp_path / "compose.yaml").write_text(text + "\nx-more: ./infra/images/more\n")
    with pytest.raises(ValueError, match="needs the clone"):
        release_compose(tmp_path)


@pytest.mark.compose
def test_compose_takes_the_file_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(release_compose(ROOT))
    shutil.copy(ROOT / "infra" / "images" / "make-env.sh", tmp_path)
    subprocess.run(["sh", "make-env.sh", ".env"], cwd=tmp_path, check=True, timeout=20)
    command = ["docker", "compose", "--profile", "*", "config", "-q"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=40
    )
    assert done.returncode == 0, done.stderr
