"""Large files in parts, by the official client."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Any

import httpx
import openai
import pytest

from tests.fakes.running_api import RunningApi
from tests.integration.api.test_files import OTHER_KEY, _kept, code_of, objects_in, serving

CONTENT = secrets.token_bytes(100_000)


async def begun(client: openai.AsyncOpenAI, *, size: int = len(CONTENT), **more: Any) -> str:
    given: dict[str, Any] = {
        "bytes": size,
        "filename": "a.bin",
        "mime_type": "application/octet-stream",
        "purpose": "user_data",
    }
    return (await client.uploads.create(**(given | more))).id


async def send(api: RunningApi, upload: str, data: bytes, **more: Any) -> httpx.Response:
    return await api.http.post(
        f"/v1/uploads/{upload}/parts", files={"data": ("part", data)}, **more
    )


async def test_a_file_in_chunks_comes_out_whole() -> None:
    content = secrets.token_bytes(1_000_001)
    async with serving() as (api, client):
        made = await client.uploads.upload_file_chunked(
            file=content,
            filename="big.bin",
            bytes=len(content),
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=300_000,
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )
        assert made.status == "completed"
        assert made.file is not None
        assert (made.file.bytes, made.file.filename) == (len(content), "big.bin")
        assert (await client.files.content(made.file.id)).content == content
        assert [one async for one in await client.files.list()] == [made.file]
        assert objects_in(api) == [made.file.id], "no part stays"
        assert await _kept(api) == {b"files": b"1", b"bytes": b"%d" % len(content)}


async def test_parts_may_come_at_once_and_in_any_order() -> None:
    pieces = [CONTENT[:30_000], CONTENT[30_000:90_000], CONTENT[90_000:]]
    async with serving() as (_, client):
        upload = await begun(client, expires_after={"anchor": "created_at", "seconds": 7200})
        async with asyncio.TaskGroup() as group:
            sent = [
                group.create_task(client.uploads.parts.create(upload, data=piece))
                for piece in pieces
            ]
        ids = [one.result().id for one in sent]
        with pytest.raises(openai.BadRequestError, match="each once"):
            await client.uploads.complete(upload, part_ids=[*ids, ids[0]])
        made = await client.uploads.complete(upload, part_ids=ids)
        again = await client.uploads.complete(upload, part_ids=ids)
        assert made.file is not None
        assert made.file.expires_at == made.file.created_at + 7200
        assert again == made, "a client whose answer was lost asks again"
        assert (await client.files.content(made.file.id)).content == CONTENT


async def test_two_who_complete_at_once_get_one_file() -> None:
    async with serving() as (api, client):
        upload = await begun(client)
        part = await client.uploads.parts.create(upload, data=CONTENT)
        async with asyncio.TaskGroup() as group:
            done = [
                group.create_task(client.uploads.complete(upload, part_ids=[part.id]))
                for _ in range(3)
            ]
        files = {one.result().file.id for one in done if one.result().file}  # type: ignore[union-attr]
        assert len(files) == 1
        assert objects_in(api) == [*files]
        assert await _kept(api) == {b"files": b"1", b"bytes": b"%d" % len(CONTENT)}


async def test_what_was_announced_is_held_to() -> None:
    async with serving() as (api, client):
        upload = await begun(client)
        first = await client.uploads.parts.create(upload, data=CONTENT[:-1])
        too_much = await send(api, upload, b"xx")
        with pytest.raises(openai.BadRequestError, match="announced"):
            await client.uploads.complete(upload, part_ids=[first.id])
        last = await client.uploads.parts.create(upload, data=CONTENT[-1:])
        for md5 in ("0" * 32, "\u00fc"):
            with pytest.raises(openai.BadRequestError, match="MD5"):
                await client.uploads.complete(upload, part_ids=[first.id, last.id], md5=md5)
        assert code_of(too_much) == (400, "invalid_request", "data")
        assert len(objects_in(api)) == 2, "of what was refused nothing stays"


async def test_a_cancelled_upload_leaves_nothing() -> None:
    async with serving() as (api, client):
        upload = await begun(client)
        part = await client.uploads.parts.create(upload, data=CONTENT)
        cancelled = await client.uploads.cancel(upload)
        again = await client.uploads.cancel(upload)
        assert cancelled.status == again.status == "cancelled"
        assert objects_in(api) == []
        assert await _kept(api) == {}
        assert code_of(await send(api, upload, b"x")) == (400, "invalid_request", "upload_id")
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            await client.uploads.complete(upload, part_ids=[part.id])


async def test_a_completed_upload_is_not_cancelled() -> None:
    async with serving() as (_, client):
        upload = await begun(client)
        part = await client.uploads.parts.create(upload, data=CONTENT)
        await client.uploads.complete(upload, part_ids=[part.id])
        with pytest.raises(openai.BadRequestError, match="completed"):
            await client.uploads.cancel(upload)


async def test_another_key_finds_no_upload() -> None:
    async with serving() as (api, client), api.openai(api_key=OTHER_KEY) as stranger:
        upload = await begun(client)
        part = await client.uploads.parts.create(upload, data=CONTENT)
        own = await begun(stranger)
        with pytest.raises(openai.NotFoundError):
            await stranger.uploads.parts.create(upload, data=b"x")
        with pytest.raises(openai.NotFoundError):
            await stranger.uploads.complete(upload, part_ids=[part.id])
        with pytest.raises(openai.NotFoundError):
            await stranger.uploads.cancel(upload)
        with pytest.raises(openai.BadRequestError, match="parts of this upload"):
            await stranger.uploads.complete(own, part_ids=[part.id])
        assert objects_in(api) == [part.id]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": "5"}, "bytes"),
        ({"purpose": "fun"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"filename": "n" * 4096}, "filename"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
        ({"mime_type": 7}, "mime_type"),
    ],
)
async def test_what_is_announced_wrongly_is_named(body: dict[str, Any], param: str) -> None:
    good = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
    async with serving() as (api, _):
        answer = await api.http.post("/v1/uploads", json=good | body)
        missing = await api.http.post("/v1/uploads", json={"bytes": 5})
        broken = await api.http.post(
            "/v1/uploads", content=b"{", headers={"content-type": "application/json"}
        )
    assert code_of(answer) == (400, "invalid_request", param)
    assert code_of(missing) == (400, "invalid_request", "filename")
    assert code_of(broken) == (400, "invalid_request", None)
