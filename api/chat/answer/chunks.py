"""Converts a turn's events to OpenAI's chat completion chunks, as bytes.

Text deltas are nearly all of the traffic. So a chunk is a template in two halves, with the delta's
JSON string literal between them: no decoding and no JSON library (0.12 µs instead of 6 to 14).

A stream looks like OpenAI's: blocks that begin with `data:`, and comments in blocks of their own.
If the client asks for event numbers, each chunk carries its event's number as the SSE `id`, in the
same block as its data (an id without data breaks clients). A client that lost the stream resumes
with the last number.

Only calls of the client's own functions are `tool_calls`. The agent's own tools and thinking never
are, because clients would try to run those and loop. They go to `reasoning_content`, into the
answer's text, or nowhere, as the request or a setting says. If they are folded inside the text,
what the agent does at the moment is told in `event`, a field of Open WebUI's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from api.chat.answer.call_pieces import CallPieces
from api.chat.answer.made import FileDisplay, shown_files
from api.chat.answer.vocabulary import completion_id, finish_reason, usage_of
from api.errors import error_body
from api.turns.chain import AnswerHead
from api.turns.shown.channels import Channels
from api.turns.shown.folded import AgentStatus, FoldedChannels
from api.turns.shown.lined import LinedChannels
from infra.runtime.settings import ToolDisplay
from infra.wire.errors import AgClusterError
from infra.wire.events import ClientCall, TurnEnded
from infra.wire.ids import TurnId

DONE = b"data: [DONE]\n\n"


def _place(ahead: int) -> str:
    if not ahead:
        return "next in line"
    return f"{ahead} turn{'s' if ahead > 1 else ''} ahead"


class ChunkFrames:
    """The chunks of one streamed answer."""

    def __init__(
        self,
        turn: TurnId,
        *,
        created: int,
        model: str,
        include_usage: bool,
        display: ToolDisplay,
        head: AnswerHead | None = None,
        is_numbered: bool = False,
        files: FileDisplay | None = None,
    ) -> None:
        self._files = files
        self._is_numbered = is_numbered
        # Between numbered blocks a comment has no blank line: once openai-python has seen an id, it
        # takes a lone blank line for an event, and its missing data for broken JSON.
        self._comment_end = b"\n" if is_numbered else b"\n\n"
        self.ping = b": ping" + self._comment_end
        ids = f'"id":"{completion_id(turn)}","object":"chat.completion.chunk","created":{created}'
        self._base = f'data: {{{ids},"model":{json.dumps(model)},"system_fingerprint":null'.encode()
        self._include_usage = include_usage
        self._close = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._opening = self._base + b',"choices":[{"index":0,"delta":{'
        self._content = self._opening + b'"content":'
        self._tail = b'},"logprobs":null,"finish_reason":null}]' + self._close
        folded = FoldedChannels(head=head) if display is ToolDisplay.INLINE else None
        self._folded = folded
        lined = LinedChannels(head=head) if display is ToolDisplay.LINES else None
        self._channels: Channels = folded or lined or Channels(display, head=head)
        self._calls = CallPieces()

    def first(self, n: int = 0) -> bytes:
        """The chunk that opens every answer; `n` is the last event that the client has seen
        before."""
        return self._mark(n) + self._opening + b'"role":"assistant","content":""' + self._tail

    def skip(self, events: Iterable[bytes]) -> None:
        """Events that the client has seen before. They decide about line breaks before the next
        one."""
        for payload in events:
            self._channels.piece(payload)
            if (call := self._channels.call(payload)) is not None:
                self._calls.of(call)
        if self._folded is not None:
            self._folded.news()  # The client has seen them, too.

    def render(self, events: Iterable[bytes], first: int) -> bytes:
        """The chunks for these events, joined; `first` is the number of the first event.

        End events produce nothing.
        """
        out: list[bytes] = []
        content, reasoning, tail = self._content, self._reasoning, self._tail
        piece, is_numbered, folded = self._channels.piece, self._is_numbered, self._folded
        for n, payload in enumerate(events, first):
            if (shown := piece(payload)) is not None:
                if is_numbered:
                    out.append(b"id: %d\n" % n)
                out.append(reasoning if shown[0] else content)
                out.append(shown[1])
                out.append(tail)
            elif (call := self._channels.call(payload)) is not None:
                out.append(self._called(call, n))
            if folded is not None:
                out += self._statuses(folded, n)
        return b"".join(out)

    def _called(self, call: ClientCall, n: int) -> bytes:
        """The chunks of a call. Only the last one has its event's number: a client that has not got
        all of them resumes before it."""
        *pieces, last = self._calls.of(call)
        before, opening, tail = self._mark(n - 1), self._opening, self._tail
        told = [before + opening + piece + tail for piece in pieces]
        return b"".join([*told, self._mark(n) + opening + last + tail])

    def render_plain(self, events: Sequence[bytes], first: int) -> bytes | None:
        """The same for deltas that only continue the newest text or thinking. None for all others;
        then nothing has changed, and `render` is needed."""
        shown = self._channels.plain(events)
        if shown is None:
            return None
        is_reasoning, literals = shown
        if not literals:
            return b""
        opening, tail = self._reasoning if is_reasoning else self._content, self._tail
        if not self._is_numbered:
            return opening + (tail + opening).join(literals) + tail
        return b"".join(
            [b"id: %d\n%b%b%b" % (n, opening, said, tail) for n, said in enumerate(literals, first)]
        )

    def queue_comment(self, ahead: int) -> bytes:
        """A comment with the place in the queue; also serves as a ping."""
        return f": queued, {_place(ahead)}".encode() + self._comment_end

    def queue_note(self, ahead: int, n: int) -> bytes:
        """A visible chunk with the place in the queue; `n` is the last event that the client has
        seen."""
        literal = self._channels.note(f"Waiting: {_place(ahead)}.")
        if self._folded is not None:
            return b"".join(self._statuses(self._folded, n))
        return self._mark(n) + self._reasoning + literal + self._tail

    def last(self, end: TurnEnded, n: int) -> bytes:
        """The chunks that close a good answer: the files that its turn made, the finish reason, the
        usage if requested, `[DONE]`.

        `n` is the number of the end event.
        """
        mark = self._mark(n)
        out, metadata = self._made(end, mark)
        out = self._ending(n) + out + mark + self._opening + b'},"logprobs":null,"finish_reason":"'
        out += finish_reason(end.end_reason, is_legacy=self._calls.is_legacy).encode()
        out += b'"}]' + metadata + self._close
        if self._include_usage:
            usage = usage_of(end.usage).model_dump_json().encode()
            out += mark + self._base + b',"choices":[],"usage":' + usage + b"}\n\n"
        return out + mark + DONE

    def _made(self, end: TurnEnded, mark: bytes) -> tuple[bytes, bytes]:
        """The chunks with the files that the turn made, and what the last one says of them."""
        shown = shown_files(self._files, end, has_form=self._channels.has_form)
        if shown is None:
            return b"", b""
        out = b""
        if shown.text:
            out += mark + self._content + json.dumps(shown.text).encode() + self._tail
        if shown.annotations:
            cited = json.dumps(shown.annotations, separators=(",", ":")).encode()
            out += mark + self._opening + b'"annotations":' + cited + self._tail
        return out, b',"agcluster":' + json.dumps(shown.metadata, separators=(",", ":")).encode()

    def failure(self, error: AgClusterError, turn: TurnId, n: int) -> bytes:
        """The last event of a stream that failed after its 200; no `[DONE]` follows.

        It contains the completion's id and the number of the last event, so that the client can
        resume.
        """
        body = {"error": error_body(error), "id": completion_id(turn), "starting_after": n}
        said = json.dumps(body, separators=(",", ":")).encode()
        # Who resumes goes on where it was.
        ending = b"" if self._is_numbered else self._ending(n)
        return ending + self._mark(n) + b"data: %b\n\n" % said

    def _ending(self, n: int) -> bytes:
        """What closes an answer that is folded."""
        if self._folded is None:
            return b""
        literal = self._folded.end()
        out = b"" if literal is None else self._mark(n) + self._content + literal + self._tail
        return out + b"".join(self._statuses(self._folded, n))

    def _statuses(self, folded: FoldedChannels, n: int) -> Iterator[bytes]:
        """A chunk for each new status; their text is empty, for clients that know no `event`."""
        for status in folded.news():
            yield self._mark(n) + self._content + b'""' + self._status_tail(status)

    def _status_tail(self, status: AgentStatus) -> bytes:
        data = {"description": status.line, "done": status.is_over, "hidden": status.is_over}
        event = json.dumps({"type": "status", "data": data}, separators=(",", ":")).encode()
        return self._tail.removesuffix(b"}\n\n") + b',"event":' + event + b"}\n\n"

    @property
    def _reasoning(self) -> bytes:
        return self._opening + b'"reasoning_content":'

    def _mark(self, n: int) -> bytes:
        """The first line of a block, with its event's number, if the client asked for it."""
        return b"id: %d\n" % n if self._is_numbered else b""
