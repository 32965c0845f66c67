"""Fetches the files that a message names by URL, into the workspace.

It happens here, in the sandbox, and through the egress proxy like everything that the agent's tools
fetch: so the conversation's policy holds for it, and a name that leads into our network leads
nowhere. What a server sends is bounded in size and time, and never unpacked.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from agent.forwarder import Forwarder
from agent.turn import RunningTurn
from infra.wire.base import VERSION
from infra.wire.files.kinds import HEAD_BYTES, PDF, PICTURES, media_type_of, text_in
from infra.wire.files.names import UPLOADS, file_line, names_for, safe_name
from infra.wire.files.room_to_show import RoomToShow
from infra.wire.turns import ContentBlock, DocumentBlock, FileBlock, ImageBlock, TextBlock

log = logging.getLogger(__name__)

FILE_MAX_BYTES = 100 * 1024 * 1024
SHOWN_MAX_BYTES = 5 * 1024 * 1024
"""Of a picture or document that the model is shown at once."""
FETCH_TIMEOUT_S = 60.0
"""For all files of a turn together."""
AT_ONCE = 4
_SILENCE_S = 15.0
_TOO_LONG = "it took too long"
_CHUNK_BYTES = 64 * 1024
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotFetched(Exception):
    """Why, in words for the user."""


class _Fetched(NamedTuple):
    path: Path
    size: int
    media_type: str
    content: bytes
    """All of it, unless it is larger than what is shown."""


async def fetch_files(turn: RunningTurn, workspace: Path, forwarder: Forwarder) -> None:
    """Replace the URLs in the turn's prompt by what they led to: files in the workspace.

    One that cannot be fetched becomes a note, and its user is told. Ends early if the turn is
    interrupted.
    """
    wanted = {file.url: file for file in _named_by_url(turn.start.prompt)}
    if not wanted:
        return
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(_fetched(list(wanted.values()), workspace, forwarder))
        stop = group.create_task(turn.wait_interrupted())
        await asyncio.wait({fetching, stop}, return_when=asyncio.FIRST_COMPLETED)
        fetching.cancel()
        stop.cancel()
    if fetching.cancelled():
        return
    found, notices = fetching.result()
    prompt = tuple(
        one
        for block in turn.start.prompt
        for one in (found[block.url] if isinstance(block, FileBlock) and block.url else (block,))
    )
    turn.start = turn.start.model_copy(
        update={"prompt": prompt, "notices": (*turn.start.notices, *notices)}
    )


def _named_by_url(prompt: Sequence[ContentBlock]) -> Iterator[FileBlock]:
    return (block for block in prompt if isinstance(block, FileBlock) and block.url)


async def _fetched(
    wanted: Sequence[FileBlock], workspace: Path, forwarder: Forwarder
) -> tuple[dict[str, tuple[ContentBlock, ...]], list[str]]:
    """What the agent is told in place of each URL, and what its user is told."""
    room, notices = RoomToShow(), list[str]()
    way, loop = forwarder.beside(), asyncio.get_running_loop()
    # Not those of everything else: a server may send so slowly that no step of a thread is late.
    threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
    give_up_s = time.monotonic() + FETCH_TIMEOUT_S

    async def one(block: FileBlock) -> tuple[ContentBlock, ...]:
        assert block.url is not None
        try:
            if proxy is None:
                raise NotFetched("this agent has no network")
            fetch = _Fetch(block, proxy, workspace / UPLOADS, give_up_s=give_up_s)
            try:
                async with asyncio.timeout(max(0.0, give_up_s - time.monotonic())):
                    return _told(await loop.run_in_executor(threads, fetch.run), room)
            except TimeoutError:
                raise NotFetched(_TOO_LONG) from None
            finally:
                fetch.is_stopped = True
        except NotFetched as error:
            notices.append(f"A file could not be fetched: {error}.")
            return (TextBlock(text=f"[The file at {block.url} could not be fetched: {error}]"),)

    try:
        proxy = await way.proxy_url()
        told = await asyncio.gather(*map(one, wanted))
    finally:
        # Without their connections, threads that were given up end.
        way.end()
        threads.shutdown(wait=False, cancel_futures=True)
    return {block.url or "": blocks for block, blocks in zip(wanted, told, strict=True)}, notices


def _told(fetched: _Fetched, room: RoomToShow) -> tuple[ContentBlock, ...]:
    """What the agent is told of it: where it is, and what of it there is room for."""
    media_type, content = fetched.media_type, fetched.content
    line = file_line(str(fetched.path), fetched.size, media_type)
    is_seen = media_type in PICTURES or media_type == PDF
    text = None if is_seen or fetched.size > len(content) else text_in(content)
    is_readable = text is not None or (is_seen and fetched.size <= SHOWN_MAX_BYTES)
    if not is_readable or not room.may_show(media_type, fetched.size):
        return (TextBlock(text=line),)
    if text is not None:
        return (TextBlock(text=f"{line}\n{text}"),)
    data = base64.b64encode(content).decode("ascii")
    if media_type == PDF:
        return TextBlock(text=line), DocumentBlock(media_type=PDF, data=data)
    return TextBlock(text=line), ImageBlock(media_type=media_type, data=data)


class _Fetch:
    """One file. `run` blocks; set `is_stopped` to end it at its next piece."""

    def __init__(self, file: FileBlock, proxy: str, folder: Path, *, give_up_s: float) -> None:
        self.is_stopped = False
        self._file = file
        self._url = file.url or ""
        self._folder = folder
        self._give_up_s = give_up_s
        # Only what http and https need: no files, no FTP, no data.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler({"http": proxy, "https": proxy}),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self._opener.add_handler(handler)

    def run(self) -> _Fetched:
        """Fetch it and keep it. Raises `NotFetched`."""
        try:
            return self._kept()
        except urllib.error.HTTPError as error:
            error.close()
            raise NotFetched(f"its server answered {error.code}") from None
        except TimeoutError:
            raise NotFetched(_TOO_LONG) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # A refusal of the proxy's is an OSError too: "Tunnel connection failed: 403 …".
            log.info("not fetched: %s", type(error).__name__)
            raise NotFetched("its server cannot be reached, or may not be") from None

    def _kept(self) -> _Fetched:
        request = urllib.request.Request(
            self._url, headers={"User-Agent": f"AgCluster/{VERSION}", "Accept": "*/*"}
        )
        self._folder.mkdir(exist_ok=True)
        partial = self._folder / f".{os.urandom(16).hex()}"
        with self._opener.open(request, timeout=self._left_s()) as answer:
            try:
                with os.fdopen(os.open(partial, _NEW, 0o644), "wb") as kept:
                    digest, size, content = hashlib.sha256(), 0, bytearray()
                    while chunk := answer.read1(_CHUNK_BYTES):
                        self._left_s()
                        if (size := size + len(chunk)) > FILE_MAX_BYTES:
                            raise NotFetched(f"it has more than {FILE_MAX_BYTES:,} bytes")
                        content += chunk[: SHOWN_MAX_BYTES - len(content)]
                        digest.update(chunk)
                        kept.write(chunk)
                if answer.length:
                    raise NotFetched("its server broke off")
                said = answer.headers.get("Content-Type") or ""
                last = urllib.parse.urlsplit(answer.url).path.rpartition("/")[2]
                name = self._file.filename or urllib.parse.unquote(last)
                media_type = media_type_of(bytes(content[:HEAD_BYTES]), said=said, name=name)
                path = self._named(partial, safe_name(name, media_type), digest.hexdigest())
                return _Fetched(path, size, media_type, bytes(content))
            finally:
                partial.unlink(missing_ok=True)

    def _named(self, partial: Path, name: str, digest: str) -> Path:
        """Give it a name that nothing has."""
        for tried in names_for(name, digest):
            with contextlib.suppress(FileExistsError):
                os.link(partial, self._folder / tried, follow_symlinks=False)
                return self._folder / tried
            if _digest_of(self._folder / tried) == digest:
                return self._folder / tried
        raise NotFetched("there are too many files of its name")

    def _left_s(self) -> float:
        """Seconds for the next step. Raises `TimeoutError`."""
        left_s = self._give_up_s - time.monotonic()
        if left_s <= 0 or self.is_stopped:
            raise TimeoutError
        return min(left_s, _SILENCE_S)


def _digest_of(path: Path) -> str | None:
    """None if it is no file that may be compared."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size > FILE_MAX_BYTES:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
