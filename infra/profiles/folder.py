"""The folder of profiles as a program sees it: read again when it has changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from infra.profiles.places import ProfileRefused
from infra.profiles.read import AgentsRead
from infra.profiles.shipped import read_agents
from infra.runtime.logs import fields
from infra.wire.agents.profile import AgentProfile

log = logging.getLogger(__name__)

_State = tuple[tuple[str, int, int, int, int], ...]


class ProfileFolder:
    """The profiles of one folder, by name, and those that are there without it.

    A change that cannot be used is logged once, and the profiles of before stay: a mistake in an
    editor must not take agents away from the people who use them.
    """

    def __init__(self, folder: Path, *, shipped: Mapping[str, AgentProfile] | None = None) -> None:
        """A profile of the folder replaces one of `shipped` with its name."""
        self._folder = folder
        self._shipped = shipped or {}
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
            found = read_agents(self._folder)
            read = AgentsRead({**self._shipped, **found.profiles}, found.bundles)
        except (ProfileRefused, OSError) as error:
            self._state = None
            self._complain(error)
            return False
        self._state, self._complaint = state, ""
        if read.profiles == self.profiles:
            return False
        self._read, self._before = read, self._read
        log.info("agents read", extra=fields(count=len(read.profiles)))
        return True

    def _complain(self, error: Exception) -> None:
        if (told := str(error)) != self._complaint:
            log.error("agents not read, those of before stay: %s", told)
            self._complaint = told

    def _seen(self) -> _State:
        """What changes when a profile, or a file of prompts beside it, is written."""
        if not self._folder.is_dir():
            return ()
        found = [path for path in self._folder.rglob("*") if path.is_file()][:5000]
        stats = [(str(path), path.stat()) for path in sorted(found)]
        return tuple((path, s.st_mtime_ns, s.st_size, s.st_ino, s.st_mode) for path, s in stats)
