"""What a large request took goes back to the system."""

from __future__ import annotations

import subprocess
import sys

READ = """
import asyncio, sys
from infra.runtime.memory import give_back_large_pieces

def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * 4096

def read():
    # As the reading of large bodies does: pieces of their size, let go again.
    for _ in range(4):
        pieces = [bytes(bytearray(30_000_000)), bytearray(30_000_000), "x" * 30_000_000]
        del pieces

async def main():
    await asyncio.to_thread(int)
    before = resident()
    await asyncio.to_thread(read)
    print(resident() - before)

if sys.argv[1] == "True":
    give_back_large_pieces()
asyncio.run(main())
"""


def kept(*, gives_back: bool) -> int:
    command = [sys.executable, "-c", READ, str(gives_back)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return int(told.stdout)


def test_large_pieces_are_given_back_by_threads_too() -> None:
    """A replica kept three bodies' worth for each thread, long after their streams had ended."""
    assert kept(gives_back=True) < 10_000_000
