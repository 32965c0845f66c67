"""Which isolation is chosen, and what is said when there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from infra.runtime.settings import Isolation, Settings
from infra.wire.errors import NoIsolation
from tests.fakes.memory_host import MemoryHost, MemoryMachine, RefusingHost
from worker.hosts.docker.engine import refuse_unfit_engine
from worker.hosts.host import ContainerHost
from worker.hosts.isolation import choose_host, probe


class Bench:
    """Hosts of which only some can isolate; remembers which were closed."""

    def __init__(self, machine: MemoryMachine, *usable: Isolation) -> None:
        self._machine = machine
        self._usable = usable
        self.made: list[str] = []

    def make(self, kind: Isolation, settings: Settings, *, clock: Any = None) -> ContainerHost:
        host = (MemoryHost if kind in self._usable else RefusingHost)(self._machine)
        host.name = kind.value
        self.made.append(kind.value)
        return host


@pytest.fixture
async def machine() -> AsyncIterator[MemoryMachine]:
    async with MemoryMachine() as made:
        yield made


def _settings(isolation: Isolation) -> Settings:
    return Settings.model_validate({"isolation": isolation})


async def test_docker_is_preferred(machine: MemoryMachine) -> None:
    bench = Bench(machine, Isolation.DOCKER, Isolation.BUBBLEWRAP)

    assert (await choose_host(_settings(Isolation.AUTO), make=bench.make)).name == "docker"
    assert bench.made == ["docker"]


async def test_bubblewrap_is_taken_without_an_engine(machine: MemoryMachine) -> None:
    bench = Bench(machine, Isolation.BUBBLEWRAP)

    assert (await choose_host(_settings(Isolation.AUTO), make=bench.make)).name == "bubblewrap"


async def test_a_setting_is_never_overruled(machine: MemoryMachine) -> None:
    bench = Bench(machine, Isolation.BUBBLEWRAP)

    with pytest.raises(NoIsolation, match="docker: nothing is installed here"):
        await choose_host(_settings(Isolation.DOCKER), make=bench.make)
    assert bench.made == ["docker"]


async def test_without_any_isolation_it_is_said_what_to_install(machine: MemoryMachine) -> None:
    bench = Bench(machine)

    with pytest.raises(NoIsolation) as refused:
        await choose_host(_settings(Isolation.AUTO), make=bench.make)

    for word in ("docker:", "bubblewrap:", "nstall"):
        assert word in str(refused.value)


async def test_the_probe_tells_of_both_and_what_would_be_chosen(machine: MemoryMachine) -> None:
    bench = Bench(machine, Isolation.BUBBLEWRAP)

    found = await probe(_settings(Isolation.AUTO), make=bench.make)

    assert [(f.name, f.is_usable) for f in found.findings] == [
        ("docker", False),
        ("bubblewrap", True),
    ]
    assert (found.chosen, found.image, found.advice) == ("bubblewrap", None, None)


async def test_the_probe_advises_when_nothing_is_there(machine: MemoryMachine) -> None:
    found = await probe(_settings(Isolation.AUTO), make=Bench(machine).make)

    assert found.chosen is None
    assert found.advice is not None
    assert "nstall" in found.advice


_FIT = {
    "OSType": "linux",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "Runtimes": {"runc": {}},
}


def test_an_ordinary_engine_is_fit() -> None:
    refuse_unfit_engine(_FIT, "runc")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"OSType": "windows"}, "docker compose up"),
        ({"OperatingSystem": "Docker Desktop"}, "docker compose up"),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "bubblewrap"),
        ({"SecurityOptions": ["name=userns"]}, "bubblewrap"),
        ({"Runtimes": {"runsc": {}}}, "AGCLUSTER_CONTAINER_RUNTIME"),
    ],
)
def test_an_engine_that_cannot_share_files_with_us_is_refused(
    change: dict[str, Any], word: str
) -> None:
    with pytest.raises(NoIsolation, match=word):
        refuse_unfit_engine(_FIT | change, "runc")
