"""Files that agents make: links in answers, the files behind them, and a session's files."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from api.http.files_host import LINKS_AT
from infra.runtime.links import LinkSigner
from infra.wire.events import Artifact, TextDelta, ToolCall, TurnFiles, TurnStarted
from infra.wire.history.answers import shown_head
from infra.wire.ids import ConversationKey, FileId
from infra.wire.turns import TextBlock
from tests.fakes.echo_worker import DONE
from tests.fakes.running_api import RunningApi, running_api
from tests.fakes.s3_server import S3Server, s3_server
from tests.integration.api.test_files import OTHER_KEY, code_of

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
CSV = b"a,b\n1,2\n"
HTML = b"<script>alert(1)</script>"
NAME = {"X-Conversation-ID": "files"}
PUBLIC = "https://agents.example.org"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A store that two replicas share."""
    if request.param == "folder":
        return {"file_store": f"file://{tmp_path}/store"}
    server: S3Server = request.getfixturevalue("s3")
    return {"file_store": server.url, "file_store_options": server.options}


class Scene:
    """An API whose agent makes files when it is told `make`."""

    def __init__(self, api: RunningApi) -> None:
        self.api = api
        self.conversation = ConversationKey("")
        self.kept = list[Artifact]()

    async def begin(self) -> None:
        await self.api.chat("hello", headers=NAME)
        shown = (await self.api.http.get("/v1/sessions/files")).json()
        self.conversation = ConversationKey(shown["conversation"])

    async def keep(self, path: str, content: bytes, media_type: str) -> Artifact:
        """As a worker does."""
        name = path.rpartition("/")[2]
        made = await self.api.http.post(
            "/v1/files",
            files={"file": (name, content, media_type)},
            data={"purpose": "user_data"},
        )
        one = Artifact(
            file=FileId(made.json()["id"]),
            path=path,
            bytes=len(content),
            media_type=media_type,
            expires_ms=4_000_000_000_000,
        )
        await self.api.store.made.note(self.conversation, one.file, path, life_s=3600)
        self.kept.append(one)
        return one

    def will_make(self, *text: str, made: TurnFiles | None = None, has_form: bool = False) -> None:
        made = made or TurnFiles(files=tuple(self.kept))
        self.api.worker.say(
            "make",
            [
                TurnStarted(sdk_session="s", model="m", has_form=has_form),
                ToolCall(id="1", name="Write", summary="x"),
                *(TextDelta(text=one) for one in text),
                DONE.model_copy(update={"made": made}),
            ],
        )

    async def ask(self, **more: Any) -> httpx.Response:
        return await self.api.chat("make", headers=NAME, **more)

    async def get(self, url: str, **headers: str) -> httpx.Response:
        """As a browser, without a key, from this replica."""
        parts = urlsplit(url)
        async with httpx.AsyncClient(base_url=self.api.url) as browser:
            return await browser.get(parts.path, headers={"host": parts.netloc, **headers})


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with running_api(settings={"public_url": PUBLIC}) as api:
        scene = Scene(api)
        await scene.begin()
        await scene.keep("outputs/plot.png", PNG, "image/png")
        await scene.keep("data.csv", CSV, "text/csv")
        yield scene


def links_of(answer: dict[str, Any]) -> list[str]:
    return [one["url"] for one in answer["agcluster"]["files"]]


async def test_an_answer_ends_with_links_that_work_without_a_key(scene: Scene) -> None:
    scene.will_make("Here you are.")
    answer = (await scene.ask()).json()
    plot, data = links_of(answer)
    content = answer["choices"][0]["message"]["content"]
    assert plot.startswith(f"{PUBLIC}/v1/artifacts/")
    assert content == (
        f"Here you are.\n\n---\n**Files**\n\n![plot\\.png]({plot})\n\n"
        f"- [plot\\.png]({plot}) · 28 B\n- [data\\.csv]({data}) · 8 B\n"
    )
    ChatCompletion.model_validate(answer, strict=False)
    picture, table = await scene.get(plot), await scene.get(data)
    assert (picture.content, table.content) == (PNG, CSV)
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["content-disposition"].startswith("inline")
    assert table.headers["content-type"] == "application/octet-stream"
    assert table.headers["content-disposition"] == 'attachment; filename="data.csv"'
    for one in (picture, table):
        assert one.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in one.headers["content-security-policy"]


