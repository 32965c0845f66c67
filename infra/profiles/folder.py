"""The folder of profiles as a program sees it: read again when it has changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.profiles.installed import FOLDER as INSTALLED
from infra.profiles.installed import InstalledFolder
from infra.profiles.places import ProfileRefused
from infra.profiles.read import AgentsRead
from infra.profiles.shipped import read_agents
from infra.runtime.logs import fields
from infra.wire.agents.profile import AgentProfile

log = logging.getLogger(__name__)

_State = tuple[tuple[str, int, int, int, int], ...]
INSTALLED_FILES_MAX = 20_000
FILES_MAX = 5000


class ProfileFolder:
    """The profiles of one folder, by name, and those that are there without it.

    A change that cannot be used is logged once, and the profiles of before stay: a mistake in an
    editor must not take agents away from the people who use them. An installed agent that does not
    pass its checks any more is left out.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shipped: Mapping[str, AgentProfile] | None = None,
        installed: InstalledFolder | None = None,
    ) -> None:
        """A profile of the folder replaces one of `shipped` with its name. `installed`: the agents
        that were installed into it; None for none of them."""
        self._folder = folder
        self._shipped = shipped or {}
        self._installed = installed
        self._own = AgentsRead()
        self._state: _State | None = None
        self._complaint = ""
        self._read = self._before = AgentsRead(self._shipped)

    @property
    def profiles(self) -> Mapping[str, AgentProfile]:
        """By name."""
        return self._read.profiles

    def bundle(self, digest: str) -> bytes | None:
        """The archive that a profile names, or named until the newest change; None for another."""
        return self._read.bundles.get(digest) or self._before.bundles.get(digest)

    def look(self) -> bool:
        """Read the folder if it has changed. Returns whether the profiles are others now.

        Blocks for as long as the disk takes. Never raises an error.
        """
        try:
            state = self._seen()
            if state == self._state:
                return False
            faults = self._read_own()
            installed = self._read_installed(faults)
        except OSError as error:
            self._state = None
            self._complain([str(error)])
            return False
        self._state = state
        self._complain(faults)
        read = AgentsRead(
            {**self._shipped, **installed.profiles, **self._own.profiles},
            {**installed.bundles, **self._own.bundles},
        )
        if read.profiles == self.profiles:
            return False
        self._read, self._before = read, self._read
        log.info("agents read", extra=fields(count=len(read.profiles)))
        return True

    def _read_own(self) -> list[str]:
        try:
            self._own = read_agents(self._folder)
        except ProfileRefused as error:
            return [f"agents not read, those of before stay: {error}"]
        return []

    def _read_installed(self, faults: list[str]) -> AgentsRead:
        """Those that may be used now. One that may not is gone at once: there was a reason."""
        if self._installed is None:
            return AgentsRead()
        found = self._installed.read()
        faults.extend(f"installed agent left out: {fault}" for fault in found.faults)
        faults.extend(
            f"installed agent left out: {name}: there is an agent of this name"
            for name in sorted(self._own.profiles.keys() & found.agents.keys())
        )
        return found.as_read

    def _complain(self, faults: Sequence[str]) -> None:
        if (told := "\n".join(faults)) != self._complaint:
            for fault in faults:
                log.error("%s", fault)
            self._complaint = told

    def _seen(self) -> _State:
        """What changes when a profile, or a file of prompts beside it, is written."""
        if not self._folder.is_dir():
            return ()
        own: list[Path] = []
        installed: list[Path] = []
        apart = self._folder / INSTALLED
        for path in sorted(self._folder.rglob("*")):
            if path.is_file():
                (installed if path.is_relative_to(apart) else own).append(path)
        found = [*own[:FILES_MAX], *installed[:INSTALLED_FILES_MAX]]
        stats = [(str(path), path.stat()) for path in found]
        # The time of change, too: that of writing can be set back, and says nothing of modes.
        return tuple((path, s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino) for path, s in stats)
