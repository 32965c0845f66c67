"""What isolates agents on this machine, according to `worker.hosts.isolation`, and the agents'
image.

The worker's modules run as processes, so their imports (Docker's SDK) stay there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.cli.terminal import Terminal
from infra.cli.up.programs import environment, python_command
from infra.runtime.settings import Isolation, Settings
from infra.wire.errors import AgClusterError, NoIsolation

PROBE_TIMEOUT_S = 60.0
IMAGE_TIMEOUT_S = 1800.0
_END_TIMEOUT_S = 5.0


class ProbeFailed(AgClusterError):
    """The probe itself did not work."""


class ImageNotBuilt(AgClusterError):
    """The agents' image could not be built."""


class ReportedIsolation(BaseModel):
    """The finding about one kind of isolation, or the image. `detail`: why it cannot be used, what
    to do."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    is_usable: bool
    detail: str


class Isolations(BaseModel):
    """The output of `worker.hosts.isolation`. `advice` is set if nothing was chosen."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    findings: tuple[ReportedIsolation, ...]
    chosen: Isolation | None
    image: ReportedIsolation | None = None
    advice: str | None = None

    @property
    def needs_image(self) -> bool:
        return self.chosen is Isolation.DOCKER


async def probe_isolations(settings: Settings) -> Isolations:
    """What this machine has. Raises `ProbeFailed`."""
    try:
        async with (
            asyncio.timeout(PROBE_TIMEOUT_S),
            _running(
                python_command("worker.hosts.isolation"), settings, stderr=asyncio.subprocess.PIPE
            ) as process,
        ):
            out, err = await process.communicate()
    except TimeoutError:
        raise ProbeFailed(f"no answer about isolation within {PROBE_TIMEOUT_S:g} s") from None
    try:
        return Isolations.model_validate_json(out)
    except ValidationError:
        said = err.decode(errors="replace").strip()
        raise ProbeFailed(f"cannot find out what isolates here: {said[-2000:]}") from None


async def choose_isolation(settings: Settings) -> Isolations:
    """The same, but raises `NoIsolation` if nothing can isolate agents."""
    found = await probe_isolations(settings)
    if found.chosen is None:
        raise NoIsolation(found.advice or "nothing here can isolate an agent")
    return found


async def make_image(settings: Settings, terminal: Terminal) -> None:
    """Build the agents' image if it is missing, showing progress.

    Raises `ImageNotBuilt`. If cancelled, the build is stopped.
    """
    try:
        async with (
            asyncio.timeout(IMAGE_TIMEOUT_S),
            _running(
                image_command(if_missing=True), settings, stderr=asyncio.subprocess.STDOUT
            ) as process,
        ):
            assert process.stdout is not None
            async for line in process.stdout:
                terminal.program_line("image", line.decode(errors="replace").rstrip())
            code = await process.wait()
    except TimeoutError:
        raise ImageNotBuilt(f"the image was not ready after {IMAGE_TIMEOUT_S:g} s") from None
    if code != 0:
        raise ImageNotBuilt(
            f"the agents' image {settings.agent_image} could not be built (see above). "
            "Without Docker: --isolation bubblewrap"
        )


def image_command(*, if_missing: bool) -> tuple[str, ...]:
    """The command that builds the agents' image."""
    return python_command("worker.hosts.docker.images", *(["--if-missing"] if if_missing else []))


@contextlib.asynccontextmanager
async def _running(
    command: tuple[str, ...], settings: Settings, *, stderr: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has ended when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=environment(settings),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_TIMEOUT_S):
                    await process.wait()
