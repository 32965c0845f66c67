"""Commands come as JSON lines on stdin, answers leave as JSON lines on stdout: {id, do, ...} ->
{id, ok} or {id, error}. One after another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(*verbs: Callable[..., Any]) -> None:
    """Serve the functions by their names until stdin closes."""
    named = {verb.__name__: verb for verb in verbs}
    out, sys.stdout = sys.stdout, sys.stderr  # A library may print.
    for line in sys.stdin:
        command = json.loads(line)
        number, do = command.pop("id"), command.pop("do")
        try:
            told: dict[str, Any] = {"ok": named[do](**command)}
        except Exception as error:  # noqa: BLE001 - its user is told whatever it throws.
            told = {"error": _told(error)}
        print(json.dumps({"id": number, **told}), file=out, flush=True)


def _told(error: Exception) -> dict[str, Any]:
    """What of an error a user of the client could see."""
    return {
        "name": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "param": getattr(error, "param", None),
    }
