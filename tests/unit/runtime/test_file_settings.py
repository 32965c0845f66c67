"""Where files are kept: a folder of this machine, or what a URL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.files.open import open_file_store
from infra.runtime.settings import SettingsRefused, load_settings


def load(**values: str) -> None:
    load_settings({f"AGCLUSTER_{k.upper()}": v for k, v in values.items()}, env_file=None)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "/srv/files",
        "s3:bucket",
        "s3://",
        "file://host/folder",
        "file:///",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?region=eu",
    ],
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(SettingsRefused, match="AGCLUSTER_FILE_STORE"):
        load(file_store=url)


def test_options_that_are_no_pairs_are_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsRefused) as refused:
        load(file_store_options="my-secret-key")
    assert "my-secret-key" not in str(refused.value)


def test_an_option_the_store_does_not_know_is_refused_and_its_value_not_repeated(
    tmp_path: Path,
) -> None:
    settings = load_settings(
        {
            "AGCLUSTER_FILE_STORE": "s3://bucket/x",
            "AGCLUSTER_FILE_STORE_OPTIONS": "regoin=eu, secret_access_key=my-secret-key",
        },
        env_file=None,
    )
    with pytest.raises(SettingsRefused, match="AGCLUSTER_FILE_STORE_OPTIONS") as refused:
        open_file_store(settings, data_dir=tmp_path)
    assert "my-secret-key" not in str(refused.value)
    assert "my-secret-key" not in repr(settings)


def test_the_folder_is_its_users_alone(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir(mode=0o711)
    settings = load_settings({}, env_file=None)
    store = open_file_store(settings, data_dir=tmp_path)
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700
    assert (store.is_local, store.place) == (True, str(tmp_path / "files"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file in its place")
    with pytest.raises(SettingsRefused, match="files"):
        open_file_store(load_settings({}, env_file=None), data_dir=tmp_path)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/x", "region=eu-central-1, access_key_id=a, secret_access_key=b"),
        ("gs://bucket/x", ""),
        ("az://container/x", "account_name=a, account_key=YQ=="),
    ],
)
def test_a_store_elsewhere_is_opened_without_asking_it(
    url: str, options: str, tmp_path: Path
) -> None:
    environ = {"AGCLUSTER_FILE_STORE": url, "AGCLUSTER_FILE_STORE_OPTIONS": options}
    store = open_file_store(load_settings(environ, env_file=None), data_dir=tmp_path)
    assert (store.is_local, store.place) == (False, url)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    settings = load_settings({"AGCLUSTER_FILE_STORE": "az://container/x"}, env_file=None)
    with pytest.raises(SettingsRefused, match="Account must be specified"):
        open_file_store(settings, data_dir=tmp_path)
