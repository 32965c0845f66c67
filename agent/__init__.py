"""Runs inside the container: drives the Agent SDK, numbers its events, and keeps them until
logged."""

import time

BEGAN_MS = time.time_ns() // 1_000_000
"""When this process began to run our code, in Unix ms."""
