"""Asks a service, and reads its answer to the end, whatever cuts the connection meanwhile."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.wire.errors import AgClusterError

log = logging.getLogger(__name__)

RESUME_S = 60.0
"""Seconds of tries after which a connection that is cut is given up."""
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
_SILENCE_S = 60.0
"""The service says something at least every ten seconds."""
_STOP_S = 5.0
_TRY_AGAIN = frozenset({429, 502, 503, 504})
_COMPLETIONS = "/chat/completions"


class ChatFailed(AgClusterError):
    """There is no answer, or no more of it; the message says why."""


@dataclass(frozen=True)
class ChatPiece:
    """A piece of an answer: of its text, or of what is told about the work."""

    text: str = ""
    work: str = ""


@dataclass
class _Progress:
    """How much of an answer has arrived."""

    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    id: str = ""
    last: int = 0
    is_heard: bool = False
    """Whether the service has ever answered."""
    is_done: bool = False


class ChatClient:
    """One conversation with one model or agent."""

    def __init__(
        self,
        http: httpx.Client,
        *,
        name: str,
        model: str,
        wait: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`http` has the service's address and the key. `wait`: seconds between two tries; `now`:
        seconds of a clock that only goes forward."""
        self.name = name
        self.model = model
        self._http = http
        self._wait = wait
        self._now = now
        self._open = _Progress()

    def models(self) -> Sequence[str]:
        """What may be asked. Raises `ChatFailed`."""
        told = self._called("GET", "/models")
        return [one["id"] for one in told["data"]]

    def upload(self, path: Path) -> Mapping[str, Any]:
        """Hand in a file. Returns the part of a message that names it. Raises `ChatFailed`."""
        try:
            with path.open("rb") as content:
                told = self._called(
                    "POST",
                    "/files",
                    files={"file": (path.name, content)},
                    data={"purpose": "user_data"},
                )
        except OSError as error:
            raise ChatFailed(f"{path} cannot be read: {error.strerror}") from None
        return {"type": "file", "file": {"file_id": told["id"]}}

    def ask(self, text: str, files: Sequence[Mapping[str, Any]] = ()) -> Iterator[ChatPiece]:
        """The answer, as it comes. Goes on after a cut. Raises `ChatFailed`.

        A piece without text says that the service is there.
        """
        content: Any = [{"type": "text", "text": text}, *files] if files else text
        body = {
            "model": self.model,
            "stream": True,
            "messages": [{"role": "user", "content": content}],
        }
        self._open = progress = _Progress()
        lost_s: float | None = None
        tries = 0
        while True:
            try:
                for said in self._read(body, progress):
                    lost_s, tries = None, 0
                    yield said
            except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
                if not progress.is_heard:
                    raise self._unreachable(error) from None
            except httpx.TransportError as error:
                log.debug("the connection was cut: %s", error)
            if progress.is_done:
                return
            lost_s = self._now() if lost_s is None else lost_s
            if self._now() - lost_s > RESUME_S:
                raise ChatFailed("the service does not answer any more")
            self._wait(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
            tries += 1

    def stop(self) -> None:
        """Stop the answer that is being read; it is not an error if it has ended."""
        if self._open.id and not self._open.is_done:
            with suppress(httpx.HTTPError):
                path = f"{_COMPLETIONS}/{self._open.id}/cancel"
                self._http.post(path, timeout=_STOP_S)  # Who stops an answer does not wait for it.

    def _read(self, body: Mapping[str, Any], progress: _Progress) -> Iterator[ChatPiece]:
        with self._stream(body, progress) as answer:
            if answer.status_code in _TRY_AGAIN and progress.id:
                return
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise _failure(answer)
            number, progress.is_heard = progress.last, True
            for line in answer.iter_lines():
                if line.startswith(":"):
                    yield ChatPiece()
                elif line.startswith("id: "):
                    number = int(line.removeprefix("id: "))
                elif line == "data: [DONE]":
                    progress.is_done = True
                    return
                elif line.startswith("data: "):
                    said = _piece_of(json.loads(line.removeprefix("data: ")), progress)
                    progress.last = number
                    if said is not None:
                        yield said

    def _stream(self, body: Mapping[str, Any], progress: _Progress) -> Any:
        if progress.id:
            path = f"{_COMPLETIONS}/{progress.id}"
            asked: dict[str, Any] = {"stream": True, "starting_after": progress.last}
            return self._http.stream("GET", path, params=asked, timeout=_SILENCE_S)
        headers = {
            "X-Conversation-ID": self.name,
            "X-Event-IDs": "true",
            "X-On-Disconnect": "continue",
            "Idempotency-Key": progress.key,
        }
        return self._http.stream(
            "POST", _COMPLETIONS, json=body, headers=headers, timeout=_SILENCE_S
        )

    def _called(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.is_error:
            raise _failure(answer)
        return answer.json()

    def _unreachable(self, error: httpx.HTTPError) -> ChatFailed:
        return ChatFailed(f"{self._http.base_url} cannot be reached: {error}")


def _piece_of(chunk: Mapping[str, Any], progress: _Progress) -> ChatPiece | None:
    """What a chunk says. Raises `ChatFailed` if the turn failed."""
    progress.id = chunk.get("id") or progress.id
    if (error := chunk.get("error")) is not None:
        if error.get("code") in ("shutting_down", "store_unavailable"):
            return None  # The turn goes on, and so do we.
        progress.is_done = True
        raise ChatFailed(str(error.get("message")))
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        said = ChatPiece(delta.get("content") or "", delta.get("reasoning_content") or "")
        return said if said != ChatPiece() else None
    return None


def _failure(answer: httpx.Response) -> ChatFailed:
    try:
        return ChatFailed(str(answer.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return ChatFailed(f"the service said {answer.status_code}")
