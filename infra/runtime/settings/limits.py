"""Limits per key, conversation and agent."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from infra.runtime.settings.types import Section


class LimitSettings(Section):
    """Limits of what waits and of what one key may use."""

    title: ClassVar = "Limits"

    queue_timeout_s: float = Field(
        300.0, gt=0, description="A turn that no worker could start for this long ends with 503."
    )
    turns_waiting_max: int = Field(
        8, ge=1, description="Waiting turns of one conversation; beyond it 429."
    )
    queue_max: int = Field(
        1000,
        ge=0,
        description="Turns of the whole cluster that may wait for a worker; beyond it 503. 0: no "
        "limit.",
    )
    tenant_turns_max: int = Field(
        500, ge=0, description="Open turns of one key; beyond it 429. 0: no limit."
    )
    tenant_queue_max: int = Field(
        200,
        ge=0,
        description="Waiting turns of one key, in all its conversations; beyond it 429. 0: no "
        "limit.",
    )
    tenant_bytes_max: int = Field(
        512 * 1024 * 1024,
        ge=0,
        description="Bytes of one key in Redis: open requests, logs of its turns, stored data of "
        "its conversations. Beyond it new turns are refused (429); running turns may use a quarter "
        "more before they are ended. 0: no limit.",
    )
    tenant_requests_per_min: int = Field(
        600, ge=0, description="Requests of one key per minute; beyond it 429. 0: no limit."
    )
    tenant_streams_max: int = Field(
        0,
        ge=0,
        description="Open answers of one key at one API replica, including streams and followers; "
        "beyond it 429. 0: no limit.",
    )
    key_failures_per_min: int = Field(
        60,
        ge=0,
        description="Bad keys that one address may try per minute; beyond it 429 for every key "
        "that is not known to be good. 0: no limit.",
    )


class ModelCallSettings(Section):
    """Limits of an agent's model calls, and token budgets."""

    title: ClassVar = "What agents may ask of the models"

    model_calls_max: int = Field(
        32, gt=0, description="Concurrent model calls of one agent; beyond it 429."
    )
    model_calls_per_minute: int = Field(
        600,
        ge=0,
        description="Model calls of one agent per minute; each megabyte of their bodies counts as "
        "one more. Beyond it calls wait, then 429. 0: no limit.",
    )
    model_bodies_max_bytes: int = Field(
        512 * 1024 * 1024,
        gt=0,
        description="Total size of large model calls, from all agents of a gateway, that it holds "
        "until they are sent; beyond it 529.",
    )
    turn_budget_tokens: int = Field(
        0,
        ge=0,
        description="Tokens that one turn may use (input, output and cache creation; cache reads "
        "do not count). Beyond it the turn ends with `budget_exceeded`. 0: no limit.",
    )
    tenant_budget_tokens: int = Field(
        0,
        ge=0,
        description="The same for all turns of one key per day (UTC); further turns are refused "
        "with 402 until midnight. 0: no limit.",
    )
