"""The files of a turn's messages, in the workspace before the turn starts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from infra.files.names import object_name
from infra.files.open import open_file_store
from infra.files.store import PIECE_BYTES, FileStore
from infra.runtime.identity import new_file_id
from infra.runtime.settings import FileStoreSettings
from infra.wire.errors import ErrorCode, FileStoreUnavailable
from infra.wire.events import Notice, decode_event
from infra.wire.ids import FileId
from infra.wire.states import TurnState
from infra.wire.turns import ContentBlock, DocumentBlock, FileBlock, ImageBlock, Lane, TextBlock
from tests.fakes.s3_server import s3_server
from tests.fakes.worker_stage import TENANT, Stage, conversation, eventually
from worker.conversations.files import files_in
from worker.turns.files import file_bytes
from worker.turns.files.sent_files import LARGE_PICTURES, MANY_PICTURES, PICTURES_MAX, sides_of

C = conversation("one")
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
PDF = b"%PDF-1.7 a document"
ASK = TextBlock(text="hello")
SECRET = "an uploaded secret"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def inline(name: str, content: bytes, media_type: str = "") -> FileBlock:
    return FileBlock(
        media_type=media_type,
        bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        filename=name,
        data=encoded(content),
    )


@dataclass
class Scene:
    stage: Stage
    files: FileStore

    @property
    def uploads(self) -> Path:
        return self.stage.folder / "w" / C / "uploads"

    async def stored(self, name: str, content: bytes) -> FileBlock:
        """A file in the store, as a message names it."""
        id = new_file_id(1_700_000_000_000)

        async def pieces() -> AsyncIterator[bytes]:
            yield content

        await self.files.put(object_name(id), pieces())
        block = inline(name, content)
        store = await self.files.identity()
        return block.model_copy(update={"data": None, "file": id, "store": store})

    async def told(
        self, *blocks: ContentBlock, history: tuple[tuple[ContentBlock, ...], ...] = ()
    ) -> tuple[ContentBlock, ...]:
        """What its agent is told of a message, which ends well."""
        answers = tuple("ok" for _ in history)
        turn = await self.stage.ask(C, (ASK, *blocks), history=history, answers=answers)
        ended = await self.stage.ended(turn)
        assert ended.state is TurnState.DONE, ended
        return self.stage.agents[C][-1].session.started[-1].prompt

    async def failed(self, *blocks: ContentBlock) -> ErrorCode:
        ended = await self.stage.ended(await self.stage.ask(C, (ASK, *blocks)))
        assert ended.error is not None
        return ended.error.code


@pytest.fixture
def place() -> dict[str, str]:
    """The settings of the file store; a folder if they are empty."""
    return {}


@pytest.fixture
async def scene(stage: Stage, place: dict[str, str]) -> Scene:
    files = open_file_store(FileStoreSettings.model_validate(place), data_dir=stage.folder)
    stage.files = files
    await stage.worker()
    return Scene(stage, files)


async def test_a_file_of_any_type_is_there_when_the_turn_starts(scene: Scene) -> None:
    docx, sound = b"PK\x03\x04\xff\xfe", b"RIFF\0\0\0\0WAVE"
    told = await scene.told(
        inline("a.docx", docx, "application/msword"),
        await scene.stored("b.wav", sound),
    )
    assert told == (
        ASK,
        TextBlock(text="[File: /workspace/uploads/a.docx, 6 bytes, application/msword]"),
        TextBlock(text="[File: /workspace/uploads/b.wav, 12 bytes, audio/x-wav]"),
    )
    assert (scene.uploads / "a.docx").read_bytes() == docx
    assert (scene.uploads / "b.wav").read_bytes() == sound


@pytest.mark.parametrize("is_stored", [True, False])
async def test_what_a_model_reads_it_gets_at_once_as_well(scene: Scene, is_stored: bool) -> None:
    files = {"a.bin": PNG, "b.pdf": PDF, "c.csv": "größe;1".encode()}
    blocks = [
        await scene.stored(name, content) if is_stored else inline(name, content)
        for name, content in files.items()
    ]
    told = await scene.told(*blocks)
    assert told[1:] == (
        TextBlock(text="[File: /workspace/uploads/a.bin, 14 bytes, image/png]"),
        ImageBlock(media_type="image/png", data=encoded(PNG)),
        TextBlock(text="[File: /workspace/uploads/b.pdf, 19 bytes, application/pdf]"),
        DocumentBlock(media_type="application/pdf", data=encoded(PDF), filename="b.pdf"),
        TextBlock(text="[File: /workspace/uploads/c.csv, 9 bytes, text/csv]\ngröße;1"),
    )
    assert {one.name: one.read_bytes() for one in scene.uploads.iterdir()} == files


async def test_an_inline_picture_and_document_are_files_too(scene: Scene) -> None:
    picture = ImageBlock(media_type="image/png", data=encoded(PNG))
    document = DocumentBlock(media_type="application/pdf", data=encoded(PDF), filename="../b.pdf")
    told = await scene.told(picture, document)
    assert told[1:] == (
        TextBlock(text="[File: /workspace/uploads/image.png, 14 bytes, image/png]"),
        picture,
        TextBlock(text="[File: /workspace/uploads/b.pdf, 19 bytes, application/pdf]"),
        document,
    )
    assert (scene.uploads / "image.png").read_bytes() == PNG


async def test_the_same_file_again_is_the_same_file(scene: Scene) -> None:
    stored = await scene.stored("a.bin", b"\xff\0one")
    await scene.told(stored, inline("a.bin", b"\xff\0two"), stored)
    told = await scene.told(stored, inline("a.bin", b"\xff\0two"))
    assert len(list(scene.uploads.iterdir())) == 2
    assert isinstance(told[1], TextBlock)
    assert "/workspace/uploads/a.bin, 5 bytes" in told[1].text


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with s3_server() as server:
        yield {"file_store": server.url, "file_store_options": server.options}


class TestInABucket:
    """A folder is everywhere else."""

    @pytest.fixture
    def place(self, bucket: dict[str, str]) -> dict[str, str]:
        return bucket

    async def test_a_file_of_an_object_store_arrives(self, scene: Scene) -> None:
        content = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"end"
        await scene.told(await scene.stored("large.bin", content), inline("a.bin", b"\xff\0"))
        assert (scene.uploads / "large.bin").read_bytes() == content

    async def test_a_file_that_is_gone_from_it_ends_the_turn(self, scene: Scene) -> None:
        block = await scene.stored("a.txt", b"text")
        assert block.file is not None
        await scene.files.delete(object_name(block.file))
        assert await scene.failed(block) is ErrorCode.FILE_NOT_FOUND


async def test_a_large_file_comes_piece_by_piece(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * (12 * PIECE_BYTES // 256) + b"end"
    block = await scene.stored("large.bin", content)
    sizes = list[int]()
    read = FileStore.read

    async def noting(self: FileStore, name: str, *, start: int, end: int) -> bytes:
        sizes.append(end - start)
        return await read(self, name, start=start, end=end)

    monkeypatch.setattr(FileStore, "read", noting)
    told = await scene.told(block)
    assert (scene.uploads / "large.bin").read_bytes() == content
    assert max(sizes) == PIECE_BYTES
    assert len(told) == 2


async def test_a_long_text_is_named_only(scene: Scene) -> None:
    told = await scene.told(inline("a.txt", b"x" * 200_000))
    assert told[1:] == (
        TextBlock(text="[File: /workspace/uploads/a.txt, 200,000 bytes, text/plain]"),
    )


async def test_a_file_that_does_not_fit_ends_the_turn_before_it_starts(redis: Redis) -> None:
    async with Stage(redis, workspace_max_mb=1) as stage:
        files = open_file_store(FileStoreSettings.model_validate({}), data_dir=stage.folder)
        stage.files = files
        await stage.worker()
        scene = Scene(stage, files)
        code = await scene.failed(await scene.stored("a.bin", b"\xff" * 2_000_000))
        assert code is ErrorCode.WORKSPACE_FULL
        assert stage.agents[C][-1].session.started == []
        # The conversation goes on, though its client sends the file again with its history.
        large = await scene.stored("a.bin", b"\xff" * 2_000_000)
        small = inline("b.bin", b"\xff\0")
        told = await scene.told(small, history=((ASK, large),))
        assert len(told) == 2
        assert [one.name for one in scene.uploads.iterdir()] == ["b.bin"]


async def test_a_file_that_is_named_twice_needs_its_room_once(redis: Redis) -> None:
    async with Stage(redis, workspace_max_mb=1) as stage:
        files = open_file_store(FileStoreSettings.model_validate({}), data_dir=stage.folder)
        stage.files = files
        await stage.worker()
        scene = Scene(stage, files)
        half = await scene.stored("a.bin", b"\xff" * 600_000)
        told = await scene.told(half, half.model_copy(), history=((ASK, half),))
        line = "[File: /workspace/uploads/a.bin, 600,000 bytes, application/octet-stream]"
        assert told == (ASK, TextBlock(text=line), TextBlock(text=line))
        assert [one.name for one in scene.uploads.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("what", ["gone", "elsewhere", "down", "changed"])
async def test_a_file_that_cannot_be_read_ends_its_turn_and_no_later_one(
    scene: Scene, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = await scene.stored("a.txt", SECRET.encode())
    expected = ErrorCode.FILE_NOT_FOUND
    if what == "gone":
        assert block.file is not None
        await scene.files.delete(object_name(block.file))
    elif what == "elsewhere":
        block = block.model_copy(update={"store": "0" * 16})
        expected = ErrorCode.FILE_STORE_UNAVAILABLE
    elif what == "changed":
        block = block.model_copy(update={"digest": "0" * 64})
    else:
        expected = ErrorCode.FILE_STORE_UNAVAILABLE

        async def down(self: FileStore, name: str, *, start: int, end: int) -> bytes:
            raise FileStoreUnavailable("down")

        await scene.files.identity()
        monkeypatch.setattr(FileStore, "read", down)
    assert await scene.failed(block) is expected
    assert not list(scene.uploads.iterdir()) if scene.uploads.exists() else True
    told = await scene.told(history=((ASK, block),))
    assert told == (ASK,)


async def test_an_agent_that_goes_on_gets_the_files_of_its_new_message_only(scene: Scene) -> None:
    first = inline("a.bin", b"\xff\0a")
    await scene.told(first)
    (scene.uploads / "a.bin").unlink()
    await scene.told(inline("b.bin", b"\xff\0b"), history=((ASK, first),))
    assert [one.name for one in scene.uploads.iterdir()] == ["b.bin"]


async def test_an_agent_without_memory_gets_the_files_of_the_history_with_it(
    scene: Scene,
) -> None:
    earlier = (ASK, inline("a.bin", b"\xff\0a"), await scene.stored("c.txt", b"text"))
    await scene.told(inline("b.bin", b"\xff\0b"), history=(earlier,))
    assert {one.name for one in scene.uploads.iterdir()} == {"a.bin", "b.bin", "c.txt"}
    start = scene.stage.agents[C][-1].session.started[-1]
    assert start.history[0].content == (
        ASK,
        TextBlock(text="[File: /workspace/uploads/a.bin, 3 bytes, application/octet-stream]"),
        TextBlock(text="[File: /workspace/uploads/c.txt, 4 bytes, text/plain]\ntext"),
    )


async def test_of_many_earlier_files_the_latest_are_delivered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_in, "EARLIER_MAX", 3)
    monkeypatch.setattr(files_in, "EARLIER_MAX_BYTES", 8)
    blocks = [inline(f"{n}.bin", b"\xff\0%d" % n) for n in range(5)]
    await scene.told(history=((ASK, *blocks),))
    assert {one.name for one in scene.uploads.iterdir()} == {"3.bin", "4.bin"}
    monkeypatch.setattr(files_in, "EARLIER_MAX_BYTES", 100)
    await scene.told(history=((TextBlock(text="other"), *blocks),))
    assert {one.name for one in scene.uploads.iterdir()} == {"2.bin", "3.bin", "4.bin"}


async def test_a_worker_that_dies_while_a_file_arrives_leaves_it_to_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"\xff" * (3 * PIECE_BYTES)
    block = await scene.stored("a.bin", content)
    reached, read = asyncio.Event(), FileStore.read

    async def stuck(self: FileStore, name: str, *, start: int, end: int) -> bytes:
        if start >= PIECE_BYTES:
            reached.set()
            await asyncio.Event().wait()
        return await read(self, name, start=start, end=end)

    monkeypatch.setattr(FileStore, "read", stuck)
    turn = await scene.stage.ask(C, (ASK, block))
    await reached.wait()
    await scene.stage.workers[0].kill()
    assert list(scene.uploads.iterdir()) == []
    monkeypatch.setattr(FileStore, "read", read)
    await scene.stage.lapse_lease(C)
    await scene.stage.worker()
    assert (await scene.stage.ended(turn)).state is TurnState.DONE
    assert [one.read_bytes() for one in scene.uploads.iterdir()] == [content]


async def test_a_worker_that_dies_before_the_start_has_delivered_for_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = await scene.stored("a.bin", b"\xff\0")
    gateway, reached = scene.stage.gateway, asyncio.Event()
    open_turn = type(gateway).open_turn

    async def stuck(*args: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(type(gateway), "open_turn", stuck)
    turn = await scene.stage.ask(C, (ASK, block))
    await reached.wait()
    assert [one.name for one in scene.uploads.iterdir()] == ["a.bin"]
    await scene.stage.workers[0].kill()
    monkeypatch.setattr(type(gateway), "open_turn", open_turn)
    await scene.stage.lapse_lease(C)
    await scene.stage.worker()
    assert (await scene.stage.ended(turn)).state is TurnState.DONE
    assert [one.name for one in scene.uploads.iterdir()] == ["a.bin"]


async def test_a_cancelled_turn_ends_while_its_file_arrives(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = await scene.stored("a.bin", b"\xff" * 2 * PIECE_BYTES)
    reached = asyncio.Event()

    async def stuck(self: FileStore, name: str, *, start: int, end: int) -> bytes:
        reached.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    await scene.files.identity()
    monkeypatch.setattr(FileStore, "read", stuck)
    turn = await scene.stage.ask(C, (ASK, block))
    await reached.wait()
    await scene.stage.store.turns.cancel(turn, tenant=TENANT, reason="test")
    assert (await scene.stage.ended(turn)).state is TurnState.CANCELLED
    await eventually(lambda: not scene.uploads.exists() or not list(scene.uploads.iterdir()))


async def test_the_users_files_are_in_no_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.told(inline(f"{SECRET}.txt", SECRET.encode()))
    assert SECRET not in caplog.text


async def test_a_file_of_no_store_is_told_as_such(stage: Stage) -> None:
    await stage.worker()
    block = inline("a.bin", b"x").model_copy(
        update={"data": None, "file": FileId(f"file-{'0' * 32}"), "store": "0" * 16}
    )
    ended = await stage.ended(await stage.ask(C, (ASK, block)))
    assert ended.error is not None
    assert ended.error.code is ErrorCode.FILE_STORE_UNAVAILABLE


async def test_pictures_that_the_cli_drops_or_shrinks_are_told_to_the_user(scene: Scene) -> None:
    small = ImageBlock(media_type="image/png", data=encoded(PNG))
    large = ImageBlock(media_type="image/png", data=encoded(PNG + b"x" * 600_000))
    history: tuple[tuple[ContentBlock, ...], ...] = ((ASK, *[small] * PICTURES_MAX),)

    async def notices(*blocks: ContentBlock) -> list[str]:
        turn = await scene.stage.ask(C, (ASK, *blocks), history=history, answers=("ok",))
        await scene.stage.ended(turn)
        said = (decode_event(frame.payload) for frame in scene.stage.frames[turn])
        return [one.text for one in said if isinstance(one, Notice)]

    assert await notices() == []
    many = MANY_PICTURES.format(count=PICTURES_MAX + 1, most=PICTURES_MAX)
    assert await notices(small) == [many]
    assert await notices(large) == [many, LARGE_PICTURES]


async def test_of_too_many_pictures_a_new_agent_is_shown_the_latest(scene: Scene) -> None:
    pictures = [
        ImageBlock(media_type="image/png", data=encoded(PNG + bytes([n]))) for n in range(120)
    ]
    await scene.told(pictures[-1], history=((ASK, *pictures[:-1]),))
    start = scene.stage.agents[C][-1].session.started[-1]
    shown = [one for one in start.history[0].content if isinstance(one, ImageBlock)]
    assert shown == pictures[20:-1]
    assert pictures[-1] in start.prompt


@pytest.mark.parametrize(
    ("content", "sides"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x08\x34\0\0\0\x0a", (2100, 10)),
        (b"GIF89a\x34\x08\x0a\0", (2100, 10)),
        (b"\xff\xd8\xff\xe0\0\x04JF\xff\xc2\0\x11\x08\0\x0a\x08\x34", (2100, 10)),
        (b"\xff\xd8\xff\xe0\0\0\xff\xe0\0\0", (0, 0)),
        (b"\xff\xd8", (0, 0)),
        (b"\x89PNG", (0, 0)),
        (b"RIFF\0\0\0\0WEBP", (0, 0)),
    ],
)
def test_the_sides_of_a_picture_are_in_its_head(content: bytes, sides: tuple[int, int]) -> None:
    assert sides_of(content) == sides


async def test_a_side_request_is_shown_what_a_model_reads_of_stored_files(scene: Scene) -> None:
    """It has no workspace."""
    gone = (await scene.stored("a.txt", b"x")).model_copy(update={"store": "0" * 16})
    blocks = [
        await scene.stored("a.png", PNG),
        await scene.stored("b.csv", b"1;2"),
        await scene.stored("c.docx", b"PK\xff\0"),
        gone,
    ]
    turn = await scene.stage.ask(C, (ASK, *blocks), lane=Lane.SIDE)
    await scene.stage.ended(turn)
    (call,) = scene.stage.gateway.side_calls
    assert call.body["messages"][-1]["content"] == [
        {"type": "text", "text": "hello"},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": encoded(PNG)},
        },
        {"type": "text", "text": "[File b.csv]\n1;2"},
        {"type": "text", "text": "[Left out here: the file c.docx]"},
        {"type": "text", "text": "[Left out here: the file a.txt]"},
    ]


async def test_of_many_files_a_side_request_is_shown_the_latest(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_bytes, "LOOKED_AT_MAX", 1)
    blocks = [await scene.stored(name, b"1;2") for name in ("a.csv", "b.csv")]
    turn = await scene.stage.ask(C, (ASK, *blocks), lane=Lane.SIDE)
    await scene.stage.ended(turn)
    (call,) = scene.stage.gateway.side_calls
    assert call.body["messages"][-1]["content"][1:] == [
        {"type": "text", "text": "[Left out here: the file a.csv]"},
        {"type": "text", "text": "[File b.csv]\n1;2"},
    ]


async def test_a_message_that_was_stopped_before_its_agent_had_it_keeps_its_files(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent gets it with the next one."""
    block = await scene.stored("a.bin", b"\xff" * 2 * PIECE_BYTES)
    reached, read = asyncio.Event(), FileStore.read

    async def stuck(self: FileStore, name: str, *, start: int, end: int) -> bytes:
        reached.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    await scene.files.identity()
    monkeypatch.setattr(FileStore, "read", stuck)
    turn = await scene.stage.ask(C, (ASK, block), is_thin=True)
    await reached.wait()
    await scene.stage.store.turns.cancel(turn, tenant=TENANT, reason="test")
    await scene.stage.ended(turn)
    monkeypatch.setattr(FileStore, "read", read)
    turn = await scene.stage.ask(C, "and now?", is_thin=True)
    await scene.stage.ended(turn)
    prompt = scene.stage.agents[C][-1].session.started[-1].prompt
    assert prompt == (
        ASK,
        TextBlock(
            text="[File: /workspace/uploads/a.bin, 2,097,152 bytes, application/octet-stream]"
        ),
        TextBlock(text="and now?"),
    )
