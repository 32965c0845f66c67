"""Another registry, read over HTTP: another deployment's, or the public one of MCP servers."""

from __future__ import annotations

import json
from urllib.parse import quote, urlsplit

import httpx

from infra.registry.server_json import SERVER_JSON_MAX_BYTES, strict_json
from infra.releases.refused import ReleaseRefused
from infra.releases.release import RELEASE_MAX_BYTES
from infra.wire.text.foreign import foreign

TIMEOUT_S = 30.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class RemoteRegistry:
    """Reads single versions. Nothing that comes from it is trusted: a release has its signature,
    and a `server.json` is checked like any other."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        """Raises `ReleaseRefused` unless it is https, or this machine. `key`: sent to it, and
        nowhere else."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ReleaseRefused("a registry elsewhere must be an https:// URL")
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def release(self, name: str, version: str) -> bytes:
        """An agent's release. Raises `ReleaseRefused`."""
        path = f"{_path('agents', name, version)}/release"
        return self._get(path, max_bytes=RELEASE_MAX_BYTES)

    def server_json(self, name: str, version: str) -> bytes:
        """A server's description. Raises `ReleaseRefused`."""
        raw = self._get(_path("servers", name, version), max_bytes=4 * SERVER_JSON_MAX_BYTES)
        try:
            return json.dumps(strict_json(raw)["server"]).encode()
        except (ValueError, KeyError, TypeError):
            raise ReleaseRefused(f"{self._url} does not answer as a registry does") from None

    def _get(self, path: str, *, max_bytes: int) -> bytes:
        try:
            # No redirects: the key must not follow one.
            with httpx.stream(
                "GET", self._url + path, headers=self._headers, timeout=TIMEOUT_S
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise ReleaseRefused(f"{self._url} answers {answer.status_code} for {path}")
                raw = b""
                for piece in answer.iter_bytes():
                    raw += piece
                    if len(raw) > max_bytes:
                        raise ReleaseRefused(f"{self._url} sends more than {max_bytes} bytes")
                return raw
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ReleaseRefused(f"{self._url}: {foreign(str(error))}") from None


def _path(kind: str, name: str, version: str) -> str:
    return f"/v0.1/{kind}/{quote(name, safe='')}/versions/{quote(version, safe='')}"
