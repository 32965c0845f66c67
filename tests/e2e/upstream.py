"""What the upstream was asked, from the scripted model's journal."""

from __future__ import annotations

from typing import Any

import httpx

from tests.e2e.deployments import Deployment


def last_asked(deployment: Deployment) -> dict[str, Any]:
    """The body of the newest model call."""
    body: dict[str, Any] = httpx.get(f"{deployment.model_url}/_script/last", timeout=10).json()
    return body


def asked_for(deployment: Deployment, prompt: str, *, also: str = "") -> list[dict[str, Any]]:
    """Model calls whose prompt holds both words, oldest first."""
    log = httpx.get(f"{deployment.model_url}/_script/log", timeout=10).json()
    prompts = [(entry["facts"].get("prompt", ""), entry) for entry in log]
    return [entry for said, entry in prompts if prompt in said and also in said]
