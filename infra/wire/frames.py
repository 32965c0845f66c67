"""How an event is sent: `<turn> <fence> <n> <event>` on one line.

The agent sends this line over its socket, and the worker sends it, joined with lines of other
turns, to the API replica that asked. Nobody decodes a delta on the way; the worker checks the form
of each event once (`infra.wire.events.check_event`). A JSON line on the agent's socket starts with
`{`; a frame never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from infra.wire.errors import MalformedMessage
from infra.wire.ids import Fence, TurnId
from infra.wire.text.foreign import foreign


class Frame(NamedTuple):
    """One numbered event of one turn, under its publisher's fence."""

    turn: TurnId
    fence: Fence
    n: int
    payload: bytes

    def encode(self) -> bytes:
        """The line, without its line break."""
        return b"%b %d %d %b" % (self.turn.encode(), self.fence, self.n, self.payload)


def decode_frame(line: bytes) -> Frame:
    """Raises `MalformedMessage`."""
    try:
        turn, fence, n, payload = line.split(b" ", 3)
        return Frame(TurnId(turn.decode()), Fence(int(fence)), int(n), payload)
    except ValueError:
        raise MalformedMessage(f"not a frame: {foreign(line, max_chars=60)}") from None


def frame_head(turn: TurnId, fence: Fence) -> bytes:
    """The beginning of every frame of a turn under a fence."""
    return b"%b %d " % (turn.encode(), fence)


def is_frame(line: bytes | bytearray) -> bool:
    """Whether a line of the agent's socket is a frame rather than a JSON message."""
    return not line.startswith(b"{")


def join_frames(frames: Iterable[bytes]) -> bytes:
    """Encoded frames of any turns, as one message to publish."""
    return b"\n".join(frames)


def split_frames(message: bytes) -> Iterator[Frame]:
    """The frames of a published message, in order."""
    return map(decode_frame, message.split(b"\n")) if message else iter(())
