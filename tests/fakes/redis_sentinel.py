"""A real primary, a real replica and three real Sentinels on loopback; and the primary's troubles.

    async with sentinels() as cluster:
        client = connect(cluster.url, ...)
        await cluster.kill_primary()          # or freeze_primary()
        await cluster.failed_over()

The Sentinels call the primary down after a second. `revive` starts what was killed again, as a
machine would that comes back; the Sentinels make it a replica.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.fakes.certificates import Certificates
from tests.fakes.redis_server import free_ports
from tests.parts import need, redis_server

SERVICE = "cluster"
DOWN_AFTER_S = 1.0
_READY_S = 60.0
_FAILOVER_S = 60.0


class SentinelCluster:
    """TurnFiles by `sentinels`."""

    def __init__(self, *, tls: Certificates | None = None) -> None:
        need("redis")
        self._tls = tls
        self._folder = Path(tempfile.mkdtemp(prefix="agc-sentinel-"))
        first, second, *watchers = free_ports(5)
        self.primary = first
        """Port of the primary; another one after `failed_over`."""
        self._servers = [first, second]
        self._watchers = watchers
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Of the service, by its Sentinels."""
        scheme = "rediss+sentinel" if self._tls else "redis+sentinel"
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._watchers)
        return f"{scheme}://{hosts}/{SERVICE}"

    async def start(self) -> None:
        """Everything; returns when a failover would work."""
        first, second = self._servers
        self._launch(first)
        self._launch(second, "--replicaof", "127.0.0.1", str(first))
        async with asyncio.timeout(_READY_S):
            await self._until(second, _is_in_sync)
            for port in self._watchers:
                self._watch(port)
            for port in self._watchers:
                await self._until(port, _sees_all)

    async def kill_primary(self) -> int:
        """`kill -9`; its port."""
        port = self.primary
        self._processes[port].kill()
        await asyncio.to_thread(self._processes.pop(port).wait)
        return port

    def freeze_primary(self) -> int:
        """From now on it does not answer, and no connection breaks; its port."""
        self._processes[self.primary].send_signal(signal.SIGSTOP)
        return self.primary

    async def cut_replica_off(self) -> None:
        """From now on it learns of nothing: what is written is lost with the primary."""
        async with self.client(self.primary) as primary:
            await primary.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")  # type: ignore[no-untyped-call]
            await primary.execute_command("CLIENT", "KILL", "TYPE", "replica")  # type: ignore[no-untyped-call]

    async def in_sync(self) -> None:
        """Until the replica has all that was written."""
        async with self.client(self.primary) as primary:
            assert await primary.wait(1, 10_000) == 1

    def thaw(self, port: int) -> None:
        """It goes on; an old primary takes itself for one until a Sentinel tells it otherwise."""
        self._processes[port].send_signal(signal.SIGCONT)

    def revive(self, port: int) -> None:
        """What was killed comes back, with its data lost."""
        self._launch(port)

    async def failed_over(self) -> int:
        """Until most Sentinels name another primary, and it knows; its port."""
        async with asyncio.timeout(_FAILOVER_S):
            while (named := await self._named()) == self.primary:  # noqa: ASYNC110 - as clients do
                await asyncio.sleep(0.1)
            self.primary = named
            await self._until(named, _is_primary)
        return named

    def client(self, port: int) -> Redis:
        """Of one server or Sentinel, to look at it directly; close it."""
        options = {"ssl": True, "ssl_ca_certs": str(self._tls.ca)} if self._tls else {}
        return Redis(port=port, host="127.0.0.1", socket_timeout=1, **options)  # type: ignore[arg-type]

    def remove(self) -> None:
        """End everything."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self._processes.values():
            process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, port: int, *options: str) -> None:
        folder = self._folder / str(port)
        folder.mkdir(exist_ok=True)
        self._run(
            port,
            *("--dir", str(folder), "--save", "", "--repl-diskless-sync-delay", "0"),
            *self._listening(port),
            *options,
        )

    def _watch(self, port: int) -> None:
        config = self._folder / f"{port}.conf"
        listening = self._listening(port)
        pairs = zip(listening[::2], listening[1::2], strict=True)
        config.write_text(
            "\n".join(
                [
                    *(f"{name.removeprefix('--')} {value}" for name, value in pairs),
                    f"dir {self._folder}",
                    f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary} 2",
                    f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_S * 1000:.0f}",
                    f"sentinel failover-timeout {SERVICE} 4000",
                    "",
                ]
            )
        )
        self._run(port, "--sentinel", config=config)

    def _listening(self, port: int) -> Sequence[str]:
        if self._tls is None:
            return ("--port", str(port), "--bind", "127.0.0.1")
        return (
            *("--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"),
            *("--tls-replication", "yes", "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self._tls.good.certificate)),
            *("--tls-key-file", str(self._tls.good.key)),
            *("--tls-ca-cert-file", str(self._tls.ca)),
        )

    def _run(self, port: int, *options: str, config: Path | None = None) -> None:
        program = redis_server()
        assert program
        command = [program, *([str(config)] if config else []), *options]
        self._processes[port] = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    async def _named(self) -> int:
        """Which primary most Sentinels name."""
        named: list[int] = []
        for port in self._watchers:
            async with self.client(port) as client:
                found = await client.sentinel_get_master_addr_by_name(SERVICE)  # type: ignore[no-untyped-call]
                named.append(int(found[1]))
        return max(named, key=named.count)

    async def _until(self, port: int, words: dict[str, str]) -> None:
        """Until INFO of a server has these."""
        while True:
            try:
                async with self.client(port) as client:
                    facts = await client.info()
            except (RedisError, OSError):
                facts = {}
            told = facts | facts.get("master0", {})
            if all(str(told.get(name)) == word for name, word in words.items()):
                return
            await asyncio.sleep(0.05)


_is_in_sync = {"role": "slave", "master_link_status": "up"}
_is_primary = {"role": "master"}
_sees_all = {"status": "ok", "slaves": "1", "sentinels": "3"}


@asynccontextmanager
async def sentinels(*, tls: Certificates | None = None) -> AsyncIterator[SentinelCluster]:
    """A cluster that is ready for a failover, removed at the end."""
    cluster = SentinelCluster(tls=tls)
    try:
        await cluster.start()
        yield cluster
    finally:
        await asyncio.to_thread(cluster.remove)
