"""Turns a `server.json` into what an agent's profile says of the server (`mcp_servers`).

A secret is never written down: a header gets its name in braces, and the operator puts it into
`AGCLUSTER_MCP_SECRETS`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.registry.server_json import (
    NamedInput,
    ServerArgument,
    ServerInput,
    ServerJson,
    ServerPackage,
    ServerRemote,
    VariedInput,
)
from infra.releases.refused import ReleaseRefused

_VARIABLE = re.compile(r"\{([^{}]+)\}")
_RUNNERS: Mapping[str, tuple[str, str]] = {"npm": ("npx", "@"), "pypi": ("uvx", "==")}
"""What runs a package of each kind if its author does not say, and what is before the version."""


@dataclass
class ProfileEntry:
    """One server, as a profile names it."""

    name: str
    data: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict)
    """What the operator has to put into `AGCLUSTER_MCP_SECRETS`, and what it is."""


def entry_of(server: ServerJson, *, name: str | None, given: Mapping[str, str]) -> ProfileEntry:
    """The server as a profile names it. `given`: values for its inputs, by their names.

    A server that runs elsewhere comes before a program. Raises `ReleaseRefused` if we cannot reach
    or run it, or if values are missing.
    """
    called = name or _short(server.name)
    writer = _Writer(server.name, given)
    for remote in server.remotes:
        if remote.type == "streamable-http":
            return writer.entry(called, writer.remote(remote))
    for package in server.packages:
        if package.transport.type == "stdio" and package.registry_type in _RUNNERS:
            return writer.entry(called, writer.package(package))
    raise ReleaseRefused(
        f"{server.name} cannot be used here: it has neither an address for streamable HTTP nor a "
        f"package of {' or '.join(_RUNNERS)} that speaks over standard input"
    )


class _Writer:
    def __init__(self, server: str, given: Mapping[str, str]) -> None:
        self._prefix = _secrets_of(server)
        self._given = given
        self._secrets: dict[str, str] = {}

    def entry(self, called: str, data: dict[str, Any]) -> ProfileEntry:
        """Raises `ReleaseRefused` if the server's author names a secret of ours: in a profile
        `${NAME}` is the value of one, and would be sent to the author's server."""
        told = json.dumps(data)
        named = [value for value in self._given.values() if "${" in value]
        for ours in (*(_reference(name) for name in self._secrets), *named):
            told = told.replace(json.dumps(ours)[1:-1], "")
        if "${" in told:
            raise ReleaseRefused("it asks for secrets of this deployment by their names (`${`)")
        return ProfileEntry(called, data, self._secrets)

    def remote(self, remote: ServerRemote) -> dict[str, Any]:
        if any(one.is_secret for one in remote.variables.values()):
            raise ReleaseRefused("its address contains a secret, which would stand in the profile")
        url = self._filled(remote.url, remote.variables)
        headers = {one.name: text for one in remote.headers if (text := self._header(one))}
        return {"url": url, "headers": headers} if headers else {"url": url}

    def package(self, package: ServerPackage) -> dict[str, Any]:
        runner, separator = _RUNNERS[package.registry_type]
        command = package.runtime_hint or runner
        what = package.identifier + (f"{separator}{package.version}" if package.version else "")
        arguments = [
            *self._arguments(package.runtime_arguments),
            *(["-y"] if command == "npx" else []),
            what,
            *self._arguments(package.package_arguments),
        ]
        env = {one.name: text for one in package.environment_variables if (text := self._env(one))}
        data: dict[str, Any] = {"command": command, "args": arguments}
        return data | {"env": env} if env else data

    def _header(self, header: NamedInput) -> str | None:
        if header.is_secret and header.value is None:
            return self._secret(header.name, header)
        return self._value(header.name, header, may_have_secrets=True)

    def _env(self, variable: NamedInput) -> str | None:
        has_secret = variable.is_secret or any(one.is_secret for one in variable.variables.values())
        if not has_secret:
            return self._value(variable.name, variable)
        if variable.is_required:
            raise ReleaseRefused(
                f"it needs the secret {variable.name} in its environment, and an agent's container "
                "gets none: use a server over HTTP"
            )
        return None

    def _arguments(self, arguments: tuple[ServerArgument, ...]) -> list[str]:
        found: list[str] = []
        for one in arguments:
            label = one.name or one.value_hint or one.type
            if one.is_secret or any(inner.is_secret for inner in one.variables.values()):
                raise ReleaseRefused(f"its argument {label} is a secret, which all could read")
            text = self._value(label, one)
            if text is None:
                continue
            found.extend([one.name, text] if one.name is not None else [text])
        return found

    def _value(self, label: str, one: VariedInput, *, may_have_secrets: bool = False) -> str | None:
        if one.value is not None:
            return self._filled(one.value, one.variables, may_have_secrets=may_have_secrets)
        return self._given_or_default(label, one)

    def _filled(
        self, text: str, variables: Mapping[str, ServerInput], *, may_have_secrets: bool = False
    ) -> str:
        def fill(found: re.Match[str]) -> str:
            name = found[1]
            if (one := variables.get(name)) is None:
                return found[0]
            if one.is_secret and may_have_secrets:
                return self._secret(name, one)
            return self._given_or_default(name, one) or ""

        return _VARIABLE.sub(fill, text)

    def _given_or_default(self, label: str, one: ServerInput) -> str | None:
        value = self._given.get(label, one.value if one.value is not None else one.default)
        if value is None and one.is_required:
            raise ReleaseRefused(f"say what {label} is (--set {label}=…): {one.description}")
        if value is not None and one.choices and value not in one.choices:
            raise ReleaseRefused(f"{label} must be one of {', '.join(one.choices)}")
        return value

    def _secret(self, label: str, one: ServerInput) -> str:
        name = f"{self._prefix}_{re.sub(r'[^A-Z0-9]+', '_', label.upper()).strip('_')}"
        self._secrets[name] = one.description
        return _reference(name)


def _reference(secret: str) -> str:
    return f"${{{secret}}}"


def _secrets_of(server: str) -> str:
    """How the names of a server's secrets begin. No other server's begin so,
    also if another has published it, so none can name those of another."""
    namespace, _, name = server.partition("/")
    folded = "__".join(re.sub(r"[^A-Z0-9]+", "_", part.upper()) for part in (namespace, name))
    if re.fullmatch(r"[a-z0-9.]+/[a-z0-9]+", server):
        return folded
    return f"{folded}_{hashlib.sha256(server.encode()).hexdigest()[:8].upper()}"


def _short(name: str) -> str:
    """A name for a profile: what stands behind the slash."""
    short = re.sub(r"[^a-z0-9]+", "-", name.rpartition("/")[2].lower()).strip("-")
    return short[:40] if short[:1].isalpha() else f"mcp-{short}"[:40]
