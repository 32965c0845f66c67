"""Limits per key, conversation and agent."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from infra.runtime.settings.types import Section


class LimitSettings(Section):
    """Limits of what waits and of what one key may use."""

    title: ClassVar = "Limits"

    queue_timeout_s: float = Field(
        300.0, gt=0, description="A turn nobody could start for this long ends with 503."
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


class ModelCallSettings(Section):
    """Limits of an agent's model calls, and token budgets."""

    title: ClassVar = "What agents may ask of the models"

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
