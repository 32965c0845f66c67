"""Requests of real clients as they were recorded, by name. Texts are ours, shapes are theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recorded:
    """One request. The key is the test's."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None
    method: str = "POST"


def recording(client: str) -> dict[str, Recorded]:
    """`librechat` or `open_webui`."""
    held = json.loads((Path(__file__).parent / f"{client}.json").read_text())
    return {
        one["name"]: Recorded(
            path=one["path"],
            headers=one["headers"],
            body=one.get("body"),
            method=one.get("method", "POST"),
        )
        for one in held["requests"]
    }
