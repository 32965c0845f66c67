"""Files of any type, from OpenAI's own client into a real agent's workspace."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import uuid
from typing import Any

import openai
import pytest

from tests.contract.agent.test_real_agent import png
from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment

pytestmark = pytest.mark.timeout(240)
each_isolation = pytest.mark.parametrize("deployment", KINDS[:2], indirect=True, scope="package")

ODD = random.Random(7)
PNG = base64.b64decode(png(64, 64))
CSV = "Größe;Menge\n1;2\n".encode()
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n"
DOCX = b"PK\x03\x04" + ODD.randbytes(2_000)
WAV = b"RIFF\x24\0\0\0WAVEfmt " + ODD.randbytes(500)
LARGE = ODD.randbytes(50_000_000)
FILES = {
    "Bericht 表.docx": DOCX,
    "table.csv": CSV,
    "sound.wav": WAV,
    "dot.png": PNG,
    "paper.pdf": PDF,
    "large.bin": LARGE,
}
SUMS = "tool Bash " + json.dumps({"command": "cd /workspace/uploads* && sha256sum -- *"})


def said(
    client: openai.OpenAI, name: str, *parts: dict[str, Any], then: str, **options: Any
) -> str:
    content: Any = [*parts, {"type": "text", "text": then}]
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": content}],
        extra_headers={"X-Conversation-ID": name},
        **options,
    )
    return answer.choices[0].message.content or ""


def uploaded(client: openai.OpenAI, name: str, content: bytes) -> dict[str, Any]:
    file = client.files.create(file=(name, io.BytesIO(content)), purpose="user_data")
    return {"type": "file", "file": {"file_id": file.id}}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_of_any_type_reach_a_real_agent_which_may_change_them(
    deployment: Deployment,
) -> None:
    client, name = deployment.client(), f"files-{uuid.uuid4()}"
    parts = [uploaded(client, *one) for one in FILES.items()]
    sound = base64.b64encode(WAV).decode()
    inline = base64.b64encode(DOCX).decode()
    parts += [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {
            "type": "file",
            "file": {
                "filename": "inline.docx",
                "file_data": f"data:application/octet-stream;base64,{inline}",
            },
        },
    ]
    told = said(client, name, *parts, then=SUMS)
    there = {**FILES, "recording.wav": WAV, "inline.docx": DOCX}
    for file, content in there.items():
        assert f"{digest(content)}  {file}" in told
    assert len(told.splitlines()) == len(there)

    # It was given what its model reads, too.
    told = said(client, name, then="image")
    assert "image/png" in told
    assert "application/pdf" in told

    # They are its own.
    command = "cd /workspace/uploads && echo 3 >> table.csv && rm sound.wav && stat -c %u table.csv"
    told = said(client, name, then="tool Bash " + json.dumps({"command": command}))
    assert "denied" not in told
    # The changed one stays, with another beside it; the removed one comes again.
    again = [uploaded(client, one, FILES[one]) for one in ("table.csv", "sound.wav")]
    told = said(client, name, *again, then=SUMS)
    assert f"{digest(CSV + b'3' + bytes([10]))}  table.csv" in told
    assert f"{digest(CSV)}  table-{digest(CSV)[:8]}.csv" in told
    assert f"{digest(WAV)}  sound.wav" in told


def test_what_an_agent_puts_where_files_come_leads_nowhere(deployment: Deployment) -> None:
    client, name = deployment.client(), f"files-{uuid.uuid4()}"
    trap = (
        "cd /workspace && mkdir -p uploads elsewhere && cd uploads && mkfifo a.bin && "
        "ln -s /etc/passwd b.bin && ln -s ../elsewhere/new c.bin && ln -s /run/agcluster d.bin && "
        "echo ready"
    )
    told = said(client, name, then="tool Bash " + json.dumps({"command": trap}))
    assert "ready" in told
    contents = {f"{letter}.bin": ODD.randbytes(100) for letter in "abcd"}
    parts = [uploaded(client, *one) for one in contents.items()]
    look = (
        "cd /workspace/uploads && sha256sum ?-*.bin; "
        "find . -type f | wc -l; ls ../elsewhere | wc -l"
    )
    told = said(client, name, *parts, then="tool Bash " + json.dumps({"command": look}))
    for file, content in contents.items():
        assert f"{digest(content)}  {file[0]}-{digest(content)[:8]}.bin" in told
    assert told.split()[-2:] == ["4", "0"]

    swap = "cd /workspace && rm -rf uploads && ln -s /run/agcluster uploads && echo swapped"
    assert "swapped" in said(client, name, then="tool Bash " + json.dumps({"command": swap}))
    content = ODD.randbytes(100)
    look = "cat /workspace/uploads-2/e.bin | sha256sum; ls /run/agcluster | grep -c e.bin"
    told = said(
        client,
        name,
        uploaded(client, "e.bin", content),
        then="tool Bash " + json.dumps({"command": look}),
    )
    assert digest(content) in told
    assert told.split()[-1] == "0"


@each_isolation
def test_a_url_leads_into_no_network_of_ours(deployment: Deployment) -> None:
    """The agent fetches it in its sandbox, through the egress policy."""
    ours = f"{deployment.model_url}/_script/log"
    for url in (ours, ours.replace("127.0.0.1", "localhost"), "http://169.254.169.254/latest"):
        content: Any = [
            {"type": "input_file", "file_url": url},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "echo done"},
        ]
        answer = deployment.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}]
        )
        message = answer.choices[0].message
        assert message.content == "done"
        assert "could not be fetched" in str(message.model_dump())
