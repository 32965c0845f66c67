"""Files when something goes wrong: too much, too slow, gone in the middle, stores away."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from infra.runtime.clock import SystemClock
from infra.store.files.files import FileRecords
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import FileId
from tests.fakes.running_api import KEY, RunningApi, running_api, until
from tests.fakes.s3_server import s3_server
from tests.integration.api.test_edge import wire
from tests.integration.api.test_files import CONTENT, _kept, code_of, objects_in, post, serving
from worker.placement.file_sweep import FileSweep

HEAD = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
END = b"\r\n--b--\r\n"
FORM = {"content-type": "multipart/form-data; boundary=b"}


def head(length: int | None, key: str = KEY) -> bytes:
    """The head of an upload's request."""
    said = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\n"
        f"content-type: {FORM['content-type']}\r\nauthorization: Bearer {key}\r\n{said}\r\n\r\n"
    ).encode()


async def swept(api: RunningApi, **more: Any) -> None:
    """A worker's sweep of all that has been given up."""
    intake = api.deps.files._intake
    due = api.store.keys.files_due(await intake.store())
    for file in await api.store.redis.zrange(due, 0, -1):
        await api.store.redis.zadd(due, {file: 1})
    await sweep_of(api, **more).sweep()


def sweep_of(api: RunningApi, **more: Any) -> FileSweep:
    epoch = api.store.workers.epoch
    files = api.deps.files._intake._files
    return FileSweep(api.store.files, files, SystemClock(), epoch=epoch, **more)


async def test_a_file_that_is_too_large_is_413_however_it_comes() -> None:
    large = b"x" * 200_000

    async def in_pieces() -> AsyncIterator[bytes]:
        yield HEAD + large + END

    async with serving({"file_max_bytes": 100_000}) as (api, client):
        announced = await post(api, files={"file": ("a", large)})
        chunked = await api.http.post("/v1/files", content=in_pieces(), headers=FORM)
        # Within what the rest of a form may take, but no file may.
        just = await post(api, files={"file": ("a", b"x" * 100_001)})
        upload = await api.http.post(
            "/v1/uploads",
            json={"bytes": 100_001, "filename": "a", "mime_type": "a/b", "purpose": "vision"},
        )
        fits = await post(api, files={"file": ("a", b"x" * 100_000)})
        for answer in (announced, chunked, just, upload):
            assert code_of(answer) == (413, "file_too_large", None)
            assert "100000 bytes" in answer.json()["error"]["message"]
        assert fits.status_code == 200
        assert objects_in(api) == [fits.json()["id"]]
        assert (await client.files.list()).data[0].id == fits.json()["id"]


async def test_a_key_keeps_no_more_than_it_may() -> None:
    async with serving({"tenant_files_max": 2, "tenant_file_bytes_max": 3000}) as (api, client):
        first = (await post(api)).json()["id"]
        too_much = await post(api, files={"file": ("b", b"x" * 2000)})
        await post(api)
        too_many = await post(api, files={"file": ("c", b"x")})
        await client.files.delete(first)
        after = await post(api)
        assert code_of(too_much) == code_of(too_many) == (413, "file_quota_exceeded", None)
        assert "3000 bytes" in too_much.json()["error"]["message"]
        assert "2 files" in too_many.json()["error"]["message"]
        assert after.status_code == 200
        assert len(objects_in(api)) == 2


async def test_two_uploads_at_once_do_not_exceed_together_what_one_may() -> None:
    size = 300_000
    async with serving({"tenant_file_bytes_max": 2 * size + 10}) as (api, client):
        async with asyncio.TaskGroup() as group:
            sent = [
                group.create_task(post(api, files={"file": ("a", b"x" * size)})) for _ in range(5)
            ]
        statuses = sorted(one.result().status_code for one in sent)
        kept = [one async for one in await client.files.list()]
        assert statuses == [200] * len(kept) + [413] * (5 - len(kept))
        assert 1 <= len(kept) <= 2
        assert len(objects_in(api)) == len(kept)
        assert await _kept(api) == {
            b"files": b"%d" % len(kept),
            b"bytes": b"%d" % (size * len(kept)),
        }


async def test_without_a_key_no_byte_of_an_upload_is_asked_for() -> None:
    async with serving() as (api, _), wire(api) as client:
        await client.say(
            head(1_000_000).replace(b"authorization", b"x-nothing"),
        )
        status, _, _ = await client.answer()
        assert status == 401


