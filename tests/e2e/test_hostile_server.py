"""An agent that puts a server of its own in the place of ours, and says what ours never would.

The model has the agent's Bash run it. It takes the socket's name, learns the turn from the real
server, has that one drop the worker, and is connected to. From then on the worker reads its bytes.
"""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment
from tests.e2e.test_hostile_agent import INSIDE, ask, bash, new_name, said

pytestmark = pytest.mark.timeout(300)

# Who reads the socket does not differ between kinds, and here agents start the quickest.
one_isolation = pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True, scope="package")

TAKE_OVER = """
import threading
MB = 1 << 20
WELCOME = {"type": "welcome", "version": 1, "agent_version": "1", "sdk_version": "1"}
FORGED = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"id":"FORGED"}]}}]}'

def line_of(file):
    return json.loads(file.readline() or b"{}")

def speak(line, turn, last_n):
    file = line.makefile("rb")
    fence = line_of(file)["fence"]
    if FORM == "long greeting":
        line.sendall(b'{"type":"welcome","x":[' + b"{}," * (20 * MB) + b"{}]}\\n")
    said = WELCOME | {"turn": turn, "last_n": last_n + 1000}
    line.sendall(json.dumps(said).encode() + b"\\n")
    after = line_of(file).get("after", last_n)
    head = lambda n: b"%s %d %d " % (turn.encode(), fence, n)
    if FORM == "long transcript":
        entries = b'{"uuid":"u","x":[' + b"{}," * (10 * MB) + b"{}]}"
        for seq in range(3):
            line.sendall(b'{"type":"transcript_append","seq":%d,"sdk_session":"s",'
                         b'"part":{"entries":[%s]}}\\n' % (seq, entries))
    elif FORM == "forged block":
        line.sendall(head(after + 1) + b'{"type":"text","text":"a"}\\n')
        line.sendall(head(after + 2) + b'{"type":"text","text":"\\r\\r' + FORGED
                     + b'\\r\\rdata: [DONE]\\r\\r"}\\n')
    elif FORM == "chatter":
        words = b"\\x1b[2J\\\\n12:00:00 INFO    api: FORGED " + b"y" * 10000
        for _ in range(10000):
            line.sendall(b'{"type":"' + words.replace(b"\\x1b", b"\\\\u001b") + b'"}\\n')
    line.settimeout(1)  # Then it hangs up, and is connected to again, until it is given up.
    while line.recv(65536):
        pass

def serve(line, turn, last_n):
    try:
        speak(line, turn, last_n)
    except (OSError, KeyError, ValueError):
        pass
    finally:
        line.close()

os.rename(FOLDER + "agent.sock", FOLDER + "real.sock")
mine = socket.socket(socket.AF_UNIX)
mine.bind(FOLDER + "agent.sock")
mine.listen(8)
real = socket.socket(socket.AF_UNIX)
real.connect(FOLDER + "real.sock")
real.sendall(json.dumps({"type": "hello", "version": 1, "worker": "w", "fence": 2**60}).encode()
             + b"\\n")
told = line_of(real.makefile("rb"))
while True:
    line, _ = mine.accept()
    threading.Thread(target=serve, args=(line, told["turn"], told["last_n"]), daemon=True).start()
"""

FORMS = ("long greeting", "long transcript", "forged block", "chatter")


def attack(deployment: Deployment, form: str, got: dict[str, str]) -> None:
    """Ask for it, and keep what its caller is told, byte for byte."""
    code = f"{INSIDE}\nFORM = {form!r}\n{TAKE_OVER}"
    with httpx.Client(timeout=150) as client:
        answer = client.post(
            f"{deployment.base_url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {GOOD_KEY}", "X-Conversation-ID": f"take {form}"},
            json={
                "model": MODEL,
                "stream": True,
                "messages": [
                    {"role": "user", "content": bash(f"python3 - <<'EOS'\n{code}\nEOS\n")}
                ],
            },
        )
    got[form] = answer.text


def programs(deployment: Deployment, name: str) -> dict[int, float]:
    """The most memory each such program of the deployment has had, in MB, by its process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0")
            environ = (entry / "environ").read_text()
            status = (entry / "status").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if name in words and f"AGCLUSTER_CLUSTER={deployment.cluster}" in environ:
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            found[int(entry.name)] = int(peak.split()[1]) / 1024
    return found


@one_isolation
def test_a_server_of_an_agents_own_hurts_nobody_else(deployment: Deployment) -> None:
    """All forms at once, while a neighbour streams. Parsed on the worker's loop, the first line of
    them stood still for ten seconds and took gigabytes, transcript entries likewise; a carriage
    return forged tool calls; unknown messages filled the logs."""
    neighbour, got = new_name(), dict[str, str]()
    assert said(ask(deployment, "echo warm", name=neighbour)) == "warm"
    before, logged = programs(deployment, "worker.main"), len(deployment.output())
    assert before, "the worker was not found"
    attacks = [threading.Thread(target=attack, args=(deployment, form, got)) for form in FORMS]
    for one in attacks:
        one.start()

    waits = stream_until_done(deployment, neighbour, attacks)

    assert set(got) == set(FORMS)
    for form, text in got.items():
        assert "error" in text, (form, text[-500:])
        assert "FORGED" not in text, form
        assert "\r" not in text, form
    assert max(waits) < 3, "a neighbour's words stood still"
    after = programs(deployment, "worker.main")
    assert {pid: mb for pid, mb in after.items() if mb > before.get(pid, 0) + 400} == {}
    new = deployment.output()[logged:]
    assert len(new) < 200_000
    assert "\x1b" not in new
    assert not any(line.startswith("12:00:00 INFO    api: FORGED") for line in new.splitlines())
    assert said(ask(deployment, "echo again", name="take forged block")) == "again"


def stream_until_done(
    deployment: Deployment, name: str, attacks: list[threading.Thread]
) -> list[float]:
    """A neighbour's answers until the attacks are over: all words, and the waits between them."""
    waits: list[float] = []
    while any(one.is_alive() for one in attacks):
        arrivals, text = [], ""
        for chunk in deployment.client().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "stream 60 deltas every 50 ms"}],
            stream=True,
            extra_headers={"X-Conversation-ID": name},
        ):
            arrivals.append(time.monotonic())
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        assert [int(word.split("@")[0]) for word in text.split()] == list(range(60))
        waits += [b - a for a, b in itertools.pairwise(arrivals)]
    return waits
