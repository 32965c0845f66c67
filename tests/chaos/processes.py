"""One process of a cluster and all that can be done to it: kill, ask, freeze, start again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.deployments import ROOT

_GONE_S = 10.0
_LOOK_S = 0.02


class Process:
    """A program under a name, through all its lives. Its output is appended to one log."""

    def __init__(
        self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.is_frozen = False
        self.lives = 0
        """How often it was started."""
        self.memory_mb: list[float] = []
        """What it held at each look since its last start."""
        self._command = list(command)
        self._environ = dict(environ)
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._running.pid if self.is_running and self._running else None

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def start(self) -> None:
        """Start it anew; nothing happens while it runs."""
        if self.is_running:
            return
        self.is_frozen = False
        self.lives += 1
        self.memory_mb.clear()
        with self.log.open("ab") as output:
            self._running = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # What Ctrl-C says is for us; we pass it on in order.
            )

    async def kill(self) -> None:
        """As `kill -9` does; returns when it is gone."""
        self._signal(signal.SIGKILL)
        await self.wait(within_s=_GONE_S)

    def terminate(self) -> None:
        """Ask it to leave."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """It does nothing more, and its connections stay."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    async def wait(self, *, within_s: float) -> int:
        """Until it has ended; its exit code. Raises `TimeoutError`."""
        running = self._running
        if running is None:
            return 0
        try:
            async with asyncio.timeout(within_s):
                while (code := running.poll()) is None:  # noqa: ASYNC110 - the kernel tells a parent only
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"{self.name} does not end: {self.last_lines()}") from None
        return code

    async def stop(self, *, within_s: float) -> bool:
        """Ask it to leave, then force it; whether asking was enough."""
        if not self.is_running:
            return True
        self.thaw()
        self.terminate()
        try:
            await self.wait(within_s=within_s)
        except TimeoutError:
            await self.kill()
            return False
        return True

    def look_at_memory(self) -> None:
        """Note what it holds now: its share of the pages it has in memory, children left out."""
        try:
            rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        except OSError:
            return
        held_kb = sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")
        self.memory_mb.append(held_kb / 1024)

    def last_lines(self, chars: int = 2000) -> str:
        """The end of its log."""
        try:
            return self.log.read_text(errors="replace")[-chars:]
        except FileNotFoundError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        if self.is_running and self._running:
            self._running.send_signal(number)
