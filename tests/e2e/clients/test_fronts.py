"""LibreChat and Open WebUI in front: what their users copy from docs/examples fits.

Their images are not here, so their compose files are stood in by files of the same form.
LibreChat's own schema judges its configuration. `tests/open_webui` has Open WebUI itself.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.clients.node import install
from tests.e2e.deployments import ROOT
from tests.parts import need, node_program

EXAMPLES = ROOT / "docs" / "examples"
THEIRS = {
    "librechat": {
        "services": {
            "api": {
                "container_name": "LibreChat",
                "image": "librechat-dev:latest",
                "ports": ["3080:3080"],
                "depends_on": ["mongodb"],
                "env_file": [{"path": ".env", "required": False}],
                "volumes": ["./uploads:/app/uploads"],
            },
            "mongodb": {"image": "mongo", "volumes": ["./data-node:/data/db"]},
        }
    },
    "open-webui": {
        "services": {
            "open-webui": {
                "image": "open-webui:main",
                "ports": ["3000:8080"],
                "environment": ["WEBUI_SECRET_KEY="],
                "volumes": ["open-webui:/app/backend/data"],
            }
        },
        "volumes": {"open-webui": {}},
    },
}
"""Their compose files, as far as an override could disagree with them."""
SERVICE = {"librechat": "api", "open-webui": "open-webui"}

JUDGE = """
const { configSchema } = require("librechat-data-provider");
const told = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const judged = configSchema.strict().safeParse(told);
console.log(JSON.stringify(judged.success ? [] : judged.error.issues));
"""


@pytest.mark.compose
@pytest.mark.parametrize("front", THEIRS)
def test_an_override_joins_their_server_to_ours_and_nothing_else(
    front: str, tmp_path: Path
) -> None:
    need("compose")
    (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(THEIRS[front]))
    override = (EXAMPLES / front / "docker-compose.override.yml").read_text()
    (tmp_path / "docker-compose.override.yml").write_text(override)
    merged = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )
    assert merged.returncode == 0, merged.stderr
    told: dict[str, Any] = json.loads(merged.stdout)
    theirs = told["services"][SERVICE[front]]
    assert set(theirs["networks"]) == {"default", "agcluster"}
    assert told["networks"]["agcluster"] == {
        "name": "agcluster_front",
        "ipam": {},
        "external": True,
    }
    others = [name for name in told["services"] if name != SERVICE[front]]
    assert all("agcluster" not in told["services"][name]["networks"] for name in others)
    assert theirs["ports"], "what they had stays"


def test_our_compose_file_has_the_network_under_that_name() -> None:
    ours = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert ours["name"] == "agcluster"
    assert "front" in ours["networks"]
    joined = {
        name
        for name, service in ours["services"].items()
        if "front" in (service.get("networks") or ())
    }
    assert joined == {"balancer"}
    assert ours["services"]["balancer"]["networks"]["front"] == {"aliases": ["agcluster"]}


def test_librechats_schema_takes_our_configuration() -> None:
    need("node")
    node = node_program()
    assert node is not None
    told = yaml.safe_load((EXAMPLES / "librechat" / "librechat.yaml").read_text())
    judged = subprocess.run(
        [node, "-e", JUDGE],
        input=json.dumps(told),
        cwd=install(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout) == []
