"""Messages changed a little: cut, doubled, swapped, mixed, with odd bytes put in."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
"""For all tests of this ring together, in place of a number of examples."""
IS_LONG = bool(MINUTES) or "FUZZ_EXAMPLES" in os.environ
ROUND_EXAMPLES = 200
share_s = 0.0
"""What of the minutes is one test's; set when it is known how many there are."""
PATIENCE_S = 15.0
SILENCE_S = 0.2
"""A request that is not answered by then is no whole one; the caller hangs up."""

_ODD = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\0",
            b" ",
            b"\t",
            b'"',
            b"\\",
            b"\\u0000",
            b"\\ud800",
            b"{}",
            b"[[[[",
            b"]",
            b",",
            b":",
            b"-1",
            b"1e999",
            b"99999999999999999999",
            b"\xff\xfe",
            b"\xe2\x80\xae",
            b"\x1b[2J",
            b"../",
            b"%2e%2e%2f",
            b"//",
            b"?",
            b"#",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 0\r\n",
            b"data: [DONE]\r\r",
            b"null",
        ]
    ),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, after a few changes; now and then as it is."""
    raw = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        size = draw(st.integers(0, 40))
        match draw(st.sampled_from(("insert", "cut", "double", "replace", "mix"))):
            case "insert":
                raw = raw[:at] + draw(_ODD) + raw[at:]
            case "cut":
                raw = raw[:at] + raw[at + size :]
            case "double":
                raw = raw[: at + size] + raw[at:]
            case "replace":
                raw = raw[:at] + draw(_ODD) + raw[at + size :]
            case "mix":
                other = draw(st.sampled_from(seeds))
                raw = raw[:at] + other[draw(st.integers(0, len(other))) :]
    return raw


def fuzz(seeds: Sequence[bytes], attempt: Callable[[bytes], None]) -> None:
    """Try so many changed seeds, or for so long. The first that fails is made small and shown."""
    give_up_s = time.monotonic() + share_s
    _try(seeds, attempt, examples=ROUND_EXAMPLES if MINUTES else EXAMPLES)
    while time.monotonic() < give_up_s:
        _try(seeds, attempt, examples=ROUND_EXAMPLES)


def _try(seeds: Sequence[bytes], attempt: Callable[[bytes], None], *, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not IS_LONG,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(seeds))
    def run(raw: bytes) -> None:
        attempt(raw)

    run()


def exchanged(path: Path, raw: bytes) -> bytes:
    """What a socket answers to that, until it hangs up; it has to, in time."""
    told = b""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE_S)
        line.connect(str(path))
        try:
            line.sendall(raw)
            # Hanging up at once would end a call that is under way.
            if select.select([line], [], [], SILENCE_S)[0]:
                told += line.recv(65536)
            line.shutdown(socket.SHUT_WR)
            while part := line.recv(65536):
                told += part
        except (BrokenPipeError, ConnectionResetError):
            pass  # It had heard enough.
    return told


def request(head: str, body: bytes = b"") -> bytes:
    """An HTTP request, of its first line, with a length."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    more = "Host: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head} HTTP/1.1\r\n{more}{length}\r\n".encode() + body
