"""What the API accepts, and from whom."""

from __future__ import annotations

import ipaddress
import re
from typing import ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from infra.runtime.settings.types import Names, Section


class EdgeSettings(Section):
    """The API's address, and how much it accepts at once."""

    title: ClassVar = "The API"

    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    max_body_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="Largest request body; beyond it 413."
    )
    requests_max: int = Field(
        4096,
        gt=0,
        description="Requests that one API replica serves at once, including streams; beyond it "
        "503.",
    )
    bodies_max_bytes: int = Field(
        1024 * 1024 * 1024,
        gt=0,
        description="Total size of request bodies, and of the data made from them, that one API "
        "replica holds until their turns are submitted; beyond it 503. One key may never use more "
        "than is still free (429).",
    )
    trusted_proxies: Names = Field(
        (),
        description="Addresses and networks of the load balancers in front. Only their "
        "X-Forwarded-For is trusted.",
    )
    public_url: str | None = Field(
        None,
        description="Where browsers reach this API (https://agents.example.org, with the path in "
        "front of /v1 if there is one). Links to files begin with it; without it, answers have "
        "none. `agcluster up` and compose.yaml take the address of this machine (127.0.0.1), which "
        "its own browser reaches: set it if others use the API.",
    )
    files_url: str | None = Field(
        None,
        description="The same by another host name, for files only: what an agent made then never "
        "has the origin of anything else. Other paths are 404 there.",
    )
    cors_origins: Names = Field(
        (),
        description="Origins (https://chat.example.org, app://obsidian.md) whose pages may call "
        "the API from a browser, an app or an extension.",
    )
    a2a: bool = Field(
        False,
        description="Serve each agent over A2A 1.0, too, at /a2a/AGENT (docs/how-to/a2a.md). "
        "Needs the extra `a2a`.",
    )
    key_check: bool = Field(
        True,
        description="Ask the upstream (GET /v1/models) whether it accepts a key before a "
        "turn starts.",
    )
    key_check_ttl_s: float = Field(
        300.0, gt=0, description="How long an accepted key is remembered."
    )
    send_timeout_s: float = Field(
        60.0, gt=0, description="A client that reads nothing for this long is disconnected."
    )

    @field_validator("public_url", "files_url")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not re.fullmatch(r"https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~/\-]*)?", value):
            raise ValueError("must be an address: https://agents.example.org")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _files_have_a_host_of_their_own(self) -> Self:
        if self.files_url is None:
            return self
        files = urlsplit(self.files_url)
        if files.path:
            raise ValueError("AGCLUSTER_FILES_URL is a host of its own, without a path")
        if self.public_url and urlsplit(self.public_url).netloc.lower() == files.netloc.lower():
            raise ValueError("AGCLUSTER_FILES_URL must be another host than AGCLUSTER_PUBLIC_URL's")
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ipaddress.ip_network(address)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            # Desktop apps and extensions have schemes of their own.
            if not re.fullmatch(r"[a-z][a-z0-9+.\-]*://[A-Za-z0-9._\-\[\]:]+", origin):
                raise ValueError(f"{origin!r} is no origin: scheme, host and port, nothing else")
        return value
