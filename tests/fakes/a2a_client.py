"""The official client of A2A, and what a client makes of a stream."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.types import Message, Part, Role, SendMessageRequest, StreamResponse, Task, TaskStatus

JSONRPC, HTTP_JSON = "JSONRPC", "HTTP+JSON"

_ids = itertools.count(1)
_RUN = uuid.uuid4().hex[:8]


@asynccontextmanager
async def a2a_client(
    url: str, agent: str, *, key: str, binding: str = JSONRPC, **config: Any
) -> AsyncIterator[Client]:
    """It finds out by the card at this API's address how the agent is reached."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(headers=headers, timeout=90) as http:
        card = await A2ACardResolver(http, f"{url}/a2a/{agent}").get_agent_card()
        made = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding], **config)
        yield ClientFactory(made).create(card)


def message(text: str, *parts: Part, **more: Any) -> SendMessageRequest:
    """A message with an id of its own, unless told otherwise."""
    configuration = more.pop("configuration", None)
    told = {"message_id": f"message-{_RUN}-{next(_ids)}", "role": Role.ROLE_USER, **more}
    said = [Part(text=text)] if text else []
    return SendMessageRequest(
        message=Message(parts=[*said, *parts], **told), configuration=configuration
    )


async def ask(client: Client, sent: SendMessageRequest) -> Sequence[StreamResponse]:
    """All updates of the answer."""
    return [update async for update in client.send_message(sent)]


def folded(updates: Sequence[StreamResponse]) -> Task:
    """The task after these updates, by the rules of the protocol."""
    task = Task()
    task.CopyFrom(updates[0].task)
    for update in updates[1:]:
        if update.HasField("status_update"):
            task.status.CopyFrom(update.status_update.status)
            continue
        new = update.artifact_update
        known = [one for one in task.artifacts if one.artifact_id == new.artifact.artifact_id]
        if known and new.append:
            known[0].parts.extend(new.artifact.parts)
        else:
            task.artifacts.append(new.artifact)
    return task


def text_of(task: Task) -> str:
    """Everything that the agent has answered in it."""
    return "".join(
        part.text for one in task.artifacts if one.name == "answer" for part in one.parts
    )


def said_by(status: TaskStatus) -> str:
    """The words of a status."""
    return "".join(part.text for part in status.message.parts)
