"""The JSON of `/v1/sessions`, for callers and for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from infra.wire.states import ConversationState


class Session(BaseModel):
    """A conversation, in the words of its key in Redis. Times in Unix seconds."""

    object: Literal["session"] = "session"
    conversation: str = Field(description="Its key.")
    label: str = Field(description="The client's own name for it, cleaned and cut.")
    state: ConversationState
    turn: str | None = Field(description="The turn that has not ended, if any.")
    turns: int = Field(description="How many have.")
    created: int
    last_active: int
    idle_at: int | None = Field(description="When its container goes, if nothing happens.")


class SessionShown(Session):
    """A conversation with its turns."""

    turn_ids: list[str] = Field(description="Its newest turns, the last one last.")


class SessionList(BaseModel):
    """A page of conversations."""

    object: Literal["list"] = "list"
    data: list[Session]
    has_more: bool
    next: str | None = Field(description="Leads to the next page: `after`.")


class SessionDeleted(BaseModel):
    """A deleted conversation."""

    object: Literal["session.deleted"] = "session.deleted"
    conversation: str
    deleted: bool = True