async def test_a_stream_says_the_same_as_a_whole_answer(scene: Scene) -> None:
    scene.will_make("Here you are.")
    whole = (await scene.ask()).json()
    streamed = (await scene.ask(stream=True)).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)
    assert text == whole["choices"][0]["message"]["content"], "links are the same each time"
    assert chunks[-1]["agcluster"] == whole["agcluster"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_annotations_have_the_form_that_open_webui_shows() -> None:
    async with running_api(
        settings={"public_url": PUBLIC, "artifact_display": "annotations"}
    ) as api:
        scene = Scene(api)
        await scene.begin()
        await scene.keep("outputs/plot.png", PNG, "image/png")
        scene.will_make("Here.")
        answer = (await scene.ask()).json()
        message = answer["choices"][0]["message"]
        assert message["content"] == "Here."
        cited = {"url": links_of(answer)[0], "title": "plot.png", "start_index": 0, "end_index": 0}
        assert message["annotations"] == [{"type": "url_citation", "url_citation": cited}]
        streamed = (await scene.ask(stream=True)).text
        assert json.dumps(message["annotations"], separators=(",", ":")) in streamed


async def test_without_a_public_url_there_are_no_links() -> None:
    async with running_api() as api:
        scene = Scene(api)
        await scene.begin()
        await scene.keep("a.png", PNG, "image/png")
        scene.will_make("Here.")
        answer = (await scene.ask()).json()
        assert answer["choices"][0]["message"]["content"] == "Here."
        assert links_of(answer) == [None]


async def test_a_json_answer_stays_json(scene: Scene) -> None:
    scene.will_make('{"a": 1}', has_form=True)
    answer = (await scene.ask(response_format={"type": "json_object"})).json()
    assert answer["choices"][0]["message"]["content"] == '{"a": 1}'
    assert len(links_of(answer)) == 2


async def test_an_answer_of_files_only_comes_back_as_the_same_answer(scene: Scene) -> None:
    scene.will_make()
    content = (await scene.ask()).json()["choices"][0]["message"]["content"]
    scene.will_make("Short.")
    longer = (await scene.ask()).json()["choices"][0]["message"]["content"]
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": longer},
        {"role": "user", "content": "three"},
    ]
    await scene.api.chat("", messages=messages, headers=NAME)
    request = scene.api.worker.requests[-1]
    assert request.answers[-1] == shown_head("Short.")
    said = [block for one in request.history for block in one.content]
    assert all(isinstance(block, TextBlock) and LINKS_AT not in block.text for block in said)


async def test_names_mean_nothing_in_an_answer(scene: Scene) -> None:
    scene.kept.clear()
    name = "](javascript:alert(1)) ![x](http://evil.example/) <img src=x> www.evil.example"
    await scene.keep(f"outputs/{name}", b"x", "text/html")
    scene.will_make(
        "ok", made=TurnFiles(files=tuple(scene.kept), not_kept=("<b>[a](b) (too large)",))
    )
    content = (await scene.ask()).json()["choices"][0]["message"]["content"]
    # A backslash takes its meaning from each sign.
    shown = re.sub(r"\\[!-/:-@\[-`{-~]", "", content)
    assert shown.count("](") == 1
    assert "<" not in shown
    assert "www.evil" not in shown.partition("](")[0]


async def test_a_forged_expired_or_deleted_link_is_refused(scene: Scene) -> None:
    one = scene.kept[0]
    signer = LinkSigner([b"test-secret-test-secret-test-secret-"])
    good = signer.token(one.file, expires_ms=one.expires_ms)
    assert (await scene.get(f"{PUBLIC}{LINKS_AT}/{good}/x")).content == PNG
    other = LinkSigner([b"another-secret-another-secret-anothe"])
    for token in (other.token(one.file, expires_ms=one.expires_ms), good[:-2] + "xx", "x", "." * 9):
        assert (await scene.get(f"{PUBLIC}{LINKS_AT}/{token}/x")).status_code == 404
    expired = await scene.get(f"{PUBLIC}{LINKS_AT}/{signer.token(one.file, expires_ms=1)}/x")
    assert code_of(expired)[:2] == (410, "link_expired")
    await scene.api.http.delete(f"/v1/files/{one.file}")
    assert (await scene.get(f"{PUBLIC}{LINKS_AT}/{good}/x")).status_code == 410


async def test_another_replica_serves_the_same_links(kept_in: dict[str, Any]) -> None:
    settings = {"public_url": PUBLIC, **kept_in}
    async with running_api(settings=settings) as api:
        scene = Scene(api)
        await scene.begin()
        await scene.keep("a.png", PNG, "image/png")
        scene.will_make("x")
        link = links_of((await scene.ask()).json())[0]
        async with running_api(settings=settings, store=api.store, has_worker=False) as other:
            assert (await Scene(other).get(link, range="bytes=0-7")).content == PNG[:8]
            await other.http.delete("/v1/sessions/files")
        assert (await scene.get(link)).status_code == 410


