"""`agcluster doctor`: what this machine has, what is missing, and how to get it.

Changes nothing. In the container of one program it checks that program
(`infra.cli.program_doctor`).
"""

from __future__ import annotations

import asyncio
import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import httpx

from infra.cli.file_store_doctor import look_at_files
from infra.cli.findings import Examination, Finding, Verdict
from infra.cli.program_doctor import examine_program, running_program
from infra.cli.terminal import Terminal
from infra.cli.up.isolation import Isolations, probe_isolations
from infra.cli.up.ports import port_fault
from infra.cli.up.redis_server import HOW_TO_GET, find_redis_server, redis_fault, socket_url
from infra.cli.up.state_dir import StateDir
from infra.runtime.settings import Isolation, Settings
from infra.store.open import open_store
from infra.wire.errors import AgClusterError
from infra.wire.states import WorkerState

PYTHON_MIN = (3, 11)
_UPSTREAM_TIMEOUT_S = 5.0
_RUN_TIMEOUT_S = 10.0


class _Context(NamedTuple):
    settings: Settings
    state: StateDir
    isolations: Isolations | AgClusterError


async def examine(settings: Settings | None, refused: str | None) -> Examination:
    """Check everything that `up` depends on, or the program of this container. Without settings,
    only checks that need none are made."""
    findings, program = [_python(), _system()], running_program()
    if settings is None:
        findings.append(
            Finding("settings", Verdict.MISSING, refused or "refused", "see .env.example")
        )
        return Examination(tuple(findings), program)
    if program is not None:
        findings.append(_given(settings))
        findings += await examine_program(program, settings)
        return Examination(tuple(findings), program)
    isolations: Isolations | AgClusterError
    try:
        isolations = await probe_isolations(settings)
    except AgClusterError as error:
        isolations = error
    context = _Context(settings, StateDir(settings.data_dir), isolations)
    looks: tuple[Callable[[_Context], Awaitable[list[Finding]]], ...] = (
        _settings,
        _redis,
        _workers,
        _isolation,
        _sdk,
        _data_dir,
        _files,
        _port,
        _upstream,
    )
    for look in looks:
        findings += await look(context)
    return Examination(tuple(findings))


def report(examined: Examination, terminal: Terminal, *, as_json: bool) -> None:
    """Show the findings to a person or, as JSON, to a program."""
    if as_json:
        document = {
            "fit": examined.is_fit,
            "program": examined.program or "up",
            "findings": [asdict(f) for f in examined.findings],
        }
        terminal.plain(json.dumps(document, indent=2).splitlines())
        return
    marks = {Verdict.OK: "ok     ", Verdict.NOTE: "note   ", Verdict.MISSING: "MISSING"}
    for one in examined.findings:
        first, *more = one.text.splitlines() or [""]
        terminal.plain([f"{marks[one.verdict]}  {one.name:<11}  {first}"])
        terminal.plain(f"{'':22}{line}" for line in more)
        if one.remedy:
            terminal.plain(f"{'':22}-> {line}" for line in one.remedy.splitlines())
    terminal.plain(["", _conclusion(examined)])


def _conclusion(examined: Examination) -> str:
    if examined.program is not None:
        return f"This {examined.program} {'works' if examined.is_fit else 'does not work yet'}."
    able = "can run here" if examined.is_fit else "cannot run here yet"
    return f"`agcluster up` {able}."


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] >= PYTHON_MIN:
        return Finding("python", Verdict.OK, text)
    return Finding("python", Verdict.MISSING, text, "install Python 3.11 or newer")


def _system() -> Finding:
    text = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() in ("Linux", "Darwin"):
        return Finding("system", Verdict.OK, text)
    return Finding("system", Verdict.MISSING, text, "use Linux, macOS, or WSL on Windows")


def _given(settings: Settings) -> Finding:
    names = sorted(settings.model_fields_set)
    return Finding("settings", Verdict.OK, ", ".join(names) if names else "all at their defaults")


async def _settings(context: _Context) -> list[Finding]:
    found = [_given(context.settings)]
    if context.settings.secret is not None:
        found.append(Finding("secret", Verdict.OK, "given by AGCLUSTER_SECRET"))
    elif context.state.secret_file.exists():
        found.append(Finding("secret", Verdict.OK, f"kept in {context.state.secret_file}"))
    else:
        text = f"`up` will make one in {context.state.secret_file}"
        found.append(Finding("secret", Verdict.OK, text))
    return found


