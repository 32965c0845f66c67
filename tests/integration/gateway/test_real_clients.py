"""curl, git, pip and npm in a sandbox without a network, out through the gateway's egress proxy.

A TLS server on loopback stands for the internet; its name resolves to an address that counts as
public. The programs are this machine's own and know the proxy as an agent's tools do: by
`HTTPS_PROXY` and the agent server's forwarder.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.runtime.settings import EgressPolicy
from infra.wire.socket_folder import EGRESS_SOCKET
from tests.integration.gateway.conftest import HostMaker
from tests.integration.gateway.test_egress import LOOPBACK, NameBook, around
from tests.integration.gateway.test_web_fetch import SITE, make_certificate
from tests.parts import give_up, need, node_program
from worker.gateway.egress.proxy import EgressRules
from worker.hosts.bubblewrap.program import find_bwrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[3]
DEADLINE_S = 90.0

INSIDE = """
import asyncio, os, sys
from pathlib import Path
from agent.forwarder import Forwarder

async def main():
    async with asyncio.TaskGroup() as group:
        proxy = await Forwarder(Path(sys.argv[1]), group).proxy_url()
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        env = os.environ | dict.fromkeys(names, proxy)
        program = await asyncio.create_subprocess_exec(*sys.argv[2:], env=env)
        os._exit(await program.wait())

asyncio.run(main())
"""


class Quiet(SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def internet(folder: Path, certificates: Path) -> Iterator[int]:
    """Files over TLS; the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    make_certificate(certificates / "site.pem", certificates / "site.key")
    context.load_cert_chain(certificates / "site.pem", certificates / "site.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


class Sandbox:
    """Runs programs that have no network but the egress socket."""

    def __init__(self, folder: Path, egress: Path, certificate: Path) -> None:
        self.folder = folder
        self._egress = egress
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "CURL_CA_BUNDLE": str(certificate),
            "GIT_SSL_CAINFO": str(certificate),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "NODE_EXTRA_CA_CERTS": str(certificate),
            "PIP_CERT": str(certificate),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    async def run(self, *command: str) -> tuple[int, str]:
        """Its exit status and what it said."""
        bwrap = find_bwrap()
        assert bwrap is not None
        outer = [str(bwrap), "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"]
        outer += ["--dev", "/dev", "--proc", "/proc", "--bind", str(self.folder), str(self.folder)]
        outer += ["--chdir", str(self.folder), sys.executable, "-c", INSIDE, str(self._egress)]
        process = await asyncio.create_subprocess_exec(
            *outer,
            *command,
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        finally:
            if process.returncode is None:
                process.kill()
        return process.returncode or 0, said.decode()


@asynccontextmanager
async def sandbox_beside(
    make_host: HostMaker, files: Path, tmp_path: Path
) -> AsyncIterator[tuple[Sandbox, str]]:
    """A sandbox whose tools may reach the site and nothing else; the site's URL."""
    need("bwrap")
    with internet(files, tmp_path) as port:
        host = make_host(
            egress=EgressRules(EgressPolicy.ALLOWLIST, (SITE,), frozenset({443, port})),
            surroundings=around(NameBook(site_example=[[LOOPBACK]])),
        )
        async with host.gateway():
            folder = await host.open_session()
            await host.open_turn()
            home = tmp_path / "home"
            home.mkdir()
            yield (
                Sandbox(home, folder / EGRESS_SOCKET, tmp_path / "site.pem"),
                f"https://{SITE}:{port}",
            )


def publish_page(files: Path) -> None:
    (files / "tides").write_text("High water at noon.")


def publish_repository(files: Path) -> None:
    """A repository for git's plain file protocol."""
    work = files / "work"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(work)]
    (work / "docs").mkdir(parents=True)
    (work / "docs" / "read.me").write_text("cloned")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True, timeout=60)
    bare = str(files / "repo.git")
    subprocess.run(["git", "clone", "-q", "--bare", str(work), bare], check=True, timeout=60)
    subprocess.run(["git", "-C", bare, "update-server-info"], check=True, timeout=60)


def publish_wheel(files: Path) -> None:
    """A package index with one package."""
    index = files / "simple" / "demo"
    index.mkdir(parents=True)
    name = "demo-1.0-py3-none-any.whl"
    about = "demo-1.0.dist-info"
    with zipfile.ZipFile(index / name, "w") as wheel:
        wheel.writestr("demo.py", "word = 'installed'\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{about}/WHEEL", tags)
        records = ["demo.py", f"{about}/METADATA", f"{about}/WHEEL", f"{about}/RECORD"]
        wheel.writestr(f"{about}/RECORD", "".join(f"{record},,\n" for record in records))
    (index / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')


def publish_node_package(files: Path, url: str) -> None:
    """A package registry with one package."""
    told = {"name": "demo-js", "version": "1.0.0", "main": "index.js"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (("package.json", json.dumps(told)), ("index.js", "// installed")):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    (files / "demo-js.tgz").write_bytes(packed.getvalue())
    version = told | {"dist": {"tarball": f"{url}/demo-js.tgz"}}
    packument = {
        "name": "demo-js",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": version},
    }
    (files / "demo-js").write_text(json.dumps(packument))


def npm_command() -> Sequence[str]:
    need("node")
    node = node_program()
    assert node is not None
    script = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return (str(node), str(script))
    found = shutil.which("npm")
    return (found,) if found else give_up("npm", "neither beside node nor on PATH")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the site serves."""
    made = tmp_path / "files"
    made.mkdir()
    return made


async def test_curl_fetches_from_an_open_host_and_from_no_other(
    make_host: HostMaker, files: Path, tmp_path: Path
) -> None:
    publish_page(files)
    async with sandbox_beside(make_host, files, tmp_path) as (sandbox, url):
        assert await sandbox.run("curl", "-fsS", f"{url}/tides") == (0, "High water at noon.")
        status, said = await sandbox.run("curl", "-sS", "https://other.example/")
        assert (status, "403" in said) == (56, True)
        status, _ = await sandbox.run("curl", "-sS", "--noproxy", "*", f"{url}/tides")
        assert status != 0


async def test_git_clones(make_host: HostMaker, files: Path, tmp_path: Path) -> None:
    publish_repository(files)
    async with sandbox_beside(make_host, files, tmp_path) as (sandbox, url):
        status, said = await sandbox.run("git", "clone", "-q", f"{url}/repo.git", "out")
        assert status == 0, said
        assert (sandbox.folder / "out" / "docs" / "read.me").read_text() == "cloned"


async def test_pip_installs(make_host: HostMaker, files: Path, tmp_path: Path) -> None:
    publish_wheel(files)
    async with sandbox_beside(make_host, files, tmp_path) as (sandbox, url):
        status, said = await sandbox.run(
            sys.executable, "-m", "pip", "install", "-q", "--no-cache-dir", "--root-user-action",
            "ignore", "-i", f"{url}/simple", "--target", "out", "demo",
        )  # fmt: skip
        assert status == 0, said
        assert "installed" in (sandbox.folder / "out" / "demo.py").read_text()


async def test_npm_installs(make_host: HostMaker, files: Path, tmp_path: Path) -> None:
    npm = npm_command()
    async with sandbox_beside(make_host, files, tmp_path) as (sandbox, url):
        publish_node_package(files, url)
        status, said = await sandbox.run(
            *npm, "install", "--no-audit", "--no-fund", "--registry", f"{url}/", "demo-js"
        )
        assert status == 0, said
        made = sandbox.folder / "node_modules" / "demo-js" / "index.js"
        assert made.read_text() == "// installed"
