"""Removing the files of an agent that still lives, and does its worst."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from pathlib import Path

from tests.contract.hosts.conftest import Machine
from tests.fakes import probe
from tests.fakes.exchanger import exchange_for_ever
from worker.hosts.folders.folders import Folders

INSIDE = """
import ctypes, os, threading
from pathlib import Path
{program}
reading, writing = os.pipe()
act = lambda: exchange_for_ever("/workspace", {victim!r}, 40, ready=writing)
threading.Thread(target=act, daemon=True).start()
os.read(reading, 1)
"""


async def test_an_agent_that_exchanges_folders_and_links_has_nothing_of_the_host_removed(
    real_machine: Machine, data_dir: Path
) -> None:
    """Its container was said to have stopped, and had not."""
    victim = data_dir / "host"
    (victim / "below").mkdir(parents=True)
    for name in ("f0", "f1", "below/f2"):
        (victim / name).write_text("the host's")
    before = sorted((str(path), path.lstat().st_mode) for path in victim.rglob("*"))
    host, spec = real_machine.host(), real_machine.spec()
    started = await host.start(spec)
    await probe.listening(spec.folders.sockets)
    program = textwrap.dedent(inspect.getsource(exchange_for_ever))
    told = await probe.python(
        spec.folders.sockets, INSIDE.format(program=program, victim=str(victim))
    )
    assert told.code == 0, told.out

    folders = Folders(data_dir)
    assert await asyncio.to_thread(folders.drop_workspace, spec.conversation, spec.fence)
    assert await asyncio.to_thread(folders.drop_sockets, spec.conversation, spec.fence)
    await host.stop(started.id, grace_s=0)
    await asyncio.to_thread(folders.drop_trash)

    assert sorted((str(path), path.lstat().st_mode) for path in victim.rglob("*")) == before
    for kind in ("s", "w"):
        assert [path.name for path in (data_dir / kind).iterdir()] == [".trash"]
        assert list((data_dir / kind / ".trash").iterdir()) == []
