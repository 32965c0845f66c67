"""Open WebUI, its browser, and the deployment that it talks to."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.deployments import (
    GOOD_KEY,
    ROOT,
    Deployment,
    answers,
    embedded,
    free_port,
    wait_until,
)
from tests.parts import give_up, need

ENVIRONMENT = os.environ.get("AGCLUSTER_TEST_OPEN_WEBUI")
"""Where `make test-clients` put Open WebUI. Without it this folder is not collected."""
BROWSER = os.environ.get("TEST_BROWSER", "/usr/bin/chromium")
PICTURES = os.environ.get("AGCLUSTER_TEST_PICTURES")
"""Where pictures go: docs/pictures to renew them, otherwise nowhere that stays."""

START_TIMEOUT_S = 300.0
LOOK_TIMEOUT_S = 300.0
Look = Callable[..., list[str]]

if ENVIRONMENT is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    need("bwrap")
    with embedded("bubblewrap", AGCLUSTER_DEMO="true") as running:
        yield running


@pytest.fixture(scope="session")
def page_url(deployment: Deployment) -> Iterator[str]:
    assert ENVIRONMENT is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="open-webui-") as folder:
        process = subprocess.Popen(
            [f"{ENVIRONMENT}/bin/open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={**os.environ, **_settings(deployment, folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until("Open WebUI", lambda: answers(f"{url}/health"), START_TIMEOUT_S)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _settings(deployment: Deployment, folder: str) -> dict[str, str]:
    """As in docs/reference/clients.md; the rest keeps it off the internet."""
    return {
        "OPENAI_API_BASE_URL": f"{deployment.base_url}/v1",
        "OPENAI_API_KEY": GOOD_KEY,
        "ENABLE_FORWARD_USER_INFO_HEADERS": "True",
        "ENABLE_OLLAMA_API": "False",
        "DATA_DIR": folder,
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "of-a-test",
        "OFFLINE_MODE": "True",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_ENGINE": "openai",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "True",
        "RAG_TEMPLATE": "echo {{CONTEXT}}",  # What our scripted model repeats.
        "AUDIO_STT_ENGINE": "openai",
        "ENABLE_VERSION_UPDATE_CHECK": "False",
        "ANONYMIZED_TELEMETRY": "false",
        "SCARF_NO_ANALYTICS": "true",
        "DO_NOT_TRACK": "true",
    }


@pytest.fixture
def look(page_url: str, tmp_path: Path) -> Look:
    """Types some turns into a new chat and tells what the page shows after each."""
    if not Path(BROWSER).exists():
        give_up("chromium", f"there is no {BROWSER}")

    def looked(*turns: dict[str, Any]) -> list[str]:
        for turn in turns:
            turn["shot"] = str((ROOT / PICTURES if PICTURES else tmp_path) / turn["shot"])
        done = subprocess.run(
            [f"{ENVIRONMENT}/bin/python", str(Path(__file__).with_name("look.py"))],
            input=json.dumps({"url": page_url, "browser": BROWSER, "turns": turns}),
            capture_output=True,
            text=True,
            timeout=LOOK_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        seen: list[str] = json.loads(done.stdout)
        return seen

    return looked
