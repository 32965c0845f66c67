"""What an agent or a tenant does so that others wait, while a neighbour with another key is served.

Every attack is real, through the whole product. The neighbour loses no word and no request; how
long it waited, and what the programs took, is printed (`-s`) and not judged:
docs/explanation/performance.md has one run's figures.
"""

from __future__ import annotations

import inspect
import itertools
import json
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment, wait_until
from tests.e2e.test_hostile_agent import INSIDE, ask, bash, new_name, run, said
from tests.e2e.test_hostile_server import programs
from tests.fakes.exchanger import exchange_for_ever

pytestmark = pytest.mark.timeout(400)

each_isolation = pytest.mark.parametrize("deployment", KINDS[:2], indirect=True, scope="package")
# Who reads the sockets and the API does not differ between kinds.
one_isolation = pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True, scope="package")

NEIGHBOURS_KEY = f"{GOOD_KEY}-neighbour"
DELTAS = 40
PROGRAMS = {"worker": "worker.main", "gateway": "worker.gateway.main", "API": "api.main"}


class Neighbour:
    """Somebody with a key of their own, whose words and requests are counted."""

    def __init__(self, deployment: Deployment) -> None:
        self._client = deployment.client(NEIGHBOURS_KEY)
        self._name = new_name()
        self.gaps: list[float] = []
        """Between two words of a stream that has one every 50 ms, in seconds."""

    def is_served(self) -> None:
        """One whole answer, of which no word is missing."""
        arrivals, text = [], ""
        for chunk in self._client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"stream {DELTAS} deltas every 50 ms"}],
            stream=True,
            extra_headers={"X-Conversation-ID": self._name},
        ):
            arrivals.append(time.monotonic())
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        assert [int(word.split("@")[0]) for word in text.split()] == list(range(DELTAS))
        self.gaps += [b - a for a, b in itertools.pairwise(arrivals)]


def hold_out(deployment: Deployment, what: str, attack: Callable[[], None]) -> None:
    """Have the attack run to its end, and the neighbour served before, meanwhile and afterwards."""
    before, during = Neighbour(deployment), Neighbour(deployment)
    during.is_served()
    during.gaps.clear()
    before.is_served()
    took = {name: programs(deployment, module) for name, module in PROGRAMS.items()}
    with ThreadPoolExecutor(1) as aside:
        attacking = aside.submit(attack)
        while not attacking.done():
            during.is_served()
        attacking.result()
    during.is_served()
    more = {
        name: max(mb - took[name].get(pid, mb) for pid, mb in programs(deployment, module).items())
        for name, module in PROGRAMS.items()
    }
    print(
        f"\n{what} [{deployment.kind}]: words of a neighbour {figures(before.gaps)} before, "
        f"{figures(during.gaps)} meanwhile; most memory "
        + ", ".join(f"{name} +{mb:.0f} MB" for name, mb in more.items())
    )


def figures(gaps: list[float]) -> str:
    """Where the most and the longest waits are."""
    p95 = statistics.quantiles(gaps, n=20)[-1]
    return f"p95 {p95 * 1000:.0f} ms, longest {max(gaps) * 1000:.0f} ms"


def delete(deployment: Deployment, name: str) -> None:
    """The conversation, with its files."""
    answer = httpx.delete(
        f"{deployment.base_url}/v1/sessions/{name}",
        headers={"Authorization": f"Bearer {GOOD_KEY}"},
        timeout=60,
    )
    assert answer.status_code in (200, 202, 204), answer.text


def until_removed(deployment: Deployment, named: str) -> None:
    """Until no workspace has a file of that name, and nothing waits to be removed."""
    assert deployment.data_dir is not None
    workspaces = deployment.data_dir / "w"
    wait_until(
        "the workspace's end",
        lambda: not [*workspaces.glob(f"*/{named}"), *(workspaces / ".trash").iterdir()],
        180,
    )