async def test_a_good_upload_is_asked_for_when_it_is_let_in() -> None:
    length = len(HEAD) + 5 + len(END)
    async with serving() as (api, _), wire(api) as client:
        begin = head(length).replace(b"host: x", b"host: x\r\nexpect: 100-continue")
        await client.say(begin)
        told = await client.reader.readuntil(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 100")
        await client.say(HEAD, b"hello", END)
        status, _, _ = await client.answer()
        assert status == 200
        assert len(objects_in(api)) == 1


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"x" * 100_000])
async def test_of_an_upload_whose_client_dies_nothing_stays(sent: bytes) -> None:
    async with serving() as (api, client):
        async with wire(api) as dying:
            await dying.say(head(10_000_000), sent)
            if len(sent) > len(HEAD):
                await _until_counted(api, 1)
        await _until_counted(api, 0)
        assert objects_in(api) == []
        assert (await client.files.list()).data == []


async def _until_counted(api: RunningApi, files: int) -> None:
    async with asyncio.timeout(20):
        while int((await _kept(api)).get(b"files", 0)) != files:  # noqa: ASYNC110 - as `until`
            await asyncio.sleep(0.01)


async def test_an_upload_that_stands_still_is_408_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.http.edge.Edge.__init__.__kwdefaults__", {"body_stall_s": 0.3})
    async with serving() as (api, _), wire(api) as client:
        await client.say(head(10_000_000), HEAD, b"x" * 100_000)
        await client.refusal(408, "request_timeout")
        assert objects_in(api) == []
        await _until_counted(api, 0)


