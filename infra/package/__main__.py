"""`python -m agcluster`: the same as the command `agcluster`."""

from __future__ import annotations

from . import main

main()
