"""What `agcluster doctor` says of the file store, without changing it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.cli.file_store_doctor import look_at_files
from infra.cli.findings import Verdict
from infra.files.open import open_file_store
from infra.runtime.settings import Settings, load_settings
from infra.store.files.files import FileRecords
from infra.store.keys import Keys
from infra.store.server.connection import connect
from tests.fakes.redis_server import RealRedis, real_redis

pytestmark = pytest.mark.redis


@pytest.fixture
async def server() -> AsyncIterator[RealRedis]:
    async with real_redis() as server:
        yield server


def settings_for(folder: Path, **more: str) -> Settings:
    given = {"data_dir": str(folder)} | more
    return load_settings({f"AGCLUSTER_{k.upper()}": v for k, v in given.items()}, env_file=None)


async def test_a_folder_that_was_never_used_is_left_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    first = await look_at_files(settings)
    (tmp_path / "files").mkdir()
    second = await look_at_files(settings)
    assert [first.verdict, second.verdict] == [Verdict.OK, Verdict.OK]
    assert [*(tmp_path / "files").iterdir()] == []


async def test_a_store_that_does_not_answer_is_missing(tmp_path: Path) -> None:
    found = await look_at_files(
        settings_for(
            tmp_path,
            file_store="s3://nowhere/x",
            file_store_options="endpoint=http://127.0.0.1:9, region=x, access_key_id=a, "
            "secret_access_key=very-secret",
        )
    )
    assert found.verdict is Verdict.MISSING
    assert "very-secret" not in found.text


async def test_programs_that_use_another_store_are_noticed(
    server: RealRedis, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, redis_url=server.url)
    own = await open_file_store(settings, data_dir=tmp_path).identity()
    redis = connect(server.url, timeout_s=5, name="test")
    records = FileRecords(redis, Keys())
    await records.see_store(own)
    alone = await look_at_files(settings)
    await records.see_store("0123456789abcdef")
    beside_another = await look_at_files(settings)
    await redis.aclose()
    assert [alone.verdict, beside_another.verdict] == [Verdict.OK, Verdict.NOTE]
    assert "AGCLUSTER_FILE_STORE" in beside_another.text
