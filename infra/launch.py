"""Runs one of our modules as a program: `python -P infra/launch.py MODULE ARGUMENT...`.

As `python -m MODULE` does, but with our code before anything else that is called `api`, `worker`,
`agent` or `infra`, and wherever our code lies. `-P` keeps the current directory out.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
