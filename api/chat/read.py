"""Reads a chat completions request: what it asks of which conversation, or why it is refused."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request

from api.access.agents import AgentCatalog
from api.chat.messages.attached import NamedFiles
from api.chat.messages.prompt import read_messages
from api.chat.messages.side_requests import SideRules
from api.chat.options.client_tools import means_its_tools
from api.chat.options.turn_options import read_turn_options
from api.chat.request import ChatRequest, read_chat_request
from api.files.given import FileBounds, find_files
from api.files.stored_files import StoredFiles
from api.http.auth import Caller, without_key
from api.http.bodies import LargeBodies, held_while_read, json_body
from api.http.edge import held_body
from api.turns.ask import Ask, Prompt
from api.turns.mcp_secrets import read_mcp_secrets
from api.turns.naming import conversation_name, resends_history
from api.turns.options import options_under, read_options
from api.turns.options_of_agent import options_of_agent
from api.turns.repeats import read_repeat
from infra.runtime.settings import ClientToolsUse, ConversationSettings
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.turns import Lane, OnDisconnect

_SCHEMA_COST = 32
"""A byte of a schema costs as much to check as so many bytes of a body to parse."""


class ChatReader:
    """Reads chat requests; raises `RequestRefused` for invalid ones."""

    def __init__(
        self,
        settings: ConversationSettings,
        *,
        egress_profiles: frozenset[str],
        rules: SideRules,
        agents: AgentCatalog,
        large: LargeBodies,
        files: StoredFiles,
        file_bounds: FileBounds,
    ) -> None:
        """`egress_profiles` are the ones that a request may name; `large` parses long bodies in a
        thread."""
        self._settings = settings
        self._egress_profiles = egress_profiles
        self._rules = rules
        self._agents = agents
        self._large = large
        self._files = files
        self._file_bounds = file_bounds

    async def read(self, request: Request, caller: Caller) -> tuple[ChatRequest, Ask]:
        """The request's body and headers, as an `Ask`."""
        settings = self._settings
        headers = request.headers
        on_disconnect = _on_disconnect(headers)
        held_body(request).belong(caller.tenant)
        body = await json_body(request)
        held_body(request).hold(held_while_read(body))
        size, tenant = len(body), caller.tenant
        chat = await self._large.read(size, lambda: read_chat_request(body), tenant=tenant)
        metadata = chat.names
        name = conversation_name(
            headers,
            metadata,
            names=settings.conversation_headers,
            max_chars=settings.max_header_chars,
        )
        chosen = await self._agents.choose(chat.model, caller)
        if chosen is None:
            shown = without_key(chat.model, headers)
            raise RequestRefused(
                f"The model `{shown}` does not exist. GET /v1/models lists those that do.",
                code=ErrorCode.MODEL_NOT_FOUND,
                param="model",
            )
        use = chosen.profile.client_tools if chosen.profile else None
        has_tools = means_its_tools(headers, ClientToolsUse(use) if use else settings.client_tools)
        prompt = await self._read_messages(chat, caller, body, has_tools=has_tools)
        turn_options = await self._large.read(
            chat.schema_bytes * _SCHEMA_COST,
            lambda: read_turn_options(chat, has_tools=has_tools),
            tenant=tenant,
        )
        lane = self._rules.lane_of(chat, headers)
        profile = None if lane is Lane.SIDE else chosen.profile
        ask = Ask(
            caller=caller,
            model=chosen.model,
            agent=None if lane is Lane.SIDE else chosen.agent,
            profile=profile,
            delegation=None if lane is Lane.SIDE else chosen.delegation,
            asked_model=chat.model,
            prompt=prompt,
            size=size,
            name=name,
            is_thin=settings.thin_clients and _may_be_thin(headers, name, prompt),
            on_disconnect=on_disconnect,
            is_streamed=bool(chat.stream),
            lane=lane,
            options=options_under(
                chosen, read_options(headers, metadata, egress_profiles=self._egress_profiles)
            ),
            turn_options=options_of_agent(turn_options, profile, form_param="response_format"),
            mcp_secrets=read_mcp_secrets(
                headers, wanted=profile.callers_secrets if profile else frozenset()
            ),
            repeat=read_repeat(headers, body, max_chars=settings.max_header_chars),
        )
        return chat, ask

    async def _read_messages(
        self, chat: ChatRequest, caller: Caller, body: bytearray, *, has_tools: bool
    ) -> Prompt:
        """The prompt, with the files that the messages name. Few name any, so these are found by
        reading, and the messages are read again with them."""
        bounds = self._file_bounds
        files = NamedFiles(files_max=bounds.files_max, are_urls_fetched=bounds.are_urls_fetched)

        def read() -> Prompt:
            return read_messages(chat.messages, files, has_tools=has_tools)

        prompt = await self._large.read(len(body), read, tenant=caller.tenant)
        if files.is_asked:
            files = NamedFiles(
                await find_files(
                    files.newest,
                    reversed(files.earlier),
                    caller,
                    self._files,
                    bounds=bounds,
                ),
                files_max=bounds.files_max,
                are_urls_fetched=bounds.are_urls_fetched,
            )
            prompt = await self._large.read(len(body), read, tenant=caller.tenant)
        return prompt


def _may_be_thin(headers: Mapping[str, str], name: str | None, prompt: Prompt) -> bool:
    """A single message under a name, from a client that is not known to send its history."""
    is_lone = len(prompt.sent) == 1 and not prompt.has_answers
    return name is not None and is_lone and not resends_history(headers)


def _on_disconnect(headers: Mapping[str, str]) -> OnDisconnect:
    value = headers.get("x-on-disconnect", "").strip().lower()
    try:
        return OnDisconnect(value) if value else OnDisconnect.CANCEL
    except ValueError:
        raise RequestRefused(
            "The header X-On-Disconnect must be `cancel` or `continue`.", param="X-On-Disconnect"
        ) from None
