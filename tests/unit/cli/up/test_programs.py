"""How programs are called and what of the environment they see."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.cli.up.command import DRAIN_TIMEOUT_S, Plan, complete
from infra.cli.up.programs import MODULES, environment, python_command
from infra.cli.up.redis_server import redis_command, socket_url
from infra.cli.up.state_dir import StateDir
from infra.runtime.settings import Settings, load_settings


def test_the_users_folder_does_not_shadow_our_modules() -> None:
    python, is_safe, starter, module = python_command(MODULES["api"])
    assert (python, is_safe, module) == (sys.executable, "-P", "api.main")
    assert Path(starter).is_absolute()


def test_programs_get_the_decided_settings_and_nobodys_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-mine")
    monkeypatch.setenv("AGCLUSTER_PORT", "1")
    monkeypatch.setenv("AGCLUSTER_HOST", "::")
    given = environment(Settings.model_validate({"port": 8123}), program="api")
    assert given["AGCLUSTER_PORT"] == "8123"
    assert "AGCLUSTER_HOST" not in given
    assert "ANTHROPIC_API_KEY" not in given
    assert given["PATH"]


def test_a_program_gets_no_secret_it_has_no_use_for() -> None:
    secrets = {"secret": "s" * 32, "content_secret": "c" * 32, "file_store_options": "a=b"}
    settings = Settings.model_validate(secrets)
    given = {
        name: {
            value
            for value in environment(settings, program=name).values()
            if value in secrets.values()
        }
        for name in (*MODULES, "")
    }
    assert given == {
        "": set(),
        "api": {"s" * 32, "c" * 32, "a=b"},
        "worker": {"c" * 32, "a=b"},
        "gateway": {"s" * 32},
        "exporter": set(),
    }


def test_a_secret_that_is_withheld_does_not_come_back_out_of_the_env_file(tmp_path: Path) -> None:
    """A worker that `agcluster up` had started read the cluster's secret from the `.env` beside."""
    env_file = tmp_path / ".env"
    env_file.write_text(f"AGCLUSTER_SECRET={'s' * 32}\nAGCLUSTER_CONTENT_SECRET={'c' * 32}\n")
    decided = load_settings({}, env_file=env_file)
    read = {
        name: load_settings(environment(decided, program=name), env_file=env_file)
        for name in MODULES
    }
    assert read["worker"].secret is None
    assert read["worker"].content_secret is not None
    assert read["gateway"].secret is not None
    assert read["gateway"].content_secret is None


def test_own_redis_listens_on_a_socket_only() -> None:
    command = redis_command("redis-server", folder=Path("/d"), socket=Path("/d/r.sock"))
    assert command[0] == "redis-server"
    assert Path(command[1]).read_text().count("maxmemory-policy noeviction") == 1
    assert dict(zip(command[2::2], command[3::2], strict=True)) == {
        "--port": "0",
        "--unixsocket": "/d/r.sock",
        "--unixsocketperm": "700",
        "--dir": "/d",
        "--daemonize": "no",
    }


def test_a_socket_url_survives_odd_characters() -> None:
    assert socket_url(Path("/a b/r?.sock")) == "unix:///a%20b/r%3F.sock"


def test_a_bare_machine_gets_a_deployment_of_its_own(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    state = StateDir(tmp_path_factory.mktemp("s"))
    state.make()
    settings = complete(Settings.model_validate({}), state)
    assert settings.redis_url == f"unix://{state.redis_socket}"
    assert settings.secret is not None
    assert settings.secret.get_secret_value() == state.secret()
    assert settings.cluster.startswith("up-")
    assert settings.retire_on_exit
    assert settings.drain_timeout_s == DRAIN_TIMEOUT_S


def test_what_was_given_is_kept(tmp_path: Path) -> None:
    secret = SecretStr("g" * 32)
    given = Settings.model_validate(
        {
            "redis_url": "redis://elsewhere",
            "secret": secret,
            "cluster": "mine",
            "drain_timeout_s": 20,
            "port": 9,
        }
    )
    settings = complete(given, StateDir(tmp_path))
    assert settings == given.model_copy(
        update={
            "retire_on_exit": True,
            "drain_notice_s": 0.0,
            "public_url": "http://127.0.0.1:9",
        }
    )


def test_an_address_for_all_is_told_as_one_that_can_be_opened() -> None:
    def url(host: str) -> str:
        return Plan(Settings.model_validate({"host": host, "port": 80}), None, None).url

    assert url("0.0.0.0") == "http://127.0.0.1:80"
    assert url("::") == "http://[::1]:80"
    assert url("::1") == "http://[::1]:80"
    assert url("agents.example") == "http://agents.example:80"
