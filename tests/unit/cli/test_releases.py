"""An agent goes from one folder through the registry into another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.cli.main import app
from infra.profiles.installed import InstalledFolder
from infra.profiles.shipped import read_agents
from infra.releases.keys import TrustedPublishers
from tests.fakes.releases import policy

Run = Callable[..., Result]

REVIEWER = "extends: base\ndescription: Reads patches.\nsystem_prompt: {file: prompt.md}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, in a deployment whose publisher `acme` is trusted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGCLUSTER_DATA_DIR", str(tmp_path / "data"))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    (ours / "base.yaml").write_text("tools: [Read, Grep]\nquestions: true\n")
    (ours / "reviewer.yaml").write_text(REVIEWER)
    (ours / "prompt.md").write_text("You review.\n")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, [str(one) for one in arguments])

    shown = invoke("agents", "key", "new", "acme.pem").output
    monkeypatch.setenv("AGCLUSTER_AGENT_PUBLISHERS", f"acme={shown.strip().rpartition('=')[2]}")
    return invoke


def publish(run: Run, version: str = "1.0.0", *more: str) -> Result:
    signing = ("--publisher", "acme", "--key", "acme.pem", "--version", version)
    return run("agents", "publish", "reviewer", *signing, "--dir", "ours", *more)


def good(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def test_an_agent_is_published_found_installed_updated_and_uninstalled(
    run: Run, tmp_path: Path
) -> None:
    good(publish(run))
    good(publish(run))
    assert "acme/reviewer  1.0.0" in good(run("agents", "search", "REV"))
    shown = run("agents", "install", "acme/reviewer", "--dir", "theirs")
    assert shown.exit_code == 2
    assert "tools: Read, Grep" in shown.output
    assert "asks its user" in shown.output
    assert not list((tmp_path / "theirs").iterdir()), "nothing before it was confirmed"
    good(run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes"))
    assert "acme/reviewer 1.0.0" in good(run("agents", "list", "--dir", "theirs"))
    [told] = json.loads(good(run("agents", "list", "--dir", "theirs", "--json"))).values()
    assert told["system_prompt"] == {"text": "You review.\n"}
    assert told["installed"]["publisher"] == "acme"
    (tmp_path / "ours/prompt.md").write_text("You review well.\n")
    refused = publish(run)
    assert refused.exit_code == 1
    assert "a version never changes" in refused.output
    good(publish(run, "1.1.0"))
    good(run("agents", "update", "--dir", "theirs", "--yes"))
    assert "is the latest" in good(run("agents", "update", "reviewer", "--dir", "theirs"))
    older = run("agents", "install", "acme/reviewer@1.0.0", "--dir", "theirs", "--yes")
    assert "1.1.0 is installed, and 1.0.0 is older" in older.output
    assert older.exit_code == 1
    good(run("agents", "uninstall", "reviewer", "--dir", "theirs"))
    assert run("agents", "uninstall", "reviewer", "--dir", "theirs").exit_code == 1


def test_a_key_that_is_not_trusted_publishes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    good(run("agents", "key", "new", "other.pem"))
    signing = ("--publisher", "acme", "--key", "other.pem", "--version", "1.0.0", "--dir", "ours")
    assert "not one of acme's here" in run("agents", "publish", "reviewer", *signing).output
    good(run("agents", "publish", "reviewer", *signing, "--output", "a.release"))
    refused = run("agents", "install", "a.release", "--dir", "theirs", "--yes")
    assert refused.exit_code == 1
    assert "the signature is not that of acme" in refused.output
    assert run("agents", "key", "new", "other.pem").exit_code == 1, "a key is never overwritten"


def test_a_file_is_installed_as_well_and_what_is_in_the_way_is_said(
    run: Run, tmp_path: Path
) -> None:
    good(publish(run, "1.0.0", "--output", "a.release"))
    (tmp_path / "theirs/reviewer.yaml").write_text("description: Their own.\n")
    taken = run("agents", "install", "a.release", "--dir", "theirs", "--yes")
    assert "there is an agent reviewer of your own" in taken.output
    good(run("agents", "install", "a.release", "--dir", "theirs", "--yes", "--as", "other"))
    for odd in ("../evil", "UPPER", ".hidden"):
        named = ("--dir", "theirs", "--yes", "--as", odd)
        assert run("agents", "install", "a.release", *named).exit_code == 1
        assert run("agents", "uninstall", odd, "--dir", "theirs").exit_code == 1
    changed = (tmp_path / "a.release").read_bytes().replace(b"Grep", b"Bash")
    (tmp_path / "b.release").write_bytes(changed)
    assert run("agents", "install", "b.release", "--dir", "theirs", "--yes").exit_code == 1


def test_who_may_see_it_is_kept_when_it_is_installed(run: Run, tmp_path: Path) -> None:
    good(publish(run, "1.0.0", "--tenant", "1" * 20))
    good(run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes"))
    installed = InstalledFolder(
        tmp_path / "theirs", publishers=TrustedPublishers({}), policy=policy()
    ).mark_of("reviewer")
    assert installed is not None
    assert installed.tenants == ("1" * 20,)
    assert run("agents", "publish", "reviewer", "--tenant", "no").exit_code != 0


def test_a_withdrawn_version_is_not_installed(run: Run) -> None:
    good(publish(run))
    good(run("agents", "withdraw", "acme/reviewer@1.0.0", "--reason", "It was wrong."))
    gone = run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes")
    assert gone.exit_code == 1
    assert "the registry has no acme/reviewer" in gone.output


def test_a_right_that_the_policy_does_not_give_stops_the_installation(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good(publish(run))
    monkeypatch.setenv("AGCLUSTER_INSTALLED_AGENTS_TOOLS", "Read")
    refused = run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes")
    assert refused.exit_code == 1
    assert "tools: Grep not allowed (AGCLUSTER_INSTALLED_AGENTS_TOOLS)" in refused.output
    assert not list((tmp_path / "theirs").rglob("*.yaml"))


def test_skills_and_files_go_with_it_and_are_the_same_there(run: Run, tmp_path: Path) -> None:
    skill = tmp_path / "ours/of/many/diffs"
    (skill / "tools").mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: diffs\ndescription: Reads diffs.\n---\nDo.\n")
    (skill / "tools/run.sh").write_text("#!/bin/sh\n")
    (skill / "tools/run.sh").chmod(0o755)
    (tmp_path / "ours/start").mkdir()
    (tmp_path / "ours/start/notes.md").write_text("Notes.\n")
    with (tmp_path / "ours/reviewer.yaml").open("a") as file:
        file.write("skills: [of/many/diffs]\nworkspace: start\n")
    good(publish(run))
    shown = good(run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes"))
    assert "skills: diffs" in shown
    assert "puts files of its own into a new workspace" in shown
    [theirs] = json.loads(good(run("agents", "list", "--dir", "theirs", "--json"))).values()
    ours = read_agents(tmp_path / "ours").profiles["reviewer"]
    assert ours.bundle is not None
    assert theirs["bundle"] == ours.bundle, "the same bytes, modes and all"
    run_sh = next((tmp_path / "theirs/installed").rglob("run.sh"))
    run_sh.chmod(0o644)
    assert "its mode was changed" in run("agents", "list", "--dir", "theirs").output
    invalid = run("agents", "validate", "--dir", "theirs")
    assert invalid.exit_code == 1
    assert "its mode was changed" in invalid.output


def test_a_description_forges_no_line_of_what_is_shown(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ours/reviewer.yaml"
    file.write_text(file.read_text().replace("Reads patches.", '"Good.\\n  tools: none\\e[2J"'))
    good(publish(run))
    shown = good(run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes"))
    assert [line for line in shown.splitlines() if line.startswith("  tools:")] == [
        "  tools: Read, Grep"
    ]
    assert "\x1b" not in shown


def test_an_update_says_what_it_may_do_that_it_could_not_before(run: Run, tmp_path: Path) -> None:
    good(publish(run))
    good(run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes"))
    base = tmp_path / "ours/base.yaml"
    base.write_text(base.read_text().replace("Grep", "Bash"))
    good(publish(run, "1.1.0"))
    shown = good(run("agents", "update", "reviewer", "--dir", "theirs", "--yes"))
    assert [line for line in shown.splitlines() if line.startswith("+ ")] == ["+ tools: Read, Bash"]


def test_an_agent_that_cannot_be_updated_does_not_keep_others_from_it(
    run: Run, tmp_path: Path
) -> None:
    good(publish(run, "1.0.0", "--output", "alone.release"))
    good(run("agents", "install", "alone.release", "--dir", "theirs", "--yes", "--as", "alone"))
    base = tmp_path / "ours/base.yaml"
    (tmp_path / "ours" / "writer.yaml").write_text("extends: base\n")
    signing = ("--publisher", "acme", "--key", "acme.pem", "--dir", "ours")
    good(run("agents", "publish", "writer", "--version", "1.0.0", *signing))
    good(run("agents", "install", "acme/writer", "--dir", "theirs", "--yes"))
    base.write_text(base.read_text().replace("Grep", "Glob"))
    good(run("agents", "publish", "writer", "--version", "1.1.0", *signing))
    done = run("agents", "update", "--dir", "theirs", "--yes")
    assert done.exit_code == 1
    assert "alone stays as it is: the registry has no acme/reviewer" in done.output
    assert "writer is installed" in done.output


def test_one_that_takes_the_place_of_a_shipped_agent_says_so_and_is_shown(run: Run) -> None:
    good(publish(run))
    told = "+ takes the place of reviewer, which ships with AgCluster"
    assert told in run("agents", "install", "acme/reviewer", "--dir", "theirs").output
    assert told in good(run("agents", "install", "acme/reviewer", "--dir", "theirs", "--yes"))
    shown = json.loads(good(run("agents", "show", "reviewer", "--dir", "theirs")))
    assert shown["description"] == "Reads patches."


@pytest.mark.parametrize("command", ["publish", "install"])
def test_what_is_no_tenant_is_said(run: Run, command: str) -> None:
    more = ("--publisher", "acme", "--key", "acme.pem", "--version", "1.0.0")
    done = run(
        "agents", command, "reviewer", *(more if command == "publish" else ()), "--tenant", "x"
    )
    assert done.exit_code == 2
    assert "hex digits" in done.output
