"""Files by the official client: uploaded, listed, read and deleted, as OpenAI's are."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import FileObject
from pydantic import TypeAdapter

from tests.fakes.running_api import KEY, RunningApi, running_api
from tests.fakes.s3_server import S3Server, s3_server

STORE_ID = "files/store-id"
OTHER_KEY = "sk-ant-another-0123456789"
CONTENT = bytes(range(256)) * 4
ANY_NAME = [
    "../../etc/passwd",
    "..\\..\\windows\\system.ini",
    "/etc/passwd",
    "C:\\autoexec.bat",
    "naïve résumé 履歴書 سيرة 📄.pdf",
    "\u202etxt.exe",
    "-rf",
    ".",
    "..",
    " ",
    "%2e%2e%2f",
    "a'b;c|d&e$(f)`g`",
    "n" * 512,
    "con",
    "<script>alert(1)</script>.html",
]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def kept_in(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "folder":
        return {}
    server: S3Server = request.getfixturevalue("s3")
    return {"file_store": server.url, "file_store_options": server.options}


@asynccontextmanager
async def serving(
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[RunningApi, openai.AsyncOpenAI]]:
    async with AsyncExitStack() as held:
        api = await held.enter_async_context(running_api(settings=settings, has_worker=False))
        # Answers that are not exactly of the client's types are errors.
        client = await held.enter_async_context(api.openai(_strict_response_validation=True))
        yield api, client


def objects_in(api: RunningApi) -> list[str]:
    folder = api.deps.settings.data_dir / "files" / "files"
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def all_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def code_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


async def post(api: RunningApi, **more: Any) -> httpx.Response:
    given: dict[str, Any] = {
        "files": {"file": ("a.txt", CONTENT)},
        "data": {"purpose": "user_data"},
    }
    return await api.http.post("/v1/files", **(given | more))


async def test_a_file_goes_in_and_comes_out(kept_in: dict[str, Any]) -> None:
    content = secrets.token_bytes(6 * 1024 * 1024 + 17)
    async with serving(kept_in) as (_, client):
        made = await client.files.create(file=("paper.pdf", content), purpose="user_data")
        shown = await client.files.retrieve(made.id)
        waited = await client.files.wait_for_processing(made.id)
        back = await client.files.content(made.id)
        listed = [one async for one in await client.files.list()]
        gone = await client.files.delete(made.id)
        left = [one async for one in await client.files.list()]
        with pytest.raises(openai.NotFoundError):
            await client.files.content(made.id)
    assert made == shown == waited == listed[0]
    assert (made.bytes, made.filename, made.purpose) == (len(content), "paper.pdf", "user_data")
    assert back.content == content
    assert gone.deleted
    assert left == []


async def test_a_file_comes_through_either_replica(s3: S3Server) -> None:
    kept_in = {"file_store": s3.url, "file_store_options": s3.options}
    async with (
        serving(kept_in) as (here, client),
        running_api(settings=kept_in, store=here.store, has_worker=False) as there,
        there.openai() as other,
    ):
        made = await client.files.create(file=("a.bin", CONTENT), purpose="assistants")
        assert (await other.files.content(made.id)).content == CONTENT
        await other.files.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)


async def test_two_replicas_with_folders_of_their_own_say_so() -> None:
    async with (
        serving() as (here, client),
        running_api(store=here.store, has_worker=False) as there,
    ):
        made = await client.files.create(file=("a.bin", CONTENT), purpose="assistants")
        shown = await there.http.get(f"/v1/files/{made.id}")
        read = await there.http.get(f"/v1/files/{made.id}/content")
        gone = await there.http.delete(f"/v1/files/{made.id}")
        assert shown.status_code == gone.status_code == 200
        assert code_of(read) == (503, "file_store_unavailable", None)
        # Its bytes are removed by who has them.
        store = await here.deps.files._intake.store()
        assert len(objects_in(here)) == 1
        assert await here.store.redis.zcard(here.store.keys.files_due(store)) == 1


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_048_577])
async def test_files_of_odd_sizes_come_back_whole(kept_in: dict[str, Any], size: int) -> None:
    content = secrets.token_bytes(size)
    async with serving(kept_in) as (_, client):
        made = await client.files.create(file=("x", content), purpose="user_data")
        back = await client.files.content(made.id)
    assert made.bytes == size
    assert back.content == content


async def test_pages_follow_each_other_in_both_orders() -> None:
    async with serving() as (_, client):
        made = [
            await client.files.create(
                file=(f"{n}.txt", b"x"), purpose="vision" if n % 2 else "user_data"
            )
            for n in range(7)
        ]
        newest_first = [one.id async for one in await client.files.list(limit=2)]
        oldest_first = [one.id async for one in await client.files.list(limit=3, order="asc")]
        pictures = [one.id async for one in await client.files.list(purpose="vision", limit=1)]
        page = await client.files.list(limit=2, order="asc")
        await client.files.delete(page.data[1].id)
        behind = await client.files.list(limit=2, order="asc", after=page.data[1].id)
    ids = [one.id for one in made]
    assert newest_first == ids[::-1]
    assert oldest_first == ids
    assert pictures == [ids[5], ids[3], ids[1]]
    assert page.has_more
    assert [one.id for one in behind.data] == ids[2:4], "also behind one that is gone"


async def test_a_page_costs_the_same_however_many_files_there_are() -> None:
    async def commands(count: int) -> int:
        async with serving() as (api, client):
            for n in range(count):
                await client.files.create(file=(f"{n}", b"x"), purpose="user_data")
            calls = 0
            execute = api.store.redis.execute_command

            async def spy(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                return await execute(*args, **options)  # type: ignore[no-untyped-call]

            api.store.redis.execute_command = spy  # type: ignore[method-assign]
            await client.files.list(limit=2)
            return calls

    assert await commands(3) == await commands(12)


async def test_files_expire_when_they_were_told_to() -> None:
    async with serving() as (_, client):
        made = await client.files.create(
            file=("a", b"x"),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        batch = await client.files.create(file=("b", b"x"), purpose="batch")
        kept = await client.files.create(file=("c", b"x"), purpose="user_data")
    assert made.expires_at == made.created_at + 3600
    assert batch.expires_at == batch.created_at + 30 * 86400
    assert kept.expires_at is None


@pytest.mark.parametrize("name", ANY_NAME)
async def test_a_name_is_data_and_no_path(name: str) -> None:
    async with serving() as (api, client):
        made = await client.files.create(file=(name, CONTENT), purpose="user_data")
        shown = await client.files.retrieve(made.id)
        back = await client.files.content(made.id)
        assert objects_in(api) == [made.id]
        assert all_in(api.deps.settings.data_dir) == {
            f"files/files/{made.id[-2:]}/{made.id}",
            STORE_ID,
        }
    told = back.response.headers["content-disposition"]
    assert shown.filename == made.filename
    assert back.content == CONTENT
    assert told.startswith('attachment; filename="')
    assert not {"/", "\\", "<", "\n"} & set(told)
    assert ".." not in told.split(";")[1]


async def test_a_name_that_is_too_long_is_refused_and_nothing_stays() -> None:
    async with serving() as (api, _):
        answer = await post(api, files={"file": ("n" * 4096, CONTENT)})
        assert code_of(answer) == (400, "invalid_request", "file")
        assert objects_in(api) == []


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "fun"}, "purpose"),
        ({"purpose": "user_data", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        (
            {"purpose": "vision", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
        ),
        *(
            (
                {
                    "purpose": "vision",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": seconds,
                },
                "expires_after[seconds]",
            )
            for seconds in ("3599", "2592001", "x", "", "-1", "1e4", "9" * 30)
        ),
    ],
)
async def test_what_is_said_wrongly_is_named_and_nothing_stays(
    data: dict[str, str], param: str
) -> None:
    async with serving() as (api, client):
        answer = await post(api, data=data)
        assert code_of(answer) == (400, "invalid_request", param)
        assert (await client.files.list()).data == []
        assert objects_in(api) == []
        assert await _kept(api) == {}


async def test_a_form_without_a_file_is_refused() -> None:
    async with serving() as (api, _):
        none = await post(api, files={"other": ("a", b"x")})
        two = await post(api, files=[("file", ("a", b"x")), ("file", ("b", b"y"))])
        no_form = await api.http.post("/v1/files", json={"purpose": "user_data"})
        cut = await api.http.post(
            "/v1/files",
            content=b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nxx',
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        garbled = await api.http.post(
            "/v1/files",
            content=b"x" * 1000,
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        assert code_of(none) == code_of(two) == (400, "invalid_request", "file")
        assert code_of(no_form) == (400, "invalid_request", "Content-Type")
        assert code_of(cut) == code_of(garbled) == (400, "invalid_request", None)
        assert objects_in(api) == []
        assert await _kept(api) == {}


async def test_ranges() -> None:
    async with serving() as (api, client):
        made = await client.files.create(file=("a", CONTENT), purpose="user_data")
        there = f"/v1/files/{made.id}/content"

        async def get(span: str, **more: str) -> httpx.Response:
            return await api.http.get(there, headers={"range": span} | more)

        size = len(CONTENT)
        for span, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=1000-", 1000, size),
            ("bytes=1000-9999", 1000, size),
            ("bytes=-24", size - 24, size),
        ):
            answer = await get(span)
            assert (answer.status_code, answer.content) == (206, CONTENT[start:end]), span
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        for span in ("bytes=0-1,5-6", "lines=1-2", "bytes=5-4", "bytes=-", "nonsense", "bytes=0-"):
            answer = await get(span)
            assert (answer.status_code, answer.content) == (200, CONTENT), span
        for span in (f"bytes={size}-", "bytes=-0", "bytes=99999-100000"):
            assert code_of(await get(span)) == (416, "range_not_satisfiable", "Range")
        tag = (await api.http.get(there)).headers["etag"]
        same = await get("bytes=0-9", **{"if-range": tag})
        changed = await get("bytes=0-9", **{"if-range": '"another"'})
        assert (same.status_code, changed.status_code) == (206, 200)
        assert tag == f'"{hashlib.sha256(CONTENT).hexdigest()}"'


async def test_what_is_in_a_file_means_nothing_to_a_browser() -> None:
    page = b"<html><script>alert(document.domain)</script>"
    async with serving() as (api, _):
        made = await post(api, files={"file": ("a.html", page, "text/html")})
        answer = await api.http.get(f"/v1/files/{made.json()['id']}/content")
    assert answer.content == page
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="a.html"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


async def test_another_key_finds_nothing() -> None:
    async with serving() as (api, client), api.openai(api_key=OTHER_KEY) as stranger:
        made = await client.files.create(file=("a", CONTENT), purpose="user_data")
        for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)
        assert (await stranger.files.list()).data == []
        behind = await stranger.files.list(after=made.id, order="asc")
        assert behind.data == []
        assert (await client.files.content(made.id)).content == CONTENT


async def test_paths_work_without_v1_too() -> None:
    async with serving() as (api, _):
        made = await api.http.post(
            "/files", files={"file": ("a", CONTENT)}, data={"purpose": "user_data"}
        )
        found = TypeAdapter(FileObject).validate_python(made.json(), strict=True)
        assert (await api.http.get(f"/files/{found.id}/content")).content == CONTENT
        assert (await api.http.get("/files")).json()["data"][0]["id"] == found.id
        assert (await api.http.delete(f"//v1/files/{found.id}/")).status_code == 200


async def test_the_fields_may_stand_behind_the_file() -> None:
    form = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n'
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'
    )
    async with serving() as (api, _):
        made = await api.http.post(
            "/v1/files",
            content=form,
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        back = await api.http.get(f"/v1/files/{made.json()['id']}/content")
    assert made.json()["filename"] == "a.txt"
    assert back.content == b"hello"


async def _kept(api: RunningApi) -> dict[Any, Any]:
    """What is counted for the key."""
    from infra.runtime.identity import tenant_id

    secret = api.deps.settings.secret
    assert secret is not None
    tenant = tenant_id(secret.get_secret_value().encode(), KEY)
    found: dict[Any, Any] = await api.store.redis.hgetall(api.store.keys.tenant_filed(tenant))  # type: ignore[misc]
    return found
