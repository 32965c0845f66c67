"""A backup as docs/how-to/backup-and-restore.md takes it, restored in another place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.integration.cli.up_process import Start, Up, ask

pytestmark = [pytest.mark.bwrap, pytest.mark.redis, pytest.mark.sdk, pytest.mark.timeout(240)]


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def started(start: Start, folder: Path | None = None, **settings: str) -> Up:
    own = {"AGCLUSTER_DATA_DIR": str(folder)} if folder is not None else {}
    up = start("--demo", **own, **settings)
    up.wait_ready()
    return up


def test_a_conversation_goes_on_where_its_backup_was_restored(start: Start, folder: Path) -> None:
    """It has its files, and remembers."""
    up = started(start)
    said(ask(up, "write notes.md: buy milk"))
    said(ask(up, "remember that the meeting is on Friday"))
    assert up.stop(signal.SIGTERM) == 0

    backup, place = folder / "b", folder / "n"
    subprocess.run(["cp", "-a", folder / "d", backup], check=True, timeout=60)
    shutil.rmtree(folder / "d")
    os.rename(backup, place)

    again = started(start, place)
    assert "buy milk" in said(ask(again, "read notes.md"))
    assert "Friday" in said(ask(again, "what do you remember?"))


def test_a_secret_is_rotated_and_conversations_are_found(start: Start) -> None:
    """With the identity of before; docs/how-to/rotate-secrets.md has the steps."""
    old, new = "o" * 32, "n" * 32
    up = started(start, AGCLUSTER_SECRET=old)
    said(ask(up, "write notes.md: buy milk"))
    assert up.stop(signal.SIGTERM) == 0
    for secret in (f"{old},{new}", f"{new},{old}", new):
        up = started(start, AGCLUSTER_SECRET=secret, AGCLUSTER_IDENTITY_SECRET=old)
        assert "buy milk" in said(ask(up, "read notes.md"))
        assert up.stop(signal.SIGTERM) == 0
