"""Which files of variables Compose was told of. It tells the containers it starts only by a label.

The service `settings` of compose.yaml sees one file or folder of the host. Whether that is what
`docker compose` reads, `--env-file` included, only the engine knows.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

_LABEL = "com.docker.compose.project.environment_file"
_TIMEOUT_S = 10.0
_BEFORE = ("", "/host_mnt", "/private")
"""What an engine in a virtual machine puts before a path of the host."""


class NotShown(Exception):
    """Compose reads a file that this container does not see: its path on the host."""


class _Engine(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def own_container(engine: Path) -> Mapping[str, Any]:
    """What the engine says of the container in which this runs. Raises `OSError`."""
    with closing(_Engine(engine)) as connection:
        try:
            connection.request("GET", f"/containers/{socket.gethostname()}/json")
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise OSError(f"the engine answered {answer.status}")
            found: Mapping[str, Any] = json.loads(answer.read())
        except (HTTPException, ValueError) as error:
            raise OSError("no answer of an engine") from error
        return found


def files_in_use(container: Mapping[str, Any], mounted: Path) -> dict[str, Path]:
    """The files that Compose read, by their paths on the host, as they are found at or below
    `mounted`. Empty if it was told of none: it takes `.env` where there is one.

    Raises `NotShown` for one that is not there.
    """
    told = (container["Config"].get("Labels") or {}).get(_LABEL, "")
    sources = [m["Source"] for m in container["Mounts"] if m["Destination"] == str(mounted)]
    return {path: _seen(path, sources, mounted) for path in told.split(",") if path}


def _seen(path: str, sources: list[str], mounted: Path) -> Path:
    for source in sources:
        for before in _BEFORE:
            place = PurePosixPath(before + path)
            if place.is_relative_to(source):
                found = mounted / place.relative_to(source)
                if found.is_file():
                    return found
    raise NotShown(path)
