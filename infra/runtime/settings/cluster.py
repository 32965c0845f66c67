"""What connects programs on several machines to one cluster."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from infra.runtime.settings.types import Section
from infra.wire.ids import HostId


class RedisSettings(Section):
    """The cluster's Redis and the connections to it."""

    title: ClassVar = "Redis"

    redis_url: str | None = Field(
        None,
        description="redis://, rediss://, unix://, or redis+sentinel://host1,host2,host3/service "
        "(rediss+sentinel:// with TLS); `agcluster up` starts its own when unset.",
    )
    redis_prefix: str = Field("agc", description="First word of every key.")
    redis_timeout_s: float = Field(5.0, gt=0, description="Deadline of one Redis command.")
    redis_patience_s: float = Field(
        30.0, ge=0, description="At its start, a program waits this long for Redis."
    )
    redis_allow_eviction: bool = Field(
        False,
        description="Start with a Redis that evicts keys when it is full, which loses leases and "
        "conversations.",
    )
    redis_ca_file: Path | None = Field(
        None, description="PEM file of the CA that signed Redis' certificate; else the system's."
    )
    redis_cert_file: Path | None = Field(
        None, description="PEM file of our own certificate, for a Redis that wants one."
    )
    redis_key_file: Path | None = Field(None, description="PEM file of that certificate's key.")


class ClusterSettings(Section):
    """The cluster's name and secrets, and this machine's place in it."""

    title: ClassVar = "The cluster"

    secret: SecretStr | None = Field(
        None,
        description="The cluster's secret, the same for API and gateway, at least 32 "
        "characters. `agcluster up` makes one when unset.",
    )
    content_secret: SecretStr | None = Field(
        None,
        description="Seals what is asked and answered in Redis: prompts, events, transcripts. The "
        "same for API and workers, at least 32 characters, another one than the secret. To renew "
        "it put the new one in front, separated by a comma. Unset: they are readable.",
    )
    cluster: str = Field("default", description="Name of this cluster; labels its containers.")
    host_id: str | None = Field(None, description="Name of this machine; its host name when unset.")
    data_dir: Path = Field(
        Path("~/.local/state/agcluster"),
        validate_default=True,  # to resolve `~`
        description="Sockets and workspaces of this host's conversations.",
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="On SIGTERM, running streams and turns get this long."
    )
    drain_notice_s: float = Field(
        3.0,
        ge=0,
        description="Of that time, an API replica goes on taking requests for this long, not "
        "ready any more: so long balancers may take to notice. At most half of it.",
    )
    retire_on_exit: bool = Field(
        False, description="A worker that ends stops its containers instead of leaving them."
    )
    demo: bool = Field(False, description="Use the built-in scripted model: no key, no internet.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return Path(os.path.abspath(value.expanduser()))

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must be at least 32 characters (openssl rand -hex 32)")
        return value

    @field_validator("content_secret")
    @classmethod
    def _each_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        parts = value.get_secret_value().split(",") if value else ()
        if any(len(part.strip()) < 32 for part in parts):
            raise ValueError("each must be at least 32 characters (openssl rand -hex 32)")
        return value

    @property
    def host_name(self) -> HostId:
        """This machine's id in keys and labels."""
        return HostId(self.host_id or socket.gethostname())

    @property
    def gateway_socket(self) -> Path:
        """The gateway's control socket on this host."""
        return self.data_dir / "gateway" / "control.sock"


class LogSettings(Section):
    """How the programs log."""

    title: ClassVar = "Logs"

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field("text", pattern="^(text|json)$", description="text or json.")
