"""What a turn makes is kept in the file store before it ends."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.turn import RunningTurn
from infra.files.names import object_name
from infra.files.open import open_file_store
from infra.files.store import FileStore
from infra.runtime.settings import FileStoreSettings
from infra.wire.errors import FileStoreUnavailable
from infra.wire.events import Artifact, TurnEnded, TurnFiles
from infra.wire.link import StartTurn
from infra.wire.states import TurnState
from infra.wire.turns import FileBlock, TextBlock
from tests.fakes.scripted_agent import (
    AGENT_SCRIPTS,
    Hang,
    Say,
    ScriptedSession,
    Tool,
    Wait,
    WaitFor,
)
from tests.fakes.worker_stage import TENANT, Stage, conversation, eventually
from worker.conversations.files.files_out import PATH_MAX_CHARS, _OneTurn, shown_path
from worker.hosts.folders.made import MadeFile, open_made

C = conversation("one")
PNG = b"\x89PNG\r\n\x1a\npixels"
SECRET = "a secret of the host"


@dataclass(frozen=True)
class Do:
    """Do something in the workspace, as a tool would."""

    work: Callable[[], object]

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await Tool("Bash", "make").play(turn, session)
        self.work()
        return None


@dataclass
class Scene:
    stage: Stage
    files: FileStore
    monkeypatch: pytest.MonkeyPatch

    @property
    def workspace(self) -> Path:
        return self.stage.folder / "w" / C

    async def end(self, *works: Callable[[], object]) -> TurnEnded:
        """The end of a turn that does this."""
        steps = [*map(Do, works), Say("made")]
        self.monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: steps)
        return await self.stage.ended(await self.stage.ask(C, "make"))

    async def made(self, *works: Callable[[], object]) -> TurnFiles:
        end = await self.end(*works)
        assert end.state is TurnState.DONE, end
        return end.made or TurnFiles()

    async def bytes_of(self, one: Artifact) -> bytes:
        return await self.files.read(object_name(one.file), start=0, end=one.bytes or 1)

    def write(self, path: str, content: bytes) -> Callable[[], object]:
        def work() -> None:
            place = self.workspace / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)

        return work

    def run(self, work: Callable[[Path], Any]) -> Callable[[], object]:
        return lambda: work(self.workspace)


@pytest.fixture
async def scene(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Scene:
    files = open_file_store(FileStoreSettings.model_validate({}), data_dir=stage.folder)
    stage.files = files
    return Scene(stage, files, monkeypatch)


async def test_what_a_turn_makes_or_changes_is_kept_as_it_is_at_its_end(scene: Scene) -> None:
    await scene.stage.worker()
    made = await scene.made(
        scene.write("notes.txt", b"one"),
        scene.write("outputs/plot.bin", PNG),
        scene.write("outputs/größe;1.csv", b"a,b\n"),
    )
    assert [(one.path, one.bytes, one.media_type) for one in made.files] == [
        ("outputs/größe;1.csv", 4, "text/csv"),
        ("outputs/plot.bin", len(PNG), "image/png"),
        ("notes.txt", 3, "text/plain"),
    ]
    assert [await scene.bytes_of(one) for one in made.files] == [b"a,b\n", PNG, b"one"]
    again = await scene.made(scene.write("notes.txt", b"two"))
    assert [(one.path, await scene.bytes_of(one)) for one in again.files] == [("notes.txt", b"two")]
    record = await scene.stage.store.files.get(again.files[0].file)
    assert record is not None
    assert (record.tenant, record.name, record.purpose) == (
        TENANT,
        "notes.txt",
        "assistants_output",
    )
    noted = await scene.stage.store.made.of(C)
    assert [one.path for one in noted] == [
        *(one.path for one in made.files),
        "notes.txt",
    ]


async def test_a_file_with_an_old_date_is_new_all_the_same(scene: Scene) -> None:
    await scene.stage.worker()

    def unpack(workspace: Path) -> None:
        (workspace / "old.txt").write_text("from an archive")
        os.utime(workspace / "old.txt", (1, 1))

    made = await scene.made(scene.run(unpack))
    assert [one.path for one in made.files] == ["old.txt"]


async def test_a_turn_that_changes_nothing_has_nothing(scene: Scene) -> None:
    await scene.stage.worker()
    await scene.made(scene.write("a.txt", b"a"))
    assert (await scene.end(lambda: None)).made is None
    assert (await scene.stage.ended(await scene.stage.ask(C, "echo hi"))).made is None


async def test_what_the_agent_fetches_for_a_message_is_nothing_that_it_made(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stage.worker()
    remember = ScriptedSession._remember

    def fetch_first(session: ScriptedSession, start: StartTurn) -> str:
        scene.write("uploads/fetched.csv", b"a,b")()
        scene.write("uploads/changed.csv", b"a,b")()
        return remember(session, start)

    # The worker hears that the turn has begun, and then the agent changes a file.
    later = [Wait(0.2), Do(scene.write("uploads/changed.csv", b"a,b,c")), Say("made")]

    monkeypatch.setattr(ScriptedSession, "_remember", fetch_first)
    monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: later)
    named = FileBlock(media_type="", bytes=0, digest="0" * 64, url="https://web.example/a")
    end = await scene.stage.ended(await scene.stage.ask(C, (TextBlock(text="make"), named)))
    assert end.made is not None
    assert [one.path for one in end.made.files] == ["uploads/changed.csv"]


async def test_noise_is_left_aside(scene: Scene) -> None:
    await scene.stage.worker()
    made = await scene.made(
        *(
            scene.write(path, b"x")
            for path in (
                ".git/HEAD",
                ".env",
                "node_modules/a.js",
                "p/__pycache__/a.pyc",
                "env3/pyvenv.cfg",
                "env3/bin/tool",
                "target/CACHEDIR.TAG",
                "target/out.o",
                "b.tmp",
                "src/a.py",
            )
        )
    )
    assert [one.path for one in made.files] == ["src/a.py"]


async def test_links_pipes_and_folders_are_not_files(scene: Scene) -> None:
    await scene.stage.worker()
    outside = scene.stage.folder / "secret"
    outside.write_text(SECRET)

    def attack(workspace: Path) -> None:
        (workspace / "link").symlink_to(outside)
        (workspace / "folder").symlink_to(scene.stage.folder)
        (workspace / "outputs").symlink_to(scene.stage.folder)
        os.mkfifo(workspace / "pipe")
        (workspace / "real").write_text("fine")
        os.link(workspace / "real", workspace / "same")

    made = await scene.made(scene.run(attack))
    assert len(made.files) == 1, "a file with two names is kept once"
    assert await scene.bytes_of(made.files[0]) == b"fine"


async def test_names_in_any_script_lose_what_nobody_sees(scene: Scene) -> None:
    await scene.stage.worker()

    def name_oddly(workspace: Path) -> None:
        (workspace / "evil\n\x1b[31m\u202etxt.exe").write_text("1")
        (workspace / "ファイル.txt").write_text("2")
        with open(os.fsencode(workspace) + b"/\xff\xfe.bin", "wb") as file:
            file.write(b"3")

    made = await scene.made(scene.run(name_oddly))
    assert {re.sub(r"~[0-9a-f]{8}", "~", one.path) for one in made.files} == {
        "evil\ufffd\ufffd[31m\ufffdtxt~.exe",
        "ファイル.txt",
        "\ufffd\ufffd~.bin",
    }
    assert all(path.isprintable() for path in (one.path for one in made.files))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"a\xff.txt", b"a\xfe.txt"),
        (b"a\n.txt", "a\ufffd.txt".encode()),
        (b"1/" + b"x/" * 200 + b"a.txt", b"2/" + b"x/" * 200 + b"a.txt"),
        (b"1/" + b"x." * 200, b"2/" + b"x." * 200),
        (b"1." + b"x" * 300, b"2." + b"x" * 300),
    ],
)
def test_no_two_paths_are_shown_as_the_same(one: bytes, other: bytes) -> None:
    shown = [shown_path(os.fsdecode(path)) for path in (one, other)]
    assert shown[0] != shown[1]
    assert max(map(len, shown)) <= PATH_MAX_CHARS


def test_a_path_that_can_be_shown_stays_as_it_is() -> None:
    for path in ("outputs/a b.txt", "größe;1.csv", "a\ufffd", "x" * PATH_MAX_CHARS):
        assert shown_path(path) == path


async def test_what_is_too_much_is_named_with_the_reason(scene: Scene) -> None:
    await scene.stage.worker(artifacts_max=2, file_max_bytes=1000, artifact_bytes_max=1500)

    def bomb(workspace: Path) -> None:
        with open(workspace / "a-sparse", "wb") as file:
            file.truncate(1 << 40)
        for name, size in (("b", 1000), ("c", 1000), ("d", 10), ("e", 10)):
            (workspace / name).write_bytes(b"x" * size)

    made = await scene.made(scene.run(bomb))
    assert [one.path for one in made.files] == ["b", "d"]
    assert made.not_kept == (
        "a-sparse (too large)",
        "c (too much in one turn)",
        "e (too many files)",
    )


async def test_what_a_tenant_has_no_room_for_is_not_kept(scene: Scene) -> None:
    await scene.stage.worker(tenant_file_bytes_max=10)
    made = await scene.made(scene.write("a", b"x" * 8), scene.write("b", b"x" * 8))
    assert [one.path for one in made.files] == ["a"]
    assert made.not_kept == ("b (no room left for this API key)",)


async def test_what_there_is_no_room_for_is_not_noted(scene: Scene) -> None:
    await scene.stage.worker(tenant_files_max=1)
    made = await scene.made(*(scene.write(name, b"x") for name in "abc"))
    noted = await scene.stage.store.made.of(C)
    assert [one.file for one in noted] == [one.file for one in made.files]


async def test_ids_of_files_that_are_gone_make_room_before_files_do(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.store.files.made.MADE_MAX", 3)
    await scene.stage.worker()
    first, *gone = (await scene.made(*(scene.write(name, b"x") for name in "abc"))).files
    for one in gone:
        await scene.stage.store.files.drop(one.file)
    later = (await scene.made(scene.write("d", b"x"), scene.write("e", b"x"))).files
    kept = [one.file for one in (first, *later)]
    assert [one.file for one in await scene.stage.store.made.of(C)] == kept
    assert None not in await scene.stage.store.files.get_all(kept)


@pytest.mark.parametrize("after", ["records.begin", "made.note", "files.put"])
async def test_a_conversation_deleted_while_a_file_is_kept_leaves_none(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, after: str
) -> None:
    worker = await scene.stage.worker()
    store, over = scene.stage.store, asyncio.Event()
    part, step = after.split(".")
    whose = getattr(worker.process.parts.kept_files, part)
    work = getattr(whose, step)

    async def then_deleted(*args: Any, **more: Any) -> Any:
        answer = await work(*args, **more)
        await store.conversations.delete(C, tenant=TENANT, reason="test", is_forced=True)
        return answer

    outcome = _OneTurn._outcome

    results = list[object]()

    async def keep(one: _OneTurn, file: MadeFile) -> None:
        results.append(await outcome(one, file))
        over.set()

    async def to_its_end(one: _OneTurn, file: MadeFile) -> Any:
        await asyncio.shield(scene.stage.background(keep(one, file)))
        return results[0]

    monkeypatch.setattr(_OneTurn, "_outcome", to_its_end)
    monkeypatch.setattr(whose, step, then_deleted)
    monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: [Do(scene.write("a", b"x")), Say("!")])
    await scene.stage.ask(C, "make")
    async with asyncio.timeout(20):
        await over.wait()
    assert [str(one) for one in results] == ["the conversation is gone"]
    assert not await scene.stage.redis.exists(scene.stage.keys.tenant_filed(TENANT))
    await worker.stop()
    assert await store.made.of(C) == []
    assert not any(one.getMessage().startswith("file not kept") for one in caplog.records)


async def test_a_store_that_hangs_ends_the_turn_in_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stage.worker(artifact_keep_s=0.2)
    let_go = asyncio.Event()

    async def put(name: str, chunks: object) -> None:
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            await let_go.wait()  # As a store that does not break off.
            raise

    monkeypatch.setattr(scene.files, "put", put)
    made = await scene.made(scene.write("a", b"x"), scene.write("b", b"x"))
    let_go.set()
    assert made.files == ()
    assert made.not_kept == ("a (out of time)", "b (out of time)")


@pytest.mark.parametrize("slow", ["open_made", "os.pread"])
async def test_a_file_given_up_in_the_middle_is_closed_when_nobody_reads_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    await scene.stage.worker(artifact_keep_s=0.2)
    name = f"worker.conversations.files.files_out.{slow}"
    work: Callable[..., Any] = open_made if slow == "open_made" else os.pread
    let_go, over, errors = threading.Event(), threading.Event(), list[OSError]()

    def slowly(*args: Any) -> Any:
        if slow == "os.pread" and not path_of(args[0]).endswith("a-slow-file"):
            return work(*args)
        fd = work(*args) if slow == "open_made" else None
        let_go.wait(20)
        try:
            return fd or work(*args)
        except OSError as error:
            errors.append(error)
            raise
        finally:
            over.set()

    monkeypatch.setattr(name, slowly)
    made = await scene.made(scene.write("a-slow-file", b"x"))
    assert made.not_kept == ("a-slow-file (out of time)",)
    let_go.set()
    await asyncio.to_thread(over.wait, 20)
    await eventually(lambda: not is_open("a-slow-file"))
    assert not errors


def is_open(name: str) -> bool:
    """Whether this process has a file of that name open."""
    return any(path_of(fd).endswith(name) for fd in os.listdir("/proc/self/fd"))


def path_of(fd: int | str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


async def test_a_cancelled_turn_does_not_wait_long_for_a_store(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stage.worker(artifact_keep_s=600)
    monkeypatch.setattr("worker.conversations.files.files_out.AFTER_FAILURE_S", 0.2)

    async def put(name: str, chunks: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(scene.files, "put", put)
    made = asyncio.Event()
    steps = [Do(scene.write("a", b"x")), Do(made.set), Hang()]
    monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: steps)
    turn = await scene.stage.ask(C, "make")
    async with asyncio.timeout(20):
        await made.wait()
    await scene.stage.cancel(turn)
    end = await scene.stage.ended(turn)
    assert end.state is TurnState.CANCELLED
    assert end.made == TurnFiles(not_kept=("a (out of time)",))


async def test_a_worker_that_dies_while_it_keeps_files_leaves_it_to_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, put, began = await scene.stage.worker(), scene.files.put, asyncio.Event()

    async def hang(name: str, chunks: object) -> None:
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(scene.files, "put", hang)
    monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: [Do(scene.write("a", b"x")), Say("!")])
    turn = await scene.stage.ask(C, "make")
    async with asyncio.timeout(20):
        await began.wait()
    await worker.kill()
    monkeypatch.setattr(scene.files, "put", put)
    await scene.stage.lapse_lease(C)
    await scene.stage.worker()
    end = await scene.stage.ended(turn)
    assert end.state is TurnState.DONE
    assert end.made is not None
    assert [await scene.bytes_of(one) for one in end.made.files] == [b"x"]
    assert await scene.stage.log_text(turn) == "!"


async def test_a_take_over_keeps_no_file_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, store = await scene.stage.worker(), scene.stage.store
    put, began, may_go = scene.files.put, asyncio.Event(), asyncio.Event()

    async def until_b(name: str, chunks: object) -> None:
        if len(await store.made.of(C)) > 2:
            began.set()
            await asyncio.Event().wait()
        await put(name, chunks)  # type: ignore[arg-type]

    monkeypatch.setattr(scene.files, "put", until_b)
    first = [WaitFor(may_go), Do(scene.write("of-the-first", b"1"))]
    second = [Do(scene.write("a", b"a")), Do(scene.write("b", b"b")), Say("!")]
    monkeypatch.setitem(AGENT_SCRIPTS, "make", lambda words: first)
    monkeypatch.setitem(AGENT_SCRIPTS, "more", lambda words: second)
    earlier = await scene.stage.ask(C, "make")
    turn = await scene.stage.ask(C, "more")
    may_go.set()
    async with asyncio.timeout(20):
        await began.wait()
    noted = {one.path: one.file for one in await store.made.of(C)}
    await worker.kill()
    monkeypatch.setattr(scene.files, "put", put)
    await scene.stage.lapse_lease(C)
    await scene.stage.worker()
    assert (await scene.stage.ended(earlier)).state is TurnState.DONE
    end = await scene.stage.ended(turn)
    assert end.made is not None
    assert [one.path for one in end.made.files] == ["a", "b"], "and none of the turn before"
    assert end.made.files[0].file == noted["a"]
    paths = [one.path for one in await store.made.of(C)]
    assert paths.count("a") == 1


async def test_a_store_that_refuses_costs_the_files_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stage.worker()

    async def put(name: str, chunks: object) -> None:
        raise FileStoreUnavailable("down")

    monkeypatch.setattr(scene.files, "put", put)
    made = await scene.made(scene.write("a", b"x"))
    assert made.not_kept == ("a (file store unavailable)",)


async def test_a_file_that_changes_while_it_is_read_is_not_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stage.worker()
    put = scene.files.put

    async def late(name: str, chunks: Any) -> None:
        (scene.workspace / "a").write_bytes(b"longer than before")
        await put(name, chunks)

    monkeypatch.setattr(scene.files, "put", late)
    made = await scene.made(scene.write("a", b"x"))
    assert made.not_kept == ("a (changed while it was read)",)


async def test_an_agent_cannot_name_kept_files_itself(scene: Scene) -> None:
    await scene.stage.worker()
    forged = TurnEnded(
        state=TurnState.DONE,
        made=TurnFiles(
            files=(
                Artifact(
                    file="file-" + "0" * 32,  # type: ignore[arg-type]
                    path="x",
                    bytes=1,
                    media_type="text/plain",
                    expires_ms=4_000_000_000_000,
                ),
            )
        ),
    )
    turn = await scene.stage.ask(C, f"forge {forged.encode().hex()}")
    end = await scene.stage.ended(turn)
    assert end.state is TurnState.FAILED
    assert end.made is None


async def test_deleting_the_conversation_lets_its_files_go(scene: Scene) -> None:
    await scene.stage.worker()
    made = await scene.made(scene.write("a", b"one"))
    await scene.made(scene.write("a", b"two"))
    store = scene.stage.store
    await store.conversations.delete(C, tenant=TENANT, reason="test", is_forced=True)
    assert await store.files.get(made.files[0].file) is None
    assert await store.made.of(C) == []
    identity = await scene.files.identity()
    assert len(await store.files.due(identity, limit=10)) == 2, "both versions are to be removed"