async def test_an_upload_that_moves_may_take_longer_than_any_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow line: each piece comes in time, all together take longer than a stall."""
    monkeypatch.setattr("api.http.edge.Edge.__init__.__kwdefaults__", {"body_stall_s": 0.6})
    monkeypatch.setattr("api.http.edge.PROGRESS_BYTES", 1000)
    pieces = [b"x" * 1000] * 12
    length = len(HEAD) + sum(map(len, pieces)) + len(END)
    async with serving() as (api, _), wire(api) as client:
        await client.say(head(length), HEAD)
        for piece in pieces:
            await client.say(piece)
            await asyncio.sleep(0.1)
        await client.say(END)
        status, _, content = await client.answer()
        assert status == 200, content


async def test_an_upload_holds_little_of_the_room_for_bodies() -> None:
    """Ten times as much as all bodies together may be goes through."""
    settings = {"bodies_max_bytes": 12 * 1024 * 1024, "max_body_bytes": 1024 * 1024}
    content = b"x" * 40 * 1024 * 1024
    async with serving(settings) as (api, client):
        made = await client.files.create(file=("a", content), purpose="user_data")
        assert made.bytes == len(content)
        assert len(objects_in(api)) == 1


async def test_redis_lost_in_the_middle_is_a_503_and_a_sweep_finds_nothing_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: Any, **__: Any) -> bool:
        raise StoreUnavailable("gone")

    monkeypatch.setattr("api.files.intake.COUNTED_EVERY_BYTES", 100_000)
    async with serving() as (api, client):
        with monkeypatch.context() as cut:
            cut.setattr(FileRecords, "grow", away)
            cut.setattr(FileRecords, "drop", away)
            answer = await post(api, files={"file": ("a", b"x" * 500_000)})
        assert code_of(answer) == (503, "store_unavailable", None)
        assert objects_in(api) == []
        assert await _kept(api) != {}, "it is still on record"
        await swept(api)
        assert await _kept(api) == {}
        assert (await client.files.list()).data == []


async def test_an_upload_whose_record_redis_has_lost_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grow = FileRecords.grow

    async def forgetful(self: FileRecords, file: Any, **more: Any) -> bool:
        await self._redis.flushall()
        return await grow(self, file, **more)

    async with serving() as (api, _):
        monkeypatch.setattr(FileRecords, "grow", forgetful)
        answer = await post(api)
        assert code_of(answer) == (404, "file_not_found", None)
        assert "again" in answer.json()["error"]["message"]
        assert objects_in(api) == []


async def test_a_file_store_that_is_away_is_a_503_and_comes_back() -> None:
    with s3_server() as server:
        kept_in = {"file_store": server.url, "file_store_options": server.options}
        async with serving(kept_in) as (api, client):
            made = await client.files.create(file=("a", CONTENT), purpose="user_data")
            server.stop()
            away = [
                await post(api),
                await api.http.get(f"/v1/files/{made.id}/content"),
            ]
            shown = await client.files.retrieve(made.id)
            gone = await client.files.delete(made.id)
            assert [code_of(one) for one in away] == [(503, "file_store_unavailable", None)] * 2
            assert all(one.headers["retry-after"] == "5" for one in away)
            assert shown == made
            assert gone.deleted, "nobody finds it; its bytes go later"
            assert (await client.files.list()).data == []
            assert (await api.http.get("/health/live")).status_code == 200


async def test_an_api_starts_without_its_file_store(caplog: pytest.LogCaptureFixture) -> None:
    kept_in = {
        "file_store": "s3://nowhere/x",
        "file_store_options": "endpoint=http://127.0.0.1:9, region=x, access_key_id=a, "
        "secret_access_key=very-secret",
    }
    async with running_api(settings=kept_in) as api:
        assert (await api.chat("hi")).status_code == 200
        answer = await post(api)
        await until(lambda: "does not work" in caplog.text)
    assert code_of(answer) == (503, "file_store_unavailable", None)
    assert "very-secret" not in caplog.text


async def test_a_file_whose_bytes_are_gone_is_404() -> None:
    async with serving() as (api, client):
        made = await client.files.create(file=("a", CONTENT), purpose="user_data")
        shutil.rmtree(api.deps.settings.data_dir / "files" / "files")
        with pytest.raises(openai.NotFoundError):
            await client.files.content(made.id)


async def test_expired_files_are_removed_by_one_of_the_sweeps() -> None:
    async with serving() as (api, client):
        expiring = await client.files.create(
            file=("a", CONTENT),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        staying = await client.files.create(file=("b", CONTENT), purpose="user_data")
        await swept(api)
        assert objects_in(api) == [staying.id]
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(expiring.id)
        assert [one.id async for one in await client.files.list()] == [staying.id]


async def test_an_expired_file_is_not_found_though_nobody_has_removed_it() -> None:
    async with serving() as (api, client):
        made = await client.files.create(file=("a", CONTENT), purpose="batch")
        await api.store.redis.hset(api.store.keys.file(FileId(made.id)), "expires", "1")  # type: ignore[misc]
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)
        assert (await client.files.list()).data == []
        assert objects_in(api) == [made.id]


async def test_an_object_without_a_record_is_removed_when_it_is_old() -> None:
    async with serving() as (api, client):
        forgotten = await client.files.create(file=("a", CONTENT), purpose="user_data")
        known = await client.files.create(file=("b", CONTENT), purpose="user_data")
        await api.store.redis.delete(api.store.keys.file(FileId(forgotten.id)))
        await sweep_of(api).tidy()
        assert len(objects_in(api)) == 2, "a backup of Redis may come back"
        await sweep_of(api, forgotten_after_s=-1).tidy()
        assert objects_in(api) == [known.id]


async def test_no_object_goes_after_redis_was_emptied(caplog: pytest.LogCaptureFixture) -> None:
    """Or for another cluster that was given the same store by mistake."""
    async with serving() as (api, client):
        await client.files.create(file=("a", CONTENT), purpose="user_data")
        await sweep_of(api, forgotten_after_s=-1).tidy()
        await api.store.redis.flushall()
        await sweep_of(api, forgotten_after_s=-1).tidy()
        assert len(objects_in(api)) == 1
        assert "another Redis" in caplog.text


async def test_a_reader_that_stops_reading_is_let_go() -> None:
    content = b"x" * 30_000_000
    async with serving({"send_timeout_s": 0.3}) as (api, client):
        made = await client.files.create(file=("a", content), purpose="user_data")
        async with wire(api) as lazy:
            await lazy.say(
                f"GET /v1/files/{made.id}/content HTTP/1.1\r\nhost: x\r\n"
                f"authorization: Bearer {KEY}\r\n\r\n".encode()
            )
            await lazy.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1)
            await lazy.closed()
        assert (await client.files.retrieve(made.id)).id == made.id


async def test_a_file_deleted_while_it_is_read_ends_its_answer_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infra.files.store.PIECE_BYTES", 1000)
    async with serving() as (api, client):
        made = await client.files.create(file=("a", b"x" * 5_000_000), purpose="user_data")
        async with api.http.stream("GET", f"/v1/files/{made.id}/content") as answer:
            assert answer.status_code == 200
            pieces = answer.aiter_raw()
            await anext(pieces)
            await client.files.delete(made.id)
            with pytest.raises(httpx.RemoteProtocolError):
                await _read_all(pieces)


async def _read_all(pieces: AsyncIterator[bytes]) -> None:
    async for _ in pieces:
        pass
