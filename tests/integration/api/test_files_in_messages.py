"""Uploaded files in messages, by their ids: they go on to the worker by reference."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from infra.wire.turns import FileBlock, TextBlock
from tests.fakes.running_api import RunningApi, running_api
from tests.integration.api.test_files import OTHER_KEY, code_of

ODD = b"PK\x03\x04\xff\xfe\0"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
PDF = b"%PDF-1.7\nnot much of one"


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


async def test_a_file_of_any_type_goes_on_by_reference() -> None:
    async with running_api() as api:
        id = await upload(api, "größe.docx", b"PK\x03\x04\xff\xfe\0")
        for part in (
            file_part(id),
            {"type": "image_url", "image_url": {"file_id": id}},
            {"type": "input_image", "file_id": id},
            {"type": "input_file", "file_id": id},
        ):
            assert (await ask(api, asking(part))).status_code == 200
    for request in api.worker.requests:
        block = request.prompt[-1]
        assert isinstance(block, FileBlock)
        assert (block.file, block.filename, block.bytes) == (id, "größe.docx", 7)
        assert block.digest == hashlib.sha256(b"PK\x03\x04\xff\xfe\0").hexdigest()
        assert block.data is None, "a file of 300 MB does not pass Redis"
        assert block.store
    assert len(api.worker.requests) == 4


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
        id = await upload(api, "a.docx", ODD)
        first = asking(file_part(id))
        await ask(api, first)
        said = {"role": "assistant", "content": "A picture."}
        await ask(api, first, said, {"role": "user", "content": "Sure?"})
        again = await upload(api, "a.docx", ODD)
        await ask(api, asking(file_part(again)))
        data = f"data:application/msword;base64,{encoded(ODD)}"
        await ask(api, asking({"type": "input_file", "file_data": data}))
    first_digests = {request.sent[0] for request in api.worker.requests}
    assert len(api.worker.requests) == 4
    assert len(first_digests) == 1


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


async def test_a_message_names_so_many_files_and_bytes_and_no_more() -> None:
    settings = {"request_files_max": 2, "request_file_bytes_max": 10_000}
    async with running_api(settings=settings) as api:
        small = [await upload(api, f"{n}.txt", b"x" * 4_000) for n in range(3)]
        large = await upload(api, "large.txt", b"x" * 7_000)
        fits = await ask(api, asking(*map(file_part, small[:2])))
        too_many = await ask(api, asking(*map(file_part, small)))
        too_much = await ask(api, asking(file_part(small[0]), file_part(large)))
    assert fits.status_code == 200
    assert code_of(too_many)[:2] == (400, "invalid_request")
    assert code_of(too_much)[:2] == (413, "file_too_large")


async def test_files_of_earlier_messages_stay_the_same_beside_new_ones() -> None:
    settings = {"request_files_max": 2, "request_file_bytes_max": 10_000}
    said = {"role": "assistant", "content": "Text."}
    async with running_api(settings=settings) as api:
        ids = [await upload(api, f"{n}.txt", b"%d" % n * 4_000) for n in range(6)]
        messages = [asking(*map(file_part, ids[at : at + 2])) for at in (0, 2, 4)]
        first = await ask(api, messages[0])
        second = await ask(api, messages[0], said, messages[1])
        third = await ask(api, messages[0], said, messages[1], said, messages[2])
    assert first.status_code == second.status_code == third.status_code == 200
    # By these digests the conversation finds what its agent remembers.
    one, two, three = (request.sent for request in api.worker.requests)
    assert (three[:1], three[:2]) == (one, two)
    for message in api.worker.requests[-1].history[::2]:
        assert [block.type for block in message.content] == ["text", "file", "file"]
