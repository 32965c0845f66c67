"""Turns a message into an `Ask`: what it asks of which conversation, or why it is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping

from a2a.types import Message, Role, SendMessageRequest
from a2a.utils.errors import PushNotificationNotSupportedError

from api.a2a.errors import ProtocolRefusal
from api.a2a.names import context_name, new_context
from api.a2a.parts import PartReader
from api.access.agents import AgentCatalog, ChosenAgent
from api.http.auth import Caller, without_key
from api.turns.ask import Ask, Blocks, Prompt, prompt_of
from api.turns.mcp_secrets import read_mcp_secrets
from api.turns.options import options_under, read_options
from api.turns.options_of_agent import options_of_agent
from api.turns.repeats import Repeat, RepeatKind
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.options import NO_TURN_OPTIONS
from infra.wire.turns import HistoryMessage, OnDisconnect

MESSAGE_ID_MAX_CHARS = 256


class MessageReader:
    """Reads messages; raises `RequestRefused` and `ProtocolRefusal` for invalid ones."""

    def __init__(
        self, parts: PartReader, *, agents: AgentCatalog, egress_profiles: Container[str]
    ) -> None:
        self._parts = parts
        self._agents = agents
        self._egress_profiles = egress_profiles

    async def choose(self, agent: str, caller: Caller) -> ChosenAgent:
        """The agent of a path. Raises `RequestRefused` if there is none that the caller may use."""
        chosen = await self._agents.choose(agent, caller) if "/" not in agent else None
        if chosen is None or chosen.agent is None:
            raise no_agent()
        return chosen

    async def read(
        self,
        sent: SendMessageRequest,
        caller: Caller,
        *,
        agent: str,
        headers: Mapping[str, str],
        base_url: str,
        size: int,
    ) -> Ask:
        """What the message asks for. `size`: of the body in bytes."""
        message = sent.message
        chosen = await self.choose(agent, caller)
        _check(sent, headers)
        blocks = await self._parts.read(message.parts, caller, base_url=base_url)
        if not blocks:
            raise RequestRefused("The message is empty.", param="message.parts")
        repeat = _repeat(message, agent)
        options = read_options(headers, egress_profiles=self._egress_profiles)
        return Ask(
            caller=caller,
            model=chosen.model,
            agent=chosen.agent,
            profile=chosen.profile,
            delegation=chosen.delegation,
            asked_model=agent,
            prompt=_prompt(blocks),
            name=_context(message, caller, agent, repeat.body_digest),
            is_thin=True,
            # A task goes on without its client, until somebody cancels it.
            on_disconnect=OnDisconnect.CONTINUE,
            size=size,
            repeat=repeat,
            options=options_under(chosen, options),
            turn_options=options_of_agent(NO_TURN_OPTIONS, chosen.profile, form_param=""),
            mcp_secrets=read_mcp_secrets(
                headers, wanted=chosen.profile.callers_secrets if chosen.profile else frozenset()
            ),
        )


def no_agent() -> RequestRefused:
    """There is no such agent, or the caller may not use it: they cannot tell the two apart."""
    return RequestRefused(
        "There is no agent here. GET /v1/models lists those that there are.",
        code=ErrorCode.MODEL_NOT_FOUND,
    )


def _prompt(blocks: Blocks) -> Prompt:
    return prompt_of([HistoryMessage(role="user", content=blocks)], [0])


def _check(sent: SendMessageRequest, headers: Mapping[str, str]) -> None:
    message = sent.message
    if sent.configuration.HasField("task_push_notification_config"):
        raise ProtocolRefusal(PushNotificationNotSupportedError)
    if not message.message_id:
        raise RequestRefused("`messageId` is required.", param="message.messageId")
    if len(message.message_id) > MESSAGE_ID_MAX_CHARS:
        raise RequestRefused(
            f"`messageId` is longer than {MESSAGE_ID_MAX_CHARS} characters.",
            param="message.messageId",
        )
    if message.role == Role.ROLE_AGENT:
        raise RequestRefused("A message to an agent has the role ROLE_USER.", param="message.role")
    if without_key(message.context_id, headers) != message.context_id:
        # It is stored, shown in lists and sent in answers.
        raise RequestRefused("`contextId` holds an API key.", param="message.contextId")


def _context(message: Message, caller: Caller, agent: str, digest: bytes) -> str:
    if message.context_id:
        return context_name(message.context_id)
    return new_context(caller.tenant, agent=agent, digest=digest)


def _repeat(message: Message, agent: str) -> Repeat:
    """A message that comes again under its id is answered by the turn of the first time."""
    told = hashlib.sha256(agent.encode())
    told.update(f"\0{message.message_id}\0{message.task_id}".encode())
    for part in message.parts:
        told.update(b"\0" + hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    return Repeat(RepeatKind.PROMISE, told.digest(), f"a2a:{message.message_id}", comes_again=True)
