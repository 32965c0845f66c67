"""Settings of agents and of their isolation."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from infra.runtime.settings.types import Isolation, Names, PermissionRules, Section
from infra.wire.base import VERSION


class AgentDefaults(Section):
    """What an agent starts with, and time limits."""

    title: ClassVar = "Agents"

    system_prompt: str | None = Field(
        None, description="Default system prompt, for requests without one."
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
        description="Tools of an agent.",
    )
    agents_dir: Path = Field(
        Path("agents"),
        description="Folder with the profiles of agents, a YAML file each "
        "(docs/reference/agents.md). Clients pick an agent by its name, as `model`.",
    )
    shipped_agents: bool = Field(
        True,
        description="Offer the agents that ship with AgCluster, too: code-assistant, reviewer, "
        "researcher, data-analyst, team. One of the folder replaces one with its name.",
    )
    max_turns: int = Field(200, gt=0, description="Maximum number of model calls in one turn.")
    questions: bool = Field(
        False,
        description="The agent may ask its user in the middle of the work: its answer ends with "
        "the question, and it goes on with what they say next. An agent's profile decides for "
        "itself.",
    )
    delegation_depth: int = Field(
        2,
        ge=0,
        le=5,
        description="How many agents may stand behind one another when agents call agents. 0: no "
        "agent may call another one.",
    )
    delegations_at_once: int = Field(
        3, ge=1, le=32, description="Agents that the agent of one turn may have called at once."
    )
    delegations_max: int = Field(10, ge=1, le=100, description="Calls of other agents in one turn.")
    delegation_wait_s: float = Field(
        30.0,
        gt=0,
        description="A called agent for which no worker has room within this time is not waited "
        "for: its caller is told, and goes on without it.",
    )
    permissions: PermissionRules | None = Field(
        None,
        description="What agents may do without asking their user, as JSON "
        "(docs/reference/agents.md). Empty: everything, in the sandbox. An agent's profile "
        "decides for itself.",
    )
    turn_deadline_s: float = Field(3600.0, gt=0, description="Maximum duration of a turn.")
    idle_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="The container of a conversation that was idle for this long is stopped.",
    )
    agent_alone_s: float = Field(
        3600.0,
        ge=60,
        description="An agent that no worker has contacted for this long exits on its own, but not "
        "before the idle timeout, so that no agents remain on a host whose workers are gone for "
        "good.",
    )
    retention_s: float = Field(
        7 * 86400.0, gt=0, description="A conversation that was not used for this long is deleted."
    )
    turn_ttl_s: float = Field(
        3600.0, gt=0, description="A finished turn can be fetched for this long."
    )
    transcript_max_bytes: int = Field(
        32 * 1024 * 1024,
        gt=0,
        le=48 * 1024 * 1024,  # It has to fit into one line of the link, next to the prompt.
        description="Largest transcript that is stored for a conversation. If it grows further, "
        "the conversation continues from the history that its client sends once its container is "
        "gone.",
    )
    disconnect_grace_s: float = Field(
        5.0,
        gt=0,
        le=10,
        description="Time that an interrupted agent has to end its turn before it is killed.",
    )


class IsolationSettings(Section):
    """What isolates agents, their resources, and how many a host runs."""

    title: ClassVar = "Isolation"

    isolation: Isolation = Field(Isolation.AUTO, description="What isolates agents.")
    agent_image: str = Field(f"agcluster-agent:{VERSION}", description="Image of the agents.")
    agent_images: Names = Field(
        (),
        description="Images that the profiles of agents may name (`image`), beside AGENT_IMAGE. "
        "With Docker only.",
    )
    base_image: str = Field(
        "python:3.11-slim-bookworm", description="Base image of the agents' image."
    )
    container_runtime: str = Field("runc", description="Docker runtime of agents: runc, runsc.")
    container_cpus: float = Field(1.0, gt=0, description="CPUs of one agent.")
    container_start_cpus: float = Field(
        2.0,
        ge=0,
        description="CPUs of one agent until it has sent its first event, if that is more than its "
        "usual ones. With two, its CLI and its Python start side by side.",
    )
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
        description="Size of a conversation's workspace. A turn that lets it grow beyond this is "
        "ended.",
    )
    container_start_timeout_s: float = Field(
        60.0, gt=0, description="A container that does not answer within this time has failed."
    )
    slots: int = Field(
        0,
        ge=0,
        description="Maximum number of containers of one worker; 0: by the machine's memory.",
    )
    start_slots: int = Field(
        0,
        ge=0,
        description="Agents that one host starts at once; further starts wait in the queue. 0: as "
        "many as the host has cores, which serves a burst fastest.",
    )
    host_memory_reserve_mb: int = Field(
        256,
        ge=0,
        description="A worker starts nothing new if its host has less available memory than one "
        "agent may use plus this much. It never asks for more than half of the machine's memory.",
    )
    hibernate_below_mb: int = Field(
        0,
        ge=0,
        description="When its host has less available memory than this, a worker stops the "
        "containers of idle conversations, the longest idle first; the next turn starts one again. "
        "0: one idle agent (200 MB) more than it needs to start anything new.",
    )
    hibernate_until_mb: int = Field(
        0,
        ge=0,
        description="It stops them until this much memory is available. 0: 400 MB more than the "
        "amount at which it begins.",
    )
    meminfo_file: Path = Field(
        Path("/proc/meminfo"),
        description="Where a worker reads its host's available memory, for a worker that sees "
        "another machine's figures there.",
    )


class PoolSettings(Section):
    """Spare agents, which wait for conversations that are still to come."""

    title: ClassVar = "Warm pool"

    spares_min: int = Field(
        1,
        ge=0,
        description="Spare agents that each worker keeps if nothing happens, so that a new "
        "conversation's first words come at once.",
    )
    spares_max: int = Field(
        4,
        ge=0,
        description="Spare agents of one worker when many conversations start. A spare takes about "
        "140 MB. 0: no spares.",
    )
    spare_max_age_s: float = Field(
        1800.0, gt=0, description="A spare that was not used for this long is replaced."
    )
