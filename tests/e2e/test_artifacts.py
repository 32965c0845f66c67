"""Files that a real agent makes, by their links: from a browser without a key, when all else is
gone."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import uuid
import zipfile
from typing import Any

import httpx
import openai
import pytest

from tests.contract.agent.test_real_agent import png
from tests.e2e.conftest import KINDS
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment, wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[:2], indirect=True, scope="package"),
]

KEY = {"authorization": f"Bearer {GOOD_KEY}"}
PNG = png(64, 64)
MAKE = (
    "mkdir -p outputs .cache && printf 'a,b\\n1,2\\n' > outputs/table.csv && "
    f"echo {PNG} | base64 -d > outputs/plot.png && echo x > .cache/noise && echo made"
)
ATTACK = (
    "mkdir -p outputs && cd outputs && ln -s /etc/passwd passwd; ln -s / root; "
    "ln -s /run/agcluster sockets; ln /etc/hostname hard; mkfifo pipe; "
    "mknod device c 1 5; truncate -s 300M sparse; echo fine > fine.txt; "
    "ln fine.txt twice.txt; touch 'a](javascript:alert(1))<img src=x>' $'b\\n\\033[31m\\u202e'; "
    "mkdir many && cd many && seq 3000 | xargs touch; echo attacked"
)


def asked(deployment: Deployment, name: str, command: str) -> dict[str, Any]:
    answer = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "tool Bash " + json.dumps({"command": command})}],
        extra_headers={"X-Conversation-ID": name},
    )
    return answer.model_dump()


def test_what_an_agent_makes_outlives_its_container_and_its_workspace(
    deployment: Deployment,
) -> None:
    name = f"made-{uuid.uuid4()}"
    answer = asked(deployment, name, MAKE)
    content, files = answer["choices"][0]["message"]["content"], answer["agcluster"]["files"]
    assert {one["path"]: one["type"] for one in files} == {
        "outputs/table.csv": "text/csv",
        "outputs/plot.png": "image/png",
    }
    links = {one["path"]: one["url"] for one in files}
    assert f"![plot\\.png]({links['outputs/plot.png']})" in content
    assert f"[table\\.csv]({links['outputs/table.csv']})" in content

    session = f"{deployment.base_url}/v1/sessions/{name}"
    conversation = httpx.get(session, headers=KEY).json()["conversation"]
    if deployment.kind == "docker":
        label = f"label=agcluster.conv={conversation}"
        found = subprocess.run(
            ["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True
        )
        subprocess.run(["docker", "rm", "-f", *found.stdout.split()], check=True, timeout=60)
    assert deployment.data_dir is not None
    shutil.rmtree(deployment.data_dir / "w" / conversation)

    picture = httpx.get(links["outputs/plot.png"])
    assert (picture.content, picture.headers["content-type"]) == (
        base64.b64decode(PNG),
        "image/png",
    )
    part = httpx.get(links["outputs/table.csv"], headers={"range": "bytes=4-"})
    assert (part.status_code, part.content) == (206, b"1,2\n")
    zipped = httpx.get(f"{session}/files.zip", headers=KEY)
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as read:
        assert read.namelist() == ["outputs/plot.png", "outputs/table.csv"]
    assert httpx.get(f"{session}/files").status_code == 401
    assert httpx.delete(session, headers=KEY).status_code == 200
    assert [httpx.get(link).status_code for link in links.values()] == [410, 410]


def test_what_a_hostile_agent_leaves_to_be_kept_leads_nowhere(deployment: Deployment) -> None:
    name = f"made-{uuid.uuid4()}"
    answer = asked(deployment, name, ATTACK)
    made = answer["agcluster"]
    kept = {one["path"]: one for one in made["files"]}
    assert len(kept) <= 50
    assert made["more"] > 100
    names = {path.removeprefix("outputs/") for path in kept}
    assert not names & {"passwd", "root", "sockets", "pipe", "device", "hard"}
    assert len(names & {"fine.txt", "twice.txt"}) == 1, "one file, once"
    assert any(one.startswith("outputs/sparse (") for one in made["not_kept"])
    assert all(path.isprintable() for path in kept)
    content = answer["choices"][0]["message"]["content"]
    assert "](javascript" not in content.replace("\\](", "")
    for one in kept.values():
        got = httpx.get(one["url"])
        assert b"root:" not in got.content
        assert got.headers["x-content-type-options"] == "nosniff"
    # Other tests search the whole deployment.
    asked(deployment, name, "truncate -s 0 /workspace/outputs/sparse")


HALF = "mkdir -p outputs && echo half-done > outputs/half.txt"


def listed(deployment: Deployment, name: str) -> list[str]:
    found = httpx.get(f"{deployment.base_url}/v1/sessions/{name}/files", headers=KEY)
    return [one["path"] for one in found.json()["data"]]


def test_what_was_made_before_a_turn_failed_is_kept(deployment: Deployment) -> None:
    """The answer is an error, without links: the file is with the conversation's."""
    name = f"made-{uuid.uuid4()}"
    prompt = f"tool bash {HALF} then error 403 no-retry"
    with pytest.raises(openai.PermissionDeniedError):
        deployment.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            extra_headers={"X-Conversation-ID": name},
        )
    assert listed(deployment, name) == ["outputs/half.txt"]


def test_what_was_made_before_a_turn_was_cancelled_is_kept(deployment: Deployment) -> None:
    name = f"made-{uuid.uuid4()}"
    prompt = f"tool bash {HALF} then stream 3000 deltas every 20 ms"
    with deployment.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        extra_headers={"X-Conversation-ID": name},
    ) as stream:
        # Hangs up in the middle of the text.
        next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
    wait_until("it to be kept", lambda: listed(deployment, name) == ["outputs/half.txt"], 30)
    content = f"{deployment.base_url}/v1/sessions/{name}/files/content"
    got = httpx.get(content, params={"path": "outputs/half.txt"}, headers=KEY)
    assert got.text == "half-done\n"
