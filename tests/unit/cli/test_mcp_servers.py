"""An MCP server goes through the registry into a profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.cli.main import app
from infra.profiles.read import read_folder

SERVER = {
    "name": "org.example/weather",
    "description": "Tells the weather.",
    "version": "1.0.2",
    "remotes": [
        {
            "type": "streamable-http",
            "url": "https://mcp.example.org/mcp",
            "headers": [{"name": "X-Key", "isSecret": True, "description": "From the console."}],
        }
    ],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGCLUSTER_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "server.json").write_text(json.dumps(SERVER))
    (tmp_path / "agents").mkdir()
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["mcp", *arguments])


def test_a_server_is_published_found_and_written_into_a_profile(folder: Path) -> None:
    assert run("publish").exit_code == 0
    assert "org.example/weather  1.0.2" in run("search", "weath").output
    shown = run("install", "org.example/weather")
    assert "${ORG_EXAMPLE__WEATHER_X_KEY}" in shown.output
    assert (
        "AGCLUSTER_MCP_SECRETS needs ORG_EXAMPLE__WEATHER_X_KEY: From the console." in shown.output
    )
    profile = folder / "agents/helper.yaml"
    profile.write_text("# Mine.\ndescription: Helps.\n")
    assert run("install", "org.example/weather@1.0.2", "--agent", str(profile)).exit_code == 0
    assert profile.read_text().startswith("# Mine.\n")
    [server] = read_folder(folder / "agents")["helper"].mcp_servers.values()
    assert server.url == "https://mcp.example.org/mcp"
    again = run("install", "org.example/weather", "--agent", str(profile))
    assert again.exit_code == 1
    assert "has `mcp_servers` already" in again.output


def test_a_profile_that_would_be_refused_stays_as_it_was(folder: Path) -> None:
    profile = folder / "agents/helper.yaml"
    profile.write_text("descripton: Helps.\n")
    refused = run("install", "server.json", "--agent", str(profile))
    assert refused.exit_code == 1
    assert profile.read_text() == "descripton: Helps.\n"


def test_a_server_that_is_none_is_not_published(folder: Path) -> None:
    (folder / "server.json").write_text(json.dumps(SERVER | {"version": "latest"}))
    refused = run("publish")
    assert refused.exit_code == 1
    assert "server.json: version:" in refused.output
    assert "org.example" not in run("search").output


def test_a_withdrawn_server_is_found_no_more(folder: Path) -> None:
    run("publish")
    assert run("withdraw", "org.example/weather").exit_code == 1
    assert run("withdraw", "org.example/weather@1.0.2").exit_code == 0
    assert run("install", "org.example/weather").exit_code == 1
