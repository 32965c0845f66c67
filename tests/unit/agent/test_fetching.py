"""Files that a message names by URL, fetched in the sandbox through the egress proxy."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import fetching
from agent.fetching import fetch_files
from agent.forwarder import Forwarder
from agent.turn import RunningTurn
from infra.wire.files import room_to_show
from infra.wire.ids import TurnId
from infra.wire.link import AgentSettings, InterruptReason, StartTurn
from infra.wire.turns import ContentBlock, DocumentBlock, FileBlock, ImageBlock, TextBlock

PNG = b"\x89PNG\r\n\x1a\npixels"
ASK = TextBlock(text="What is it?")


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


ANSWERS = {
    "/a%20b.bin": answer("200 OK", PNG, Content_Type="text/html"),
    "/a.pdf": answer("200 OK", b"%PDF-1.7"),
    "/page": answer("200 OK", b"some text", Content_Type="text/plain; charset=utf-8"),
    "/b.docx": answer("200 OK", b"PK\x03\x04\xff", Content_Type="application/msword"),
    "/..%2f..%2fetc%2fpasswd": answer("200 OK", b"\xff\0"),
    "/": answer("200 OK", b"\xff\0"),
    "/moved": answer("302 Found", Location="http://other.example/page"),
    "/round": answer("302 Found", Location="/round"),
    "/to-a-file": answer("302 Found", Location="file:///etc/passwd"),
    "/missing": answer("404 Not Found"),
    "/forbidden": answer("403 Forbidden"),
    "/large": answer("200 OK", b"\xff" * 300_000),
    "/short": answer("200 OK", b"\xff" * 100)[:-50],
    "/nonsense": b"\0\xff no HTTP at all\r\n\r\n",
}


class Scene:
    """A sandbox with a way out."""

    def __init__(self, workspace: Path) -> None:
        self.asked = list[str]()
        """The URLs that its proxy was asked for."""
        self.is_asked = asyncio.Event()
        self.forwarder: Forwarder
        self._workspace = workspace

    async def fetch(self, *paths: str) -> StartTurn:
        turn = running(*paths)
        await self.run(turn)
        return turn.start

    async def run(self, turn: RunningTurn) -> None:
        await fetch_files(turn, self._workspace, self.forwarder)

    @property
    def files(self) -> dict[str, bytes]:
        return {one.name: one.read_bytes() for one in (self._workspace / "uploads").iterdir()}


def at(path: str, name: str | None = None) -> FileBlock:
    url = f"http://web.example{path}"
    return FileBlock(media_type="", bytes=0, digest="0" * 64, filename=name, url=url)


def running(*paths: str) -> RunningTurn:
    settings = AgentSettings(model="m", tools=())
    prompt: tuple[ContentBlock, ...] = (ASK, *map(at, paths))
    return RunningTurn(StartTurn(turn=TurnId("turn_1"), settings=settings, prompt=prompt))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene, over, serving = Scene(tmp_path), asyncio.Event(), set[asyncio.Task[None] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        url = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        scene.asked.append(url)
        scene.is_asked.set()
        path = "/" + url.removeprefix("http://").partition("/")[2]
        if path == "/silent":
            await over.wait()
        while path == "/slow" and not (over.is_set() or writer.is_closing()):
            writer.write(b"H")
            await asyncio.sleep(0.02)
        writer.write(ANSWERS.get(path.rstrip("?"), b""))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    with tempfile.TemporaryDirectory(prefix="agc-", dir="/tmp") as folder:
        socket = Path(folder) / "egress.sock"
        server = await asyncio.start_unix_server(serve, path=socket)
        async with asyncio.TaskGroup() as group:
            scene.forwarder = Forwarder(socket, group, port=0)
            yield scene
            over.set()
            scene.forwarder.close()
            server.close()
            await asyncio.gather(*filter(None, serving))


async def test_a_file_lands_in_the_workspace_and_the_model_gets_what_it_reads(
    scene: Scene, tmp_path: Path
) -> None:
    start = await scene.fetch("/a%20b.bin", "/a.pdf", "/page", "/b.docx")
    there = tmp_path / "uploads"
    assert start.prompt == (
        ASK,
        TextBlock(text=f"[File: {there}/a b.bin, 14 bytes, image/png]"),
        ImageBlock(media_type="image/png", data=base64.b64encode(PNG).decode()),
        TextBlock(text=f"[File: {there}/a.pdf, 8 bytes, application/pdf]"),
        DocumentBlock(media_type="application/pdf", data=base64.b64encode(b"%PDF-1.7").decode()),
        TextBlock(text=f"[File: {there}/page, 9 bytes, text/plain]\nsome text"),
        TextBlock(text=f"[File: {there}/b.docx, 5 bytes, application/msword]"),
    )
    assert start.notices == ()
    assert set(scene.files) == {"a b.bin", "a.pdf", "page", "b.docx"}
    assert scene.files["a b.bin"] == PNG
    # Again it is the same file.
    await scene.fetch("/page")
    assert len(scene.files) == 4


async def test_the_model_is_shown_so_much_of_a_turn_and_the_rest_is_named(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_to_show, "NATIVE_MAX_BYTES", 20)
    monkeypatch.setattr(room_to_show, "TEXTS_MAX_BYTES", 10)
    start = await scene.fetch("/a%20b.bin", "/a%20b.bin?", "/page", "/page?")
    assert len(scene.files) == 2
    kinds = sorted(block.type for block in start.prompt[1:])
    assert kinds == ["image", "text", "text", "text", "text"]
    told = [block.text for block in start.prompt if isinstance(block, TextBlock)]
    assert sum("[File: " in text for text in told) == 4
    assert sum("some text" in text for text in told) == 1


async def test_what_it_leads_to_is_asked_of_the_proxy_as_well(scene: Scene) -> None:
    start = await scene.fetch("/moved")
    assert isinstance(start.prompt[1], TextBlock)
    assert "some text" in start.prompt[1].text
    assert scene.asked == ["http://web.example/moved", "http://other.example/page"]


async def test_a_name_in_a_url_is_no_path(scene: Scene) -> None:
    await scene.fetch("/..%2f..%2fetc%2fpasswd", "/")
    assert set(scene.files) == {"passwd", "application.bin"}


NOT_FETCHED = {
    "/missing": "its server answered 404",
    "/forbidden": "its server answered 403",
    "/round": "its server answered 302",
    "/to-a-file": "its server answered 302",
    "/large": "it has more than 200,000 bytes",
    "/short": "its server broke off",
    "/nonsense": "its server cannot be reached",
    "/closed": "its server cannot be reached",
    "/silent": "it took too long",
    "/slow": "it took too long",
}


@pytest.mark.parametrize(("path", "why"), NOT_FETCHED.items())
async def test_what_cannot_be_fetched_is_told_and_leaves_nothing(
    scene: Scene, path: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FILE_MAX_BYTES", 200_000)
    monkeypatch.setattr(fetching, "FETCH_TIMEOUT_S", 0.5)
    start = await scene.fetch(path)
    (notice,) = start.notices
    assert notice.startswith(f"A file could not be fetched: {why}")
    _, note = start.prompt
    assert isinstance(note, TextBlock)
    assert note.text.startswith(f"[The file at http://web.example{path} could not be fetched")
    # What was given up ends too, and holds no thread.
    for thread in threading.enumerate():
        if thread.name.startswith("fetch"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
    assert scene.files == {}


async def test_an_interrupted_turn_does_not_wait_for_it(scene: Scene) -> None:
    turn = running("/silent")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(scene.run(turn))
        await scene.is_asked.wait()
        turn.interrupt(InterruptReason.CANCELLED)
        async with asyncio.timeout(5):
            await waiting
    assert turn.start.prompt == (ASK, at("/silent"))


async def test_an_agent_without_egress_says_so(tmp_path: Path) -> None:
    turn = running("/page")
    async with asyncio.TaskGroup() as group:
        forwarder = Forwarder(tmp_path / "egress.sock", group, port=0)
        await fetch_files(turn, tmp_path, forwarder)
    assert turn.start.notices == ("A file could not be fetched: this agent has no network.",)


async def test_a_turn_without_urls_is_left_alone(tmp_path: Path) -> None:
    turn = running()
    start = turn.start
    async with asyncio.TaskGroup() as group:
        await fetch_files(turn, tmp_path, Forwarder(tmp_path / "egress.sock", group, port=0))
    assert turn.start is start
