"""Uploaded files in messages, by their ids: given to the agent as if they had been sent inline."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from infra.wire.turns import DocumentBlock, ImageBlock, TextBlock
from tests.fakes.running_api import RunningApi, running_api
from tests.integration.api.test_files import OTHER_KEY, code_of

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
PDF = b"%PDF-1.7\nnot much of one"
SIGHTS: dict[str, bytes] = {
    "picture.bin": PNG,
    "photo.jpg": b"\xff\xd8\xff\xe0more",
    "moving.gif": b"GIF89a....",
    "small.webp": b"RIFF\0\0\0\0WEBPVP8 ",
}


async def upload(api: RunningApi, name: str, content: bytes, **headers: str) -> str:
    made = await api.http.post(
        "/v1/files",
        files={"file": (name, content)},
        data={"purpose": "user_data"},
        headers=headers,
    )
    id: str = made.json()["id"]
    return id


def asking(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}


async def ask(api: RunningApi, *messages: dict[str, Any], **more: Any) -> Any:
    return await api.chat("", messages=list(messages), **more)


def file_part(id: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": id}}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(("name", "content"), SIGHTS.items())
async def test_a_picture_is_what_its_bytes_say(name: str, content: bytes) -> None:
    async with running_api() as api:
        id = await upload(api, name, content)
        for part in (
            file_part(id),
            {"type": "image_url", "image_url": {"file_id": id}},
            {"type": "input_image", "file_id": id},
            {"type": "input_file", "file_id": id},
        ):
            assert (await ask(api, asking(part))).status_code == 200
        for request in api.worker.requests:
            block = request.prompt[-1]
            assert isinstance(block, ImageBlock)
            assert block.data == encoded(content)
            assert block.media_type.removeprefix("image/") in ("png", "jpeg", "gif", "webp")
    assert len(api.worker.requests) == 4


async def test_a_document_and_a_text_arrive_with_their_names() -> None:
    async with running_api() as api:
        pdf, text = await upload(api, "a.pdf", PDF), await upload(api, "b.csv", b"x;y\n1;2")
        answer = await ask(api, asking(file_part(pdf), file_part(text), file_part(pdf)))
        assert answer.status_code == 200
    _, document, table, again = api.worker.requests[0].prompt
    assert (
        document
        == again
        == DocumentBlock(media_type="application/pdf", data=encoded(PDF), filename="a.pdf")
    )
    assert table == TextBlock(text="[File b.csv]\nx;y\n1;2")


async def test_inline_parts_of_the_responses_api_are_taken_too() -> None:
    url = f"data:image/png;base64,{encoded(PNG)}"
    async with running_api() as api:
        answer = await ask(
            api,
            asking(
                {"type": "input_image", "image_url": url},
                {
                    "type": "input_file",
                    "filename": "a.pdf",
                    "file_data": f"data:application/pdf;base64,{encoded(PDF)}",
                },
            ),
        )
        assert answer.status_code == 200
    kinds = [block.type for block in api.worker.requests[0].prompt]
    assert kinds == ["text", "image", "document"]


async def test_the_same_file_sent_again_is_the_same_message() -> None:
    async with running_api() as api:
        id = await upload(api, "a.png", PNG)
        first = asking(file_part(id))
        inline = asking(
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PNG)}"}}
        )
        await ask(api, first)
        said = {"role": "assistant", "content": "A picture."}
        await ask(api, first, said, {"role": "user", "content": "Sure?"})
        await ask(api, inline)
    one, two, three = api.worker.requests
    assert two.sent[0] == one.sent[0] == three.sent[0]


async def test_another_keys_file_is_refused_by_name_and_not_shown() -> None:
    async with running_api() as api:
        theirs = await upload(api, "a.txt", b"a secret", authorization=f"Bearer {OTHER_KEY}")
        refusals = [
            await ask(api, asking(file_part(id))) for id in (theirs, f"file-{'0' * 32}", "x")
        ]
    for refusal in refusals:
        told = code_of(refusal)
        assert told == (400, "invalid_request", "messages[0].content[1].file.file_id")
    assert len({refusal.text for refusal in refusals}) == 1
    assert api.worker.requests == []


async def test_a_file_that_is_gone_does_not_end_the_chat() -> None:
    async with running_api() as api:
        id = await upload(api, "a.txt", b"text")
        await api.http.delete(f"/v1/files/{id}")
        said = {"role": "assistant", "content": "Text."}
        later = {"role": "user", "content": "And now?"}
        answer = await ask(api, asking(file_part(id)), said, later)
        assert answer.status_code == 200
    history = api.worker.requests[0].history
    assert history[0].content[-1] == TextBlock(text="[Left out here: a file]")


async def test_what_no_model_reads_is_refused() -> None:
    async with running_api() as api:
        id = await upload(api, "a.zip", b"PK\x03\x04\xff\xfe\0")
        no_picture = await upload(api, "a.png", b"but text")
        file = await ask(api, asking(file_part(id)))
        image = await ask(api, asking({"type": "input_image", "file_id": no_picture}))
    assert code_of(file)[2] == "messages[0].content[1].file.file_id"
    assert code_of(image)[2] == "messages[0].content[1].file_id"


async def test_files_are_bounded_like_a_body() -> None:
    async with running_api(settings={"max_body_bytes": 10_000}) as api:
        ids = [await upload(api, f"{n}.txt", b"x" * 4_000) for n in range(3)]
        fits = await ask(api, asking(*map(file_part, ids[:2])))
        too_much = await ask(api, asking(*map(file_part, ids)))
    assert fits.status_code == 200
    assert code_of(too_much) == (413, "body_too_large", None)


async def test_many_with_large_files_at_once_hold_no_more_than_there_is_room_for() -> None:
    settings = {"bodies_max_bytes": 3_000_000, "max_body_bytes": 1_000_000}
    async with running_api(settings=settings) as api:
        id = await upload(api, "a.txt", b"x" * 400_000)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(api, asking(file_part(id)))) for _ in range(12)]
        statuses = {one.result().status_code for one in asked}
        after = await ask(api, asking(file_part(id)))
    assert statuses <= {200, 429, 503}
    assert 200 in statuses
    assert after.status_code == 200, "what was held is free again"
