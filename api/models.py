"""OpenAI's shapes: what a request may look like, what answers look like.

Requests are read tolerantly (unknown fields pass) but types are strict, and every refusal names its
field. Content parts are checked where they are understood, in `prompt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from infra.wire.errors import RequestRefused
from infra.wire.states import ConversationState, TurnState

IGNORED_PARAMETERS: frozenset[str] = frozenset(
    {
        "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "metadata", "modalities", "moderation",
        "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key",
        "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier",
        "seed", "service_tier", "stop", "store", "temperature", "tool_choice", "tools",
        "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
    }
)  # fmt: skip
"""Accepted and without effect: an agent decides these for itself, or runs its own tools.

In a side request the bounds on tokens and `response_format` count (`api.side_requests`).

Fields that are unknown to us are ignored as well; `n` above 1 is refused.
"""

MESSAGES_MAX = 4096
"""A history of more would keep a replica's other streams waiting while it is read."""

_Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
_Whole = Annotated[int, Field(strict=False)]

_CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        {"type": "null"},
    ],
    "description": "Text, or parts of type `text`, `image_url` (data: URLs) and `file` (data: "
    "URLs of PDF documents, text or images).",
}


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class ChatMessage(_Shape):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Any, WithJsonSchema(_CONTENT_SCHEMA)] = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Shape):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class ChatRequest(_Shape):
    """The body of `POST /v1/chat/completions`."""

    model: str = Field(min_length=1, max_length=256, description="A model or alias of /v1/models.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=MESSAGES_MAX)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: _Whole | None = Field(None, description="Only 1.")
    # Accepted without effect; typed so that nonsense is refused.
    frequency_penalty: _Number | None = None
    logprobs: bool | None = None
    max_completion_tokens: _Whole | None = None
    max_tokens: _Whole | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    presence_penalty: _Number | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    seed: _Whole | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    temperature: _Number | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    top_p: _Number | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def read_chat_request(body: bytes) -> ChatRequest:
    """Raises `RequestRefused` naming the first field that does not fit."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    if request.n not in (None, 1):
        raise RequestRefused("`n` must be 1: an agent gives one answer.", param="n")
    return request


def _refusal(error: ValidationError) -> RequestRefused:
    fault = error.errors(include_url=False, include_context=False)[0]
    if fault["type"] == "json_invalid":
        where = fault["msg"].removeprefix("Invalid JSON: ")
        return RequestRefused(f"The body is not valid JSON: {where}.")
    param = param_name(fault["loc"])
    if param is None:
        return RequestRefused("The body must be a JSON object.")
    if fault["type"] == "missing":
        return RequestRefused(f"`{param}` is required.", param=param)
    what = fault["msg"]
    return RequestRefused(f"`{param}`: {what[0].lower()}{what[1:]}.", param=param)


def param_name(loc: Sequence[str | int]) -> str | None:
    """A pydantic location in OpenAI's notation: `messages[0].role`. None for the body itself."""
    name = ""
    for part in loc:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part.replace("_", "").isalpha() and part not in _TYPE_NAMES:
            name += f".{part}" if name else part
    return name or None


_TYPE_NAMES = frozenset({"str", "int", "float", "bool"})
"""Pydantic adds the member of a union to the location; callers never wrote that."""


class PromptTokensDetails(BaseModel):
    """How much of the prompt came from the cache."""

    cached_tokens: int = 0


class CompletionUsage(BaseModel):
    """Tokens of a whole turn, over all its model calls."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class AnswerMessage(BaseModel):
    """What the agent answered; `reasoning_content` is thinking and tool activity, when shown."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    reasoning_content: str | None = None


class Choice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length", "content_filter"]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[Choice]
    usage: CompletionUsage


class Cancellation(BaseModel):
    """The state of a completion that was to be stopped; one that is `running` ends in seconds."""

    id: str
    object: Literal["chat.completion.cancellation"] = "chat.completion.cancellation"
    state: TurnState


class Session(BaseModel):
    """A conversation, in the words of its key in Redis. Times in Unix seconds."""

    object: Literal["session"] = "session"
    conversation: str = Field(description="Its key.")
    label: str = Field(description="The client's own name for it, cleaned and cut.")
    state: ConversationState
    turn: str | None = Field(description="The completion that has not ended, if any.")
    turns: int = Field(description="How many have.")
    created: int
    last_active: int
    idle_at: int | None = Field(description="When its container goes, if nothing happens.")


class SessionShown(Session):
    """A conversation with its turns."""

    turn_ids: list[str] = Field(description="Its newest completions, the last one last.")


class SessionList(BaseModel):
    """A page of conversations."""

    object: Literal["list"] = "list"
    data: list[Session]
    has_more: bool
    next: str | None = Field(description="Leads to the next page: `after`.")


class SessionDeleted(BaseModel):
    """A conversation that is no more."""

    object: Literal["session.deleted"] = "session.deleted"
    conversation: str
    deleted: bool = True


class Model(BaseModel):
    """A model that may be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "anthropic"


class ModelList(BaseModel):
    """All models and aliases."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The form of every error."""

    error: ErrorObject


class Health(BaseModel):
    """How this deployment is."""

    status: Literal["healthy", "degraded", "unhealthy", "draining"]
    version: str
    agent_image: str
    workers: int
    redis: Literal["ok", "unavailable"]
