"""Every setting, from the environment and `.env`, read once in a program's `main`.

One frozen model for all programs, so that one `.env` serves a whole deployment. An unknown name
with our prefix is refused: a typo in a deploy must not pass silently. `.env.example` lists each
setting and a test fails when it and this file differ.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from infra.wire.errors import AgClusterError
from infra.wire.ids import HostId

PREFIX = "AGCLUSTER_"


class SettingsRefused(AgClusterError):
    """The environment holds a setting that is unknown or does not fit; the message names each."""


class ToolDisplay(StrEnum):
    """Where the agent's tool activity and thinking are shown."""

    OFF = "off"
    REASONING = "reasoning"
    TEXT = "text"


class QueueDisplay(StrEnum):
    """Where a waiting stream shows its place in the queue."""

    OFF = "off"
    COMMENT = "comment"
    REASONING = "reasoning"


class Isolation(StrEnum):
    """What agents run in."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"


class EgressPolicy(StrEnum):
    """Which hosts an agent's tools may reach."""

    NONE = "none"
    ALLOWLIST = "allowlist"
    PUBLIC = "public"


class EgressProfile(BaseModel):
    """A policy of its own for the conversations that ask for it by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: EgressPolicy
    allow: tuple[str, ...] = ()


def _split(value: Any) -> Any:
    """`a, b` or a JSON list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _pairs(value: Any) -> Any:
    """`a=b, c=d` or a JSON object."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    return dict(part.split("=", 1) for part in _split(value))


def _object(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _named(profiles: dict[str, EgressProfile]) -> dict[str, EgressProfile]:
    for name in profiles:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise ValueError(f"a profile's name is made of letters, digits and _.- ({name!r})")
    return profiles


def _compiled(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Patterns = Annotated[Names, AfterValidator(_compiled)]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], BeforeValidator(_split)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_split)]
EgressProfiles = Annotated[
    dict[str, EgressProfile], BeforeValidator(_object), AfterValidator(_named)
]
Aliases = Annotated[dict[str, str], BeforeValidator(_pairs)]


class Settings(BaseModel):
    """All settings of a deployment. Durations end in `_s`, sizes in `_mb` or `_bytes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The API
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    max_body_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="Largest request body; beyond it 413."
    )
    max_header_chars: int = Field(
        256, gt=0, description="Longest name of a conversation; beyond it 400."
    )
    requests_max: int = Field(
        4096,
        gt=0,
        description="Requests one API replica answers at once, streams included; beyond it 503.",
    )
    bodies_max_bytes: int = Field(
        1024 * 1024 * 1024,
        gt=0,
        description="Bytes of request bodies, and of what is made of them, that one API replica "
        "holds at once, until their turns are handed over; beyond it 503.",
    )
    trusted_proxies: Names = Field(
        (),
        description="Addresses and networks of the balancers in front: their X-Forwarded-For says "
        "who calls. Nobody else's does.",
    )
    cors_origins: Names = Field(
        (),
        description="Origins (https://chat.example.org, app://obsidian.md) whose pages may call "
        "the API from a browser, an app or an extension.",
    )
    conversation_headers: Names = Field(
        ("X-Conversation-ID", "X-OpenWebUI-Chat-Id", "ChatUI-Conversation-ID", "x-thread-id"),
        description="Headers that name a conversation; the first that is not empty counts, then "
        "the body's metadata.conversation_id.",
    )
    thin_clients: bool = Field(
        True,
        description="A lone new message under a known name goes on where the conversation is, for "
        "clients that do not send its history; false: it begins anew.",
    )
    temporary_name_patterns: Patterns = Field(
        ("local:",),
        description="How the names of chats begin that are used again for another chat (regular "
        "expressions, a JSON list; Open WebUI's temporary chats). Under such a name each message "
        "that begins a history begins a conversation with an empty workspace. `[]`: none.",
    )
    ping_interval_s: float = Field(
        10.0, gt=0, le=15, description="Comment pings in a silent stream come this often."
    )
    commit_after_s: float = Field(
        3.0,
        ge=0,
        description="A stream waits this long for its first event before its 200 goes out, "
        "so that an early error keeps its honest status.",
    )
    retry_grace_s: float = Field(
        10.0,
        ge=0,
        le=60,
        description="A turn whose answer is not streamed goes on for this long without its client, "
        "if that is one that tries again by itself: its next try then gets the same turn.",
    )
    blanks_every_s: float = Field(
        0.0,
        ge=0,
        description="An answer that is not streamed sends a blank before its JSON this often, so "
        "that balancers do not cut a long one; a turn that fails after the first has its error "
        "behind a 200. 0: never.",
    )
    queue_display: QueueDisplay = Field(
        QueueDisplay.COMMENT,
        description="How a stream that waits shows how many turns are before it: `comment` (of "
        "the event stream; clients skip it), `reasoning` (people see it) or `off`.",
    )
    queue_timeout_s: float = Field(
        300.0, gt=0, description="A turn nobody could start for this long ends with 503."
    )
    send_timeout_s: float = Field(
        60.0, gt=0, description="A client that reads nothing for this long is dropped."
    )
    turns_waiting_max: int = Field(
        8, ge=1, description="Turns of one conversation that may wait; beyond it 429."
    )
    queue_max: int = Field(
        1000,
        ge=0,
        description="Turns in the whole cluster that may wait for a worker; beyond it 503. 0: any.",
    )
    tenant_turns_max: int = Field(
        500, ge=0, description="Turns of one key that may be open; beyond it 429. 0: any."
    )
    tenant_queue_max: int = Field(
        200,
        ge=0,
        description="Turns of one key that may wait, in whatever conversations; beyond it 429. "
        "0: any.",
    )
    tenant_bytes_max: int = Field(
        512 * 1024 * 1024,
        ge=0,
        description="Bytes one key may hold in Redis: open requests, logs of its turns, what is "
        "kept of its conversations. Beyond it new turns are refused (429); those that run may take "
        "a quarter more before they are ended. 0: any.",
    )
    tenant_requests_per_min: int = Field(
        600, ge=0, description="Requests one key may make in a minute; beyond it 429. 0: any."
    )
    tenant_streams_max: int = Field(
        0,
        ge=0,
        description="Answers one key may have open at once at one API replica, streams and "
        "followers included; beyond it 429. 0: any.",
    )
    key_failures_per_min: int = Field(
        60,
        ge=0,
        description="Bad keys one address may try in a minute; beyond it 429 for every key that "
        "is not known to be good. 0: any.",
    )
    key_check: bool = Field(
        True, description="Ask the upstream (GET /v1/models) whether a key is good before a turn."
    )
    key_check_ttl_s: float = Field(300.0, gt=0, description="How long a good key is remembered.")
    drain_timeout_s: float = Field(
        30.0, ge=0, description="On SIGTERM, running streams and turns get this long."
    )
    drain_notice_s: float = Field(
        3.0,
        ge=0,
        description="Of that time, an API replica goes on taking requests for this long, not "
        "ready any more: so long balancers may take to notice. At most half of it.",
    )

    # Models
    models: Names = Field(
        (
            "claude-opus-4-5-20251101",
            "claude-sonnet-4-5-20250929",
            "claude-haiku-4-5-20251001",
            "claude-opus-4-1-20250805",
        ),
        description="Model ids offered at /v1/models. With `upstream_models` off, or where this is "
        "set and that is not, any other is 404.",
    )
    upstream_models: bool = Field(
        True,
        description="Whether the models that the upstream lists for a caller's key are offered "
        "too.",
    )
    model_aliases: Aliases = Field(
        {
            "claude-opus-4.5": "claude-opus-4-5-20251101",
            "claude-sonnet-4.5": "claude-sonnet-4-5-20250929",
            "claude-haiku-4.5": "claude-haiku-4-5-20251001",
            "claude-opus-4.1": "claude-opus-4-1-20250805",
        },
        description="Other names for models, offered beside them.",
    )
    anthropic_base_url: str = Field(
        "https://api.anthropic.com", description="The upstream: any server of the Messages API."
    )

    # What agents may ask of the models
    agent_models: Names = Field(
        (),
        description="Models that agents may call, for sub-agents and small tasks too, beside the "
        "one that was asked for. Empty: `models` and those that utility models stand for.",
    )
    model_calls_max: int = Field(
        32, gt=0, description="Model calls one agent may have under way at once; beyond it 429."
    )
    model_calls_per_minute: int = Field(
        600,
        ge=0,
        description="Model calls of one agent in a minute, each megabyte of their bodies counted "
        "as one more; beyond it they wait, then 429. 0: any.",
    )
    model_bodies_max_bytes: int = Field(
        512 * 1024 * 1024,
        gt=0,
        description="Bytes of large model calls, of all agents of a gateway, that it holds until "
        "they are sent; beyond it 529.",
    )
    turn_budget_tokens: int = Field(
        0,
        ge=0,
        description="Tokens one turn may use (input, output and cache creation; not what is read "
        "from a cache). Beyond it the turn ends with `budget_exceeded`. 0: any number.",
    )
    tenant_budget_tokens: int = Field(
        0,
        ge=0,
        description="The same for all turns of one key in a day (UTC); its next turns are refused "
        "with 402 until midnight. 0: any number.",
    )

    # Side requests
    utility_models: Aliases = Field(
        {"claude-utility": "claude-haiku-4-5-20251001"},
        description="Model names for titles, tags and the like, offered beside the models: a "
        "request for one is a single call of the model it stands for, with no agent. The default "
        "follows `models` when those lack its target.",
    )
    side_request_patterns: Patterns = Field(
        (
            "Provide a concise, 5-word-or-less title",
            "Analyze this conversation and provide:",
            "### Task:",
        ),
        description="How the side requests of chat programs begin (regular expressions, a JSON "
        "list). One that is not streamed and has a single user message is answered as above, by "
        "the model it asks for. `[]`: none.",
    )
    side_max_tokens: int = Field(
        1024, gt=0, description="Longest answer to a side request that sets no max_tokens."
    )
    side_deadline_s: float = Field(
        120.0, gt=0, description="Longest the answer to a side request may take."
    )

    # Agents
    system_prompt: str | None = Field(
        None, description="Default system prompt, used when a request has none."
    )
    tools: Names = Field(
        (
            "Bash",
            "Read",
            "Write",
            "Edit",
            "Grep",
            "Glob",
            "Task",
            "TodoWrite",
            "WebFetch",
            "WebSearch",
            "NotebookEdit",
        ),
        description="Tools an agent has.",
    )
    tool_display: ToolDisplay = Field(
        ToolDisplay.REASONING, description="Where tool activity and thinking are shown."
    )
    max_turns: int = Field(200, gt=0, description="Model calls one turn may make.")
    turn_deadline_s: float = Field(3600.0, gt=0, description="Longest a turn may run.")
    idle_timeout_s: float = Field(
        1800.0, gt=0, description="A conversation idle for this long loses its container."
    )
    agent_alone_s: float = Field(
        3600.0,
        ge=60,
        description="An agent that no worker has spoken to for this long ends by itself, but not "
        "before the idle timeout: a host whose workers are gone for good is left with none.",
    )
    retention_s: float = Field(
        7 * 86400.0, gt=0, description="A conversation nobody used for this long is forgotten."
    )
    turn_ttl_s: float = Field(
        3600.0, gt=0, description="A turn that has ended can be come back to for this long."
    )
    transcript_max_bytes: int = Field(
        32 * 1024 * 1024,
        gt=0,
        le=48 * 1024 * 1024,  # it has to fit into one line of the link, beside the prompt
        description="Largest transcript that is kept of a conversation. One that grows beyond it "
        "goes on from the history its client sends, once its container is gone.",
    )
    disconnect_grace_s: float = Field(
        5.0, gt=0, le=10, description="An interrupted agent may take this long before it is killed."
    )

    # Isolation
    isolation: Isolation = Field(Isolation.AUTO, description="What agents run in.")
    agent_image: str = Field("agcluster-agent:0.1.0", description="Image of the agents.")
    base_image: str = Field(
        "python:3.11-slim-bookworm", description="What the agent image is built from."
    )
    container_runtime: str = Field("runc", description="Docker runtime of agents: runc, runsc.")
    container_cpus: float = Field(1.0, gt=0, description="CPUs of one agent.")
    container_memory_mb: int = Field(
        1024, ge=256, description="Memory of one agent; swap is not added."
    )
    container_pids: int = Field(256, ge=32, description="Processes and threads of one agent.")
    container_tmp_mb: int = Field(
        256, ge=16, description="Size of an agent's /tmp and of its home."
    )
    workspace_max_mb: int = Field(
        4096,
        gt=0,
        description="Size of a conversation's workspace beyond which a turn that lets it grow is "
        "ended.",
    )
    container_start_timeout_s: float = Field(
        60.0, gt=0, description="A container that does not answer within this failed."
    )
    slots: int = Field(
        0, ge=0, description="Containers a worker owns at most; 0: by the machine's memory."
    )
    start_slots: int = Field(
        0,
        ge=0,
        description="Agents one host starts at once; what more is asked for waits in the queue. "
        "0: as many as the host has cores, which serves a burst fastest.",
    )
    host_memory_reserve_mb: int = Field(
        256,
        ge=0,
        description="A worker starts nothing new while its host has less memory available than one "
        "agent may use and this much. Never more than half of the machine is asked for.",
    )
    egress: EgressPolicy = Field(
        EgressPolicy.PUBLIC, description="Which hosts an agent's tools may reach."
    )
    egress_allow: Names = Field(
        (), description="Hosts of policy allowlist; `.example.org` includes its subdomains."
    )
    egress_profiles: EgressProfiles = Field(
        {},
        description="Other policies by name, as JSON: "
        '`{"pip": {"policy": "allowlist", "allow": ["pypi.org", "files.pythonhosted.org"]}}`. A '
        "request picks one with the header X-AgCluster-Profile or metadata.profile, its "
        "conversation keeps it; any other name is 400.",
    )
    egress_ports: Ports = Field(
        (80, 443), description="Ports that tools may reach: HTTP, HTTPS, git over HTTPS."
    )
    egress_deny: Networks = Field(
        (),
        description="Networks that tools may never reach beside private ones: the cluster's own "
        "public addresses. Those of the gateway's machine, and of Redis as its name leads at the "
        "start, need not be listed. A gateway in a container (`compose.yaml`) does not know its "
        "host's: list them.",
    )
    egress_connections_max: int = Field(
        64, gt=0, description="Connections of one agent's tools at once; beyond it 429."
    )
    egress_connections_per_minute: int = Field(
        1200, ge=0, description="New ones in a minute; beyond it they wait, then 429. 0: any."
    )
    egress_bytes_per_s: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Bytes a second of one agent's tools, both ways together. 0: any number.",
    )
    egress_turn_bytes_max: int = Field(
        8 * 1024**3,
        gt=0,
        description="Bytes of one turn's tools, both ways together; then they are cut off.",
    )
    egress_idle_timeout_s: float = Field(
        300.0, gt=0, description="A connection of a tool that is silent for this long is cut."
    )

    # The cluster
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
        validate_default=True,  # so that `~` is resolved
        description="Sockets and workspaces of this host's conversations.",
    )
    retire_on_exit: bool = Field(
        False, description="A worker that ends stops its containers instead of leaving them."
    )
    demo: bool = Field(False, description="Use the built-in scripted model: no key, no internet.")

    # Logs
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field("text", pattern="^(text|json)$", description="text or json.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return Path(os.path.abspath(value.expanduser()))

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

    @field_validator("anthropic_base_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

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

    @model_validator(mode="after")
    def _conversations_outlive_their_turns(self) -> Settings:
        needed_s = self.queue_timeout_s + self.turn_deadline_s + 60
        if self.retention_s < needed_s:
            raise ValueError(
                "AGCLUSTER_RETENTION_S must be at least AGCLUSTER_QUEUE_TIMEOUT_S + "
                f"AGCLUSTER_TURN_DEADLINE_S + 60 ({needed_s:g})"
            )
        return self

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Settings:
        if lost := [a for a, m in self.model_aliases.items() if m not in self.models]:
            if "model_aliases" in self.model_fields_set:
                raise ValueError(
                    f"AGCLUSTER_MODEL_ALIASES name models that are not in AGCLUSTER_MODELS: {lost}"
                )
            kept = {a: m for a, m in self.model_aliases.items() if m in self.models}
            object.__setattr__(self, "model_aliases", kept)
        return self

    @model_validator(mode="after")
    def _set_models_are_all(self) -> Settings:
        if "models" in self.model_fields_set and "upstream_models" not in self.model_fields_set:
            object.__setattr__(self, "upstream_models", False)
        return self

    @model_validator(mode="after")
    def _utility_follows_models(self) -> Settings:
        if "utility_models" not in self.model_fields_set and self.models:
            small = next((m for m in self.models if "haiku" in m), self.models[0])
            made = {
                name: model if model in self.models else small
                for name, model in self.utility_models.items()
            }
            object.__setattr__(self, "utility_models", made)
        return self

    @property
    def host_name(self) -> HostId:
        """This machine's id in keys and labels."""
        return HostId(self.host_id or socket.gethostname())

    @property
    def gateway_socket(self) -> Path:
        """The gateway's control socket on this host."""
        return self.data_dir / "gateway" / "control.sock"

    def models_of_turn(self, model: str) -> tuple[str, ...]:
        """Models that the agent of a turn may call: the turn's own, and those open to all."""
        return tuple(dict.fromkeys((model, *self.open_models)))

    @property
    def open_models(self) -> tuple[str, ...]:
        """Models that any agent may call."""
        small = [self.model_aliases.get(name, name) for name in self.utility_models.values()]
        return self.agent_models or tuple(dict.fromkeys((*self.models, *small)))

    @property
    def has_egress(self) -> bool:
        """Whether any agent of the deployment may have a way out."""
        policies = (self.egress, *(profile.policy for profile in self.egress_profiles.values()))
        return any(policy is not EgressPolicy.NONE for policy in policies)

    @property
    def model_tiers(self) -> dict[str, str]:
        """The open models that agents get when they ask for a tier; a tier without one: the first
        open model, or for the smallest the one of the utility models."""
        if not self.open_models:
            return {}
        first = self.open_models[0]
        small = next((m for m in self.utility_models.values() if m in self.open_models), first)
        return {
            tier: next((m for m in self.open_models if tier in m), instead)
            for tier, instead in (
                ("haiku", small),
                ("sonnet", first),
                ("opus", first),
                ("fable", first),
            )
        }

    def resolve_model(self, name: str) -> str | None:
        """The real id of a model, alias or utility model; None when it is not offered.

        A utility model may stand for one that agents are not offered.
        """
        if target := self.utility_models.get(name):
            return self.model_aliases.get(target, target)
        return self.model_aliases.get(name, name if name in self.models else None)


def load_settings(
    environ: Mapping[str, str] | None = None, *, env_file: Path | None = Path(".env")
) -> Settings:
    """Settings from `environ` (default: the process's) over those of `env_file`, if there is one.

    Raises `SettingsRefused`.
    """
    environ = os.environ if environ is None else environ
    from_file = dotenv_values(env_file) if env_file and env_file.is_file() else {}
    merged = {k: v for k, v in from_file.items() if v is not None} | dict(environ)
    values = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in merged.items()
        if name.startswith(PREFIX) and value != ""
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsRefused(_explain(error)) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for a child process. Holds the secret in the clear."""
    out: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        text = json.dumps(value, default=_plain) if isinstance(value, tuple | dict) else str(value)
        out[PREFIX + name.upper()] = text
    return out


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        name = PREFIX + ".".join(str(part) for part in fault["loc"]).upper()
        what = "is not a setting" if fault["type"] == "extra_forbidden" else fault["msg"]
        lines.append(f"{name}: {what}" if fault["loc"] else what)
    return "; ".join(lines)
