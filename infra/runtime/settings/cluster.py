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
        "(rediss+sentinel:// with TLS); if unset, `agcluster up` starts its own Redis.",
    )
    redis_prefix: str = Field("agc", description="Prefix of every key.")
    redis_timeout_s: float = Field(5.0, gt=0, description="Deadline of one Redis command.")
    redis_patience_s: float = Field(
        30.0, ge=0, description="How long a program waits for Redis when it starts."
    )
    redis_allow_eviction: bool = Field(
        False,
        description="Start even if Redis evicts keys when it is full, which loses leases and "
        "conversations.",
    )
    redis_ca_file: Path | None = Field(
        None,
        description="PEM file of the CA that signed Redis' certificate; default: the system's CAs.",
    )
    redis_cert_file: Path | None = Field(
        None, description="PEM file of our own certificate, for a Redis that requires one."
    )
    redis_key_file: Path | None = Field(None, description="PEM file of that certificate's key.")


class ClusterSettings(Section):
    """The cluster's name and secrets, and this machine's place in it."""

    title: ClassVar = "The cluster"

    secret: SecretStr | None = Field(
        None,
        description="The cluster secret, the same for API and gateway, at least 32 characters. If "
        "unset, `agcluster up` creates one. Of several, separated by commas, the first seals and "
        "each opens (docs/how-to/rotate-secrets.md).",
    )
    identity_secret: SecretStr | None = Field(
        None,
        description="What ids of tenants and conversations are derived from, if not from the "
        "(first) cluster secret. Set it to the first secret that the cluster had before you rotate "
        "that one, or nobody finds their conversations.",
    )
    old_secrets: SecretStr | None = Field(
        None,
        description="Cluster secrets of before, separated by commas. Links to files that were "
        "signed with them still work.",
    )
    content_secret: SecretStr | None = Field(
        None,
        description="Encrypts prompts, events and transcripts in Redis. The same for API and "
        "workers, at least 32 characters, and different from the cluster secret. To rotate it, put "
        "the new one in front, separated by a comma. If unset, these are stored unencrypted.",
    )
    cluster: str = Field(
        "default", description="Name of this cluster. Its containers carry it as a label."
    )
    host_id: str | None = Field(None, description="Name of this machine; default: its host name.")
    data_dir: Path = Field(
        Path("~/.local/state/agcluster"),
        validate_default=True,  # to resolve `~`
        description="Sockets and workspaces of this host's conversations.",
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="Time that running streams and turns have to finish after SIGTERM."
    )
    drain_notice_s: float = Field(
        3.0,
        ge=0,
        description="For this part of the drain time an API replica still accepts requests, "
        "although it reports that it is not ready, so that load balancers have time to notice. At "
        "most half of the drain time.",
    )
    retire_on_exit: bool = Field(
        False,
        description="Stop a worker's containers when it exits, instead of leaving them running.",
    )
    demo: bool = Field(
        False,
        description="Use the built-in scripted model: no key and no internet access needed. Any "
        "key that is not empty is accepted (docs/start/demo.md).",
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return Path(os.path.abspath(value.expanduser()))

    @field_validator("secret", "identity_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        told = value.get_secret_value()
        if len(told) < 32:
            raise ValueError("must be at least 32 characters (openssl rand -hex 32)")
        # A secret of before may have a comma in it. A list with a mistake in it is no such one.
        are_long = {len(part.strip()) >= 32 for part in told.split(",")}
        if len(are_long) > 1:
            raise ValueError("of several, each must be at least 32 characters")
        return value

    @field_validator("content_secret", "old_secrets")
    @classmethod
    def _each_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        parts = value.get_secret_value().split(",") if value else ()
        if any(len(part.strip()) < 32 for part in parts):
            raise ValueError("must be at least 32 characters each (openssl rand -hex 32)")
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


class MetricsSettings(Section):
    """Where the programs show their metrics."""

    title: ClassVar = "Metrics"

    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which each program shows its metrics to Prometheus, at /metrics; 0: "
        "nowhere. Programs that share an address need one each: `agcluster up` takes this one for "
        "the API and those after it for the others.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="Address of that port. All who reach it can read the metrics, without a key.",
    )