async def test_links_of_an_old_secret_work_as_long_as_it_is_named() -> None:
    old = "an-old-secret-an-old-secret-an-old-s"
    async with running_api(settings={"public_url": PUBLIC, "old_secrets": old}) as api:
        scene = Scene(api)
        await scene.begin()
        one = await scene.keep("a.txt", b"text", "text/plain")
        token = LinkSigner([old.encode()]).token(one.file, expires_ms=one.expires_ms)
        found = await scene.get(f"{PUBLIC}{LINKS_AT}/{token}/a.txt")
        assert (found.text, found.headers["content-type"]) == ("text", "text/plain; charset=utf-8")


async def test_ranges_of_a_link(scene: Scene) -> None:
    scene.will_make("x")
    link = links_of((await scene.ask()).json())[1]
    part = await scene.get(link, range="bytes=2-3")
    assert (part.status_code, part.content) == (206, CSV[2:4])
    assert (await scene.get(link, range="bytes=99-")).status_code == 416


@pytest.mark.parametrize("said", ["text/html", "image/svg+xml", "application/pdf"])
async def test_what_could_run_in_a_browser_is_saved(scene: Scene, said: str) -> None:
    await scene.keep("page", HTML, said)
    scene.will_make("x")
    found = await scene.get(links_of((await scene.ask()).json())[-1])
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-disposition"].startswith("attachment")


async def test_a_host_of_its_own_has_files_and_nothing_else() -> None:
    files = "https://files.example.org"
    async with running_api(settings={"public_url": PUBLIC, "files_url": files}) as api:
        scene = Scene(api)
        await scene.begin()
        await scene.keep("a.png", PNG, "image/png")
        scene.will_make("x")
        link = links_of((await scene.ask()).json())[0]
        assert link.startswith(files)
        assert (await scene.get(link)).content == PNG
        assert (await scene.get(f"{files}/v1/models")).status_code == 404
        assert (await scene.get(f"{files}/health")).status_code == 404
        moved = await scene.get(link.replace(files, PUBLIC))
        assert (moved.status_code, moved.headers["location"]) == (308, link)


async def test_a_sessions_files_are_listed_read_and_zipped(scene: Scene) -> None:
    newer = await scene.keep("data.csv", b"newer", "text/csv")
    http = scene.api.http
    listed = (await http.get("/v1/sessions/files/files")).json()["data"]
    assert [(one["path"], one["bytes"]) for one in listed] == [
        ("data.csv", 5),
        ("outputs/plot.png", len(PNG)),
    ]
    assert listed[0]["id"] == newer.file
    one = await http.get("/v1/sessions/files/files/content", params={"path": "data.csv"})
    assert one.content == b"newer"
    none = await http.get("/v1/sessions/files/files/content", params={"path": "../x"})
    assert none.status_code == 404
    zipped = await http.get("/sessions/files/files.zip")
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as read:
        assert {name: read.read(name) for name in read.namelist()} == {
            "data.csv": b"newer",
            "outputs/plot.png": PNG,
        }


async def test_openais_client_reads_container_files(scene: Scene) -> None:
    container = f"cntr_{scene.conversation}"
    async with scene.api.openai() as client:
        listed = [one async for one in client.containers.files.list(container)]
        assert [one.path for one in listed] == [
            "/workspace/data.csv",
            "/workspace/outputs/plot.png",
        ]
        one = await client.containers.files.retrieve(listed[1].id, container_id=container)
        assert (one.bytes, one.source) == (len(PNG), "assistant")
        content = await client.containers.files.content.retrieve(
            listed[1].id, container_id=container
        )
        assert content.content == PNG


async def test_another_tenant_sees_nothing_of_it(scene: Scene) -> None:
    other = {"authorization": f"Bearer {OTHER_KEY}"}
    container = f"/v1/containers/cntr_{scene.conversation}/files"
    for path in (
        "/v1/sessions/files/files",
        f"/v1/sessions/{scene.conversation}/files",
        f"/v1/sessions/{scene.conversation}/files.zip",
        container,
        f"{container}/{scene.kept[0].file}",
        f"{container}/{scene.kept[0].file}/content",
    ):
        assert (await scene.api.http.get(path, headers=other)).status_code == 404, path


async def test_a_deleted_session_leaves_no_file(scene: Scene) -> None:
    scene.will_make("x")
    links = links_of((await scene.ask()).json())
    await scene.api.http.delete("/v1/sessions/files")
    assert [(await scene.get(link)).status_code for link in links] == [410, 410]
    assert (await scene.api.http.get("/v1/files")).json()["data"] == []
