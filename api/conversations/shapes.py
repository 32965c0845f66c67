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
    caller: str | None = Field(
        description="The conversation whose agent called this one's; it is in no list then."
    )


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


class SessionFile(BaseModel):
    """A file that the agent made or changed, as it was at the end of a turn. Unix seconds."""

    id: str
    path: str = Field(description="In the agent's workspace.")
    bytes: int
    type: str
    kept_at: int
    expires_at: int | None


class SessionFiles(BaseModel):
    """The newest version of each, by path."""

    object: Literal["list"] = "list"
    data: list[SessionFile]


class ContainerFile(BaseModel):
    """The same file in OpenAI's form."""

    id: str
    object: Literal["container.file"] = "container.file"
    bytes: int
    container_id: str
    created_at: int
    path: str
    source: Literal["assistant"] = "assistant"


class ContainerFileList(BaseModel):
    """All of them, by path."""

    object: Literal["list"] = "list"
    data: list[ContainerFile]
    first_id: str | None
    last_id: str | None
    has_more: bool = False
