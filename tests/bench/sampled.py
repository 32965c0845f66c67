"""A program of ours with its own samples: `python -m tests.bench.sampled MODULE ARGUMENT...`.

Every 4 ms of CPU the kernel sends a signal, and the main thread notes where it is. While it waits
it spends no CPU, so that does not count. Samples are taken while the folder `AGC_BENCH_PROFILES`
holds a file `on`; at its end the program writes there what it found.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

EVERY_S = 0.004
DEPTH_MAX = 60


class Sampler:
    """Counts where the main thread is: the innermost functions, and all that are on the stack."""

    def __init__(self, folder: Path) -> None:
        self._on = folder / "on"
        self.samples = 0
        self.inner: Counter[str] = Counter()
        self.within: Counter[str] = Counter()

    def take(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if frame is None or not self._on.exists():
            return
        self.samples += 1
        self.inner[_name(frame)] += 1
        seen: set[str] = set()
        at: FrameType | None = frame
        while at is not None and len(seen) < DEPTH_MAX:
            seen.add(_name(at))
            at = at.f_back
        self.within.update(seen)


def _name(frame: FrameType) -> str:
    code = frame.f_code
    parts = Path(code.co_filename).parts
    return f"{'/'.join(parts[-2:])}:{code.co_qualname}"


def main() -> None:
    """Run the module that the command line names."""
    folder = Path(os.environ["AGC_BENCH_PROFILES"])
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    sampler = Sampler(folder)

    def keep() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        kept = {
            "samples": sampler.samples,
            "inner": sampler.inner.most_common(400),
            "within": sampler.within.most_common(400),
        }
        (folder / f"{module}.{os.getpid()}.json").write_text(json.dumps(kept))

    atexit.register(keep)
    signal.signal(signal.SIGPROF, sampler.take)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
