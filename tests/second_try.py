"""Runs what failed once more, alone, after everything else.

On a small machine that runs two deployments at once a deadline can pass that never passes
elsewhere. A test that passes in its second try keeps the run green, and its name is printed as
*flaky*: that is a defect of the test or of the product, and somebody has to mend it. A test that
fails twice is red, and so is a run in which more than `TRIES_MAX` tests failed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRIES_MAX = 20
"""More failures than these are no chance: nothing is tried again."""

TIMEOUT_S = 900.0
"""For all second tries together."""


@dataclass(frozen=True)
class SecondTry:
    """What came of it."""

    flaky: tuple[str, ...] = ()
    """Tests that failed in the whole run and passed alone."""

    failed: tuple[str, ...] = ()
    """Tests that failed twice, or were not tried again."""


def try_again(tests: Sequence[str], *, root: Path, timeout_s: float = TIMEOUT_S) -> SecondTry:
    """Run each of these tests in a pytest of its own, one after the other, and print what it says.

    `tests` are node ids relative to `root`. A test that is not begun within `timeout_s` counts as
    failed.
    """
    tests = tuple(dict.fromkeys(tests))
    if len(tests) > TRIES_MAX:
        print(f"\n{len(tests)} tests failed, more than {TRIES_MAX}: none is tried again")
        return SecondTry(failed=tests)
    flaky: list[str] = []
    failed: list[str] = []
    left_s = timeout_s
    for test in tests:
        passed, took_s = _run(test, root=root, timeout_s=left_s)
        left_s -= took_s
        (flaky if passed else failed).append(test)
    return SecondTry(tuple(flaky), tuple(failed))


def _run(test: str, *, root: Path, timeout_s: float) -> tuple[bool, float]:
    began = time.monotonic()
    print(f"\n==> once more, alone: {test}", flush=True)
    # Without --second-try: this run must not try again in its turn.
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "--no-header", test]
    try:
        code = subprocess.run(
            command, cwd=root, timeout=max(1.0, timeout_s), check=False
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"not ended within {timeout_s:.0f} s")
        code = 1
    return code == 0, time.monotonic() - began
