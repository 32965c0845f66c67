"""Settings: read from the environment, refused when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.runtime.settings import (
    SECTIONS,
    EgressPolicy,
    Isolation,
    Settings,
    SettingsRefused,
    as_environment,
    load_settings,
)

SECRET = "s" * 32


def load(**values: str) -> Settings:
    return load_settings({f"AGCLUSTER_{k.upper()}": v for k, v in values.items()}, env_file=None)


def test_nothing_set_gives_the_defaults() -> None:
    settings = load_settings({}, env_file=None)
    assert (settings.host, settings.port, settings.isolation) == ("127.0.0.1", 8000, Isolation.AUTO)
    assert settings.model_fields_set == set()


def test_other_peoples_variables_are_not_ours() -> None:
    assert load_settings({"PORT": "1", "PATH": "/bin"}, env_file=None).port == 8000


def test_an_unknown_name_is_refused_and_named() -> None:
    with pytest.raises(SettingsRefused, match="AGCLUSTER_PROT: is not a setting"):
        load(prot="8001")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsRefused) as refused:
        load(port="70000", isolation="chroot")
    assert "AGCLUSTER_PORT" in str(refused.value)
    assert "AGCLUSTER_ISOLATION" in str(refused.value)


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(SettingsRefused) as refused:
        load(secret="short-secret")
    assert "short-secret" not in str(refused.value)


def test_an_empty_value_is_the_default() -> None:
    assert load(port="", redis_url="").port == 8000


def test_lists_and_pairs_are_written_by_hand_or_as_json() -> None:
    by_hand = load(models="a, b", model_aliases="x=a,y = b".replace(" ", ""))
    as_json = load(models='["a", "b"]', model_aliases='{"x": "a", "y": "b"}')
    assert by_hand.models == as_json.models == ("a", "b")
    assert by_hand.model_aliases == as_json.model_aliases == {"x": "a", "y": "b"}


def test_an_alias_must_lead_to_an_offered_model() -> None:
    with pytest.raises(SettingsRefused, match="not in AGCLUSTER_MODELS"):
        load(models="a", model_aliases="x=gone")


def test_default_aliases_of_models_that_are_not_offered_fall_away() -> None:
    settings = load(models="claude-haiku-4-5-20251001")
    assert settings.model_aliases == {"claude-haiku-4.5": "claude-haiku-4-5-20251001"}
    assert settings.resolve_model("claude-haiku-4.5") == "claude-haiku-4-5-20251001"
    assert settings.resolve_model("claude-sonnet-4.5") is None


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("AGCLUSTER_PORT=1111\nAGCLUSTER_HOST=::\nPATH=/nowhere\n")
    settings = load_settings({"AGCLUSTER_PORT": "2222"}, env_file=file)
    assert (settings.port, settings.host) == (2222, "::")


def test_the_data_folder_is_absolute_also_by_default(tmp_path: Path) -> None:
    assert load_settings({}, env_file=None).data_dir.is_absolute()
    assert load(data_dir="~/x").data_dir == Path.home() / "x"


def test_a_secret_is_not_shown() -> None:
    settings = load(secret=SECRET)
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())


def test_an_upstream_without_a_scheme_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="http"):
        load(anthropic_base_url="api.example.org")


def test_settings_survive_the_way_to_a_child_process() -> None:
    settings = load(
        secret=SECRET,
        models="a,b",
        model_aliases="x=a",
        egress="allowlist",
        egress_allow=".example.org",
        demo="true",
        data_dir="/tmp/somewhere",
        idle_timeout_s="12.5",
    )
    arrived = load_settings(as_environment(settings), env_file=None)
    assert arrived == settings
    assert arrived.egress is EgressPolicy.ALLOWLIST


def test_a_conversation_outlives_its_longest_turn() -> None:
    with pytest.raises(SettingsRefused, match="AGCLUSTER_RETENTION_S must be at least"):
        load_settings({"AGCLUSTER_RETENTION_S": "600"}, env_file=None)


@pytest.mark.parametrize(
    ("origin", "is_good"),
    [
        ("https://chat.example.org", True),
        ("http://localhost:3000", True),
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("chrome-extension://aeblfdkhhhdcdjpifhhbdiojplfjncoa", True),
        ("moz-extension://0c0f9d5b-5e9c-4d6b-9f70-7b8f2a2b1c11", True),
        ("*", False),
        ("null", False),
        ("app://", False),
        ("https://chat.example.org/", False),
        ("javascript:alert(1)", False),
    ],
)
def test_origins_may_be_of_apps_and_extensions(origin: str, is_good: bool) -> None:
    environ = {"AGCLUSTER_CORS_ORIGINS": origin}
    if is_good:
        assert load_settings(environ, env_file=None).cors_origins == (origin,)
    else:
        with pytest.raises(SettingsRefused, match="is no origin"):
            load_settings(environ, env_file=None)


def test_models_that_are_set_are_all_there_are() -> None:
    one = {"AGCLUSTER_MODELS": "claude-x"}
    assert load_settings({}, env_file=None).upstream_models
    assert not load_settings(one, env_file=None).upstream_models
    both = one | {"AGCLUSTER_UPSTREAM_MODELS": "true"}
    assert load_settings(both, env_file=None).upstream_models


def test_settings_are_their_sections_each_once() -> None:
    """A section that is not among the bases, or a field in two of them, would be lost silently."""
    fields = [name for section in SECTIONS for name in section.model_fields]
    assert set(SECTIONS) == set(Settings.__bases__)
    assert sorted(fields) == sorted(Settings.model_fields)
    assert all(section.title for section in SECTIONS)


@pytest.mark.parametrize(
    "files_url", ["https://agents.example.org", "https://files.example.org/files"]
)
def test_files_have_a_host_of_their_own_or_none(files_url: str) -> None:
    given = {
        "AGCLUSTER_PUBLIC_URL": "https://agents.example.org/api",
        "AGCLUSTER_FILES_URL": files_url,
    }
    with pytest.raises(SettingsRefused, match="AGCLUSTER_FILES_URL"):
        load_settings(given, env_file=None)
    load_settings({**given, "AGCLUSTER_FILES_URL": "https://files.example.org"}, env_file=None)


def test_a_misspelt_name_is_told_what_may_have_been_meant() -> None:
    with pytest.raises(SettingsRefused) as refused:
        load_settings({"AGCLUSTER_SLOT": "3"}, env_file=None)
    assert str(refused.value) == ("AGCLUSTER_SLOT: is not a setting. Did you mean AGCLUSTER_SLOTS?")


def test_a_wrong_value_is_shown_with_the_default() -> None:
    with pytest.raises(SettingsRefused) as refused:
        load_settings({"AGCLUSTER_PORT": "eighty"}, env_file=None)
    assert "'eighty' (default 8000)" in str(refused.value)


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(SettingsRefused) as refused:
        load_settings({"AGCLUSTER_SECRET": "too-short-secret"}, env_file=None)
    assert "too-short-secret" not in str(refused.value)


@pytest.mark.parametrize("mistake", ["{long},short", "short,{long}", "{long},"])
def test_a_list_of_secrets_with_a_mistake_in_it_is_refused(mistake: str) -> None:
    """It was one secret then, which opens nothing that was sealed before."""
    with pytest.raises(SettingsRefused, match="of several, each must be"):
        load_settings({"AGCLUSTER_SECRET": mistake.format(long="o" * 32)}, env_file=None)


def test_a_secret_of_before_may_have_a_comma_in_it() -> None:
    told = "a secret of before, that is long enough"
    secret = load_settings({"AGCLUSTER_SECRET": told}, env_file=None).secret
    assert secret is not None
    assert secret.get_secret_value() == told