@each_isolation
def test_a_conversation_that_exchanges_its_folders_is_deleted_and_nobody_waits(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It works on while it is asked to end: its turn runs when it is deleted."""
    name, victim = new_name(), tmp_path_factory.mktemp("victim")
    (victim / "below").mkdir()
    for kept in ("f0", "f1", "below/f2"):
        (victim / kept).write_text("the host's")
    # Open to everybody: what would be removed is removed, no matter who does it.
    for path in (victim.parent, victim, victim / "below"):
        path.chmod(0o777)
    program = textwrap.dedent(inspect.getsource(exchange_for_ever))
    code = f"""{INSIDE}
import ctypes
from pathlib import Path
{program}
open("mark", "w").close()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        top = "/workspace/" + str(os.getpid())
        os.mkdir(top)
        exchange_for_ever(top, {str(victim)!r}, 40, ready=1)
time.sleep(60)
"""

    def attack() -> None:
        with ThreadPoolExecutor(1) as aside:
            asked = aside.submit(
                ask, deployment, bash(f"python3 - <<'EOS'\n{code}\nEOS\n"), name=name
            )
            assert deployment.data_dir is not None
            workspaces = deployment.data_dir / "w"
            # All three have filled their folders and exchange by now.
            wait_until("the attack", lambda: len([*workspaces.glob("*/*/l39")]) >= 3, 60)
            delete(deployment, name)
            assert asked.exception(60) is not None, "the turn was not ended"
        until_removed(deployment, "mark")

    hold_out(deployment, "exchanged folders, deleted", attack)

    left = sorted(str(path.relative_to(victim)) for path in victim.rglob("*"))
    assert left == ["below", "below/f2", "f0", "f1"]


@each_isolation
def test_many_small_files_are_measured_and_removed_and_nobody_waits(
    deployment: Deployment,
) -> None:
    name = new_name()
    make = """
made = 0
end = time.monotonic() + 40
for folder in range(200):
    os.makedirs(f"many/{folder}")
    for i in range(500):
        os.mknod(f"many/{folder}/{i}")
        made += 1
    if time.monotonic() > end: break
print(json.dumps(made))
"""

    def attack() -> None:
        assert run(deployment, make, name=name) > 20_000
        delete(deployment, name)
        until_removed(deployment, "many")

    hold_out(deployment, "many small files, made and deleted", attack)


@one_isolation
def test_large_bodies_of_an_agent_make_nobody_wait(deployment: Deployment) -> None:
    """Refused ones too: each named a model millions of times, or was all brackets."""
    flood = """
import threading
MB = 1 << 20
bodies = [b'{"model":"m",' * (2 * MB) + b"}", b"[" * (28 * MB), b'{"model":"m","tools":['
          + b"{}," * (9 * MB), b'{"model":"m","messages":["' + "\\U0001F600".encode() * (7 * MB)]
told = []
def send(body):
    head = b"POST /v1/messages HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d" % len(body)
    told.append(status(over(FOLDER + "model.sock", head + b"\\r\\n\\r\\n" + body, 20.0)))
end = time.monotonic() + 15
while time.monotonic() < end:
    work = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for one in work: one.start()
    for one in work: one.join()
print(json.dumps(sorted(set(told))))
"""

    def attack() -> None:
        told = run(deployment, flood, name=new_name())
        assert told
        assert 200 not in told

    hold_out(deployment, "large bodies of an agent", attack)


TENANT = """
import json, socket, sys, threading, time
port, key = sys.argv[1:]
huge = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * (30 << 20)
got = []
def send():
    with socket.create_connection(("127.0.0.1", int(port)), 30) as line:
        line.settimeout(60)
        told = b""
        try:
            line.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: "
                         b"application/json\\r\\nAuthorization: Bearer " + key.encode()
                         + b"\\r\\nContent-Length: %d\\r\\n\\r\\n" % (len(huge) + 3))
            line.sendall(huge)
            time.sleep(8)
            line.sendall(b'"}]')  # And the brace never comes: nothing is to be started.
            told = line.recv(4096)
        except OSError:
            try: told = line.recv(4096)  # It was answered before it had said all.
            except OSError: pass
    got.append(int(told.split(b" ")[1]) if told else 0)
senders = [threading.Thread(target=send) for _ in range(30)]
for one in senders: one.start()
for one in senders: one.join()
print(json.dumps(got))
"""


@one_isolation
def test_large_bodies_of_a_tenant_make_nobody_wait(deployment: Deployment) -> None:
    """Thirty at once, sent slowly so that they are held: one key filled what the API holds."""
    got: list[int] = []

    def attack() -> None:
        port = deployment.base_url.rpartition(":")[2]
        # A process of its own: in ours it would delay the neighbour by itself.
        done = subprocess.run(
            [sys.executable, "-c", TENANT, port, GOOD_KEY],
            capture_output=True,
            text=True,
            timeout=150,
            check=True,
        )
        got.extend(json.loads(done.stdout))

    hold_out(deployment, "large bodies of a tenant", attack)
    assert len(got) == 30
    assert 200 not in got
    assert 429 in got, "its share was not filled"


def test_what_an_agent_hides_counts_against_its_workspace(docker_deployment: Deployment) -> None:
    """Unlinked and held open: 859 MB against a limit of 256."""
    hide = """
held = []
for i in range(8):
    held.append(os.open(f"x{i}", os.O_RDWR | os.O_CREAT))
    os.unlink(f"x{i}")
    os.posix_fallocate(held[-1], 0, 100 << 20)
time.sleep(60)
"""
    name = new_name()
    answer = httpx.post(
        f"{docker_deployment.base_url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {GOOD_KEY}", "X-Conversation-ID": name},
        json={
            "model": MODEL,
            "messages": [
                {"role": "user", "content": bash(f"python3 - <<'EOS'\n{INSIDE}{hide}\nEOS\n")}
            ],
        },
        timeout=90,
    )
    assert "workspace_full" in answer.text
    assert said(ask(docker_deployment, "echo still here", name=name)) == "still here"