async def _redis(context: _Context) -> list[Finding]:
    if context.settings.redis_url is not None:
        fault = await redis_fault(context.settings)
        if fault is None:
            return [Finding("redis", Verdict.OK, "the Redis of AGCLUSTER_REDIS_URL answers")]
        remedy = "start it, mend the URL, or unset it: `up` then starts a Redis of its own"
        return [Finding("redis", Verdict.MISSING, fault, remedy)]
    server = find_redis_server()
    if server is None:
        return [Finding("redis", Verdict.MISSING, "no redis-server", HOW_TO_GET)]
    try:
        said = await asyncio.to_thread(
            subprocess.run,
            [server, "--version"],
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [Finding("redis", Verdict.MISSING, f"{server} does not run: {error}", HOW_TO_GET)]
    number = next((w[2:] for w in said.stdout.split() if w.startswith("v=")), "?")
    return [Finding("redis", Verdict.OK, f"{server}, version {number}")]


async def _workers(context: _Context) -> list[Finding]:
    """The workers of the cluster, if one is running; `_redis` reports about its Redis."""
    settings = context.settings
    if settings.redis_url is None:
        if not context.state.redis_socket.is_socket():
            return []
        url = socket_url(context.state.redis_socket)
        settings = settings.model_copy(update={"redis_url": url})
    try:
        async with aclosing(open_store(settings, name="agcluster-cli")) as store:
            alive = await store.workers.alive()
    except AgClusterError:
        return []
    counts = Counter(one.state for one in alive)
    text = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    failing = [one for one in alive if one.state is WorkerState.FAILING]
    if not failing:
        return [Finding("workers", Verdict.OK, text)] if alive else []
    lines = [text, *(f"{one.worker} on {one.host}: starts no containers" for one in failing)]
    remedy = "its log says why, on the line `engine failing`; it tries again by itself"
    return [Finding("workers", Verdict.NOTE, "\n".join(lines), remedy)]


async def _isolation(context: _Context) -> list[Finding]:
    isolations = context.isolations
    if isinstance(isolations, AgClusterError):
        return [Finding("isolation", Verdict.MISSING, str(isolations))]
    found = []
    for one in isolations.findings:
        verdict = Verdict.OK if one.is_usable else Verdict.NOTE
        found.append(Finding(one.name, verdict, one.detail))
    if isolations.chosen is None:
        found.append(
            Finding("isolation", Verdict.MISSING, "nothing can isolate agents", isolations.advice)
        )
        return found
    found.append(Finding("isolation", Verdict.OK, f"`up` uses {isolations.chosen}"))
    if isolations.needs_image and isolations.image is not None:
        image = isolations.image
        text = f"{image.name} {image.detail}"
        if image.is_usable:
            found.append(Finding("image", Verdict.OK, text))
        else:
            remedy = "`up` builds it, or do it now: agcluster build-image"
            found.append(Finding("image", Verdict.NOTE, text, remedy))
    return found


async def _sdk(context: _Context) -> list[Finding]:
    try:
        text = f"claude-agent-sdk {version('claude-agent-sdk')}"
    except PackageNotFoundError:
        found = context.isolations
        if isinstance(found, Isolations) and found.chosen is Isolation.BUBBLEWRAP:
            remedy = "pip install 'agcluster[embedded]'"
            return [Finding("agent sdk", Verdict.MISSING, "claude-agent-sdk is missing", remedy)]
        return [Finding("agent sdk", Verdict.OK, "not here; the agent image has its own")]
    return [Finding("agent sdk", Verdict.OK, text)]


async def _data_dir(context: _Context) -> list[Finding]:
    state = context.state
    if fault := state.fault():
        return [Finding("data", Verdict.MISSING, fault)]
    return [Finding("data", Verdict.OK, str(state.root))]


async def _files(context: _Context) -> list[Finding]:
    return [await look_at_files(context.settings)]


async def _port(context: _Context) -> list[Finding]:
    settings = context.settings
    if holder := context.state.holder():
        text = f"`agcluster up` runs already ({holder})"
        return [Finding("port", Verdict.NOTE, text, "stop it before you start another")]
    if fault := port_fault(settings.host, settings.port):
        return [Finding("port", Verdict.MISSING, fault)]
    return [Finding("port", Verdict.OK, f"{settings.host}:{settings.port} is free")]


async def _upstream(context: _Context) -> list[Finding]:
    if context.settings.demo:
        return [Finding("upstream", Verdict.OK, "the scripted model")]
    url = context.settings.anthropic_base_url
    try:
        async with httpx.AsyncClient(timeout=_UPSTREAM_TIMEOUT_S) as client:
            answer = await client.get(f"{url}/v1/models")
    except httpx.HTTPError as error:
        text = f"{url} does not answer ({type(error).__name__})"
        return [Finding("upstream", Verdict.NOTE, text, "try `agcluster up --demo` without it")]
    return [Finding("upstream", Verdict.OK, f"{url} answers (HTTP {answer.status_code})")]
