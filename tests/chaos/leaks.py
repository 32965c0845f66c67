"""What a cluster must not have: readable keys of its callers, and leftovers after the work."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.wire.errors import ContainerFailed
from infra.wire.ids import FileId, TenantId
from tests.chaos.cluster import Agents, Cluster, until
from tests.parts import missing

SETTLE_LOOK_S = 0.5
LOG_CHUNK = 2**20
_TRACEBACK = re.compile(
    r"Traceback \(most recent call last\):\n(?:[ ].*\n)*?((?:[ ].*\n){1,8}\S.*)", re.MULTILINE
)
"""The innermost frames and the exception."""


async def where_readable(cluster: Cluster, canary: str) -> list[str]:
    """Every place where the canary stands in the clear: Redis, its files, logs, processes, engine.

    What is exempt: the model's own journal (its memory), for it is the one the keys are for, and
    the memory of API and gateway.
    """
    word = canary.encode()
    found = [f"redis {name}" async for name in _keys_with(cluster, word)]
    for folder in (cluster.redis.folder, cluster.folder):
        found += await asyncio.to_thread(lambda: list(_files_with(folder, word)))  # noqa: B023
    found += await asyncio.to_thread(lambda: list(_processes_with(cluster, word)))
    if cluster.shape.agents is Agents.DOCKER and missing("docker") is None:
        ids = [one.id for host in cluster.hosts for one in await host.containers()]
        found += await asyncio.to_thread(lambda: list(_inspected_with(ids, canary)))
    return found


async def leftovers(cluster: Cluster, *, within_s: float) -> list[str]:
    """What is still there when nobody has asked anything for a while.

    Waits until there is nothing, at most `within_s`: idle containers may take that long.
    """
    left: list[str] = []

    async def is_clean() -> bool:
        left[:] = [line async for line in _left(cluster)]
        return not left

    try:
        await until("nothing is left", is_clean, within_s=within_s)
    except TimeoutError:
        return left
    return []


async def _left(cluster: Cluster) -> Any:
    redis, keys = cluster.store.redis, cluster.store.keys
    for host in cluster.hosts:
        try:
            containers = await host.containers()
        except ContainerFailed as error:
            yield f"{host.name} does not tell its containers: {error}"
            continue
        for one in containers:
            yield f"container {one.id} of {one.conversation} on {host.name}"
    if turns := await redis.zrange(keys.turns_open(), 0, -1):
        yield f"open turns: {_words(turns)}"
    for pattern, what in (("lease:*", "lease"), ("tenant:*:running", "running turns")):
        async for name in redis.scan_iter(match=f"{keys.prefix}:{pattern}", count=1000):
            yield f"{what} {name.decode()}"
    async for name in redis.scan_iter(match=f"{keys.prefix}:turn:*", count=1000):
        sealed: Any = redis.hget(name, "key_sealed") if await redis.type(name) == b"hash" else None
        if sealed is not None and await sealed:
            yield f"sealed key in {name.decode()}"
    for worker in await cluster.store.workers.alive():
        if worker.used:
            yield f"{worker.worker} holds {worker.used} slots"


def tracebacks(cluster: Cluster) -> dict[str, str]:
    """Programs that logged an exception nobody expected: how often, and the end of each kind."""
    found = {}
    for process in cluster.processes():
        ends = _TRACEBACK.findall(process.last_lines(LOG_CHUNK * 16))
        kinds = {end.rpartition("\n")[2][:60]: end for end in ends}
        if ends:
            found[process.name] = f"{len(ends)}\n" + "\n".join(kinds.values())
    return found


async def immortal_keys(cluster: Cluster) -> list[str]:
    """Keys without a lifetime, beside the few that are the cluster's own."""
    redis, keys = cluster.store.redis, cluster.store.keys
    known = {
        keys.turns_open(),
        keys.idle(),
        keys.workers(),
        keys.epoch(),
        keys.file_stores(),
    }
    kept = [raw.decode() async for raw in redis.scan_iter(match=keys.file(FileId("*")))]
    due = [raw async for raw in redis.scan_iter(match=keys.files_due("*"))]
    swept = {one.decode() for name in due for one in await redis.zrange(name, 0, -1)}
    # A file's record lives until a sweep has removed its bytes, and so does what counts it.
    known |= {name for name in kept if name.rpartition(":")[2] in swept}
    known |= {name.decode() for name in due}
    for pattern in (keys.tenant_filed(TenantId("*")), keys.tenant_files(TenantId("*"), "*")):
        known |= {raw.decode() async for raw in redis.scan_iter(match=pattern)}
    found = []
    async for raw in redis.scan_iter(count=1000):
        name = raw.decode()
        if name not in known and await redis.ttl(name) == -1:
            found.append(name)
    return found


async def _keys_with(cluster: Cluster, word: bytes) -> Any:
    redis = cluster.store.redis
    async for name in redis.scan_iter(count=1000):
        # DUMP may compress long values, so each type is read in its own way.
        if word in name or word in repr(await _value(redis, name)).encode():
            yield name.decode()
    for entry in await redis.slowlog_get(1000):
        if word in repr(entry).encode():
            yield "SLOWLOG"


async def _value(redis: Any, name: bytes) -> Any:
    match (await redis.type(name)).decode():
        case "string":
            return await redis.get(name)
        case "hash":
            return await redis.hgetall(name)
        case "list":
            return await redis.lrange(name, 0, -1)
        case "set":
            return await redis.smembers(name)
        case "zset":
            return await redis.zrange(name, 0, -1)
        case "stream":
            return await redis.xrange(name)
    return None


def _files_with(folder: Path, word: bytes) -> Iterator[str]:
    """Files under a folder: logs, Redis' append-only file, sockets' and workspaces' folders."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink() and _has(path, word):
                yield f"file {path}"
        except OSError:
            continue  # It was removed while we looked.


def _has(path: Path, word: bytes) -> bool:
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(LOG_CHUNK):
            if word in rest + chunk:
                return True
            rest = chunk[-len(word) :]
    return False


def _processes_with(cluster: Cluster, word: bytes) -> Iterator[str]:
    """Command lines and environments of our processes and of all that descends from them."""
    for pid in _family(cluster):
        for what in ("environ", "cmdline"):
            try:
                if word in Path(f"/proc/{pid}/{what}").read_bytes():
                    yield f"{what} of process {pid}"
            except OSError:
                continue  # It ended while we looked.


def _family(cluster: Cluster) -> list[int]:
    """Our processes, their descendants, and whatever runs in a sandbox of ours."""
    ours = {one.pid for one in cluster.processes() if one.pid}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    is_new = True
    while is_new:
        children = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours |= children
        is_new = bool(children)
    return sorted(ours)


def _inspected_with(ids: list[Any], canary: str) -> Iterator[str]:
    for id in ids:
        done = subprocess.run(
            ["docker", "inspect", id], capture_output=True, text=True, timeout=30, check=False
        )
        if canary in done.stdout:
            yield f"docker inspect {id}"


def _words(raw: Any) -> str:
    return ", ".join(one.decode() for one in raw)
