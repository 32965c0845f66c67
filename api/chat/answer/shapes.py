"""OpenAI's formats of answers. (Those of requests are in `api.chat.request`.)"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from infra.wire.states import TurnState

FinishReason = Literal["stop", "tool_calls", "function_call", "length", "content_filter"]


class PromptTokensDetails(BaseModel):
    """How much of the prompt came from the cache."""

    cached_tokens: int = 0


class CompletionTokensDetails(BaseModel):
    """How much of the answer was thinking, if the upstream reports it."""

    reasoning_tokens: int = 0


class CompletionUsage(BaseModel):
    """Tokens of a whole turn, over all its model calls."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class CalledFunction(BaseModel):
    """A client's function, and the arguments of one call of it as JSON."""

    name: str
    arguments: str


class AnswerToolCall(BaseModel):
    """A call of one of the client's functions. The client runs it and sends the result."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


def _is_none(value: object) -> bool:
    return value is None


class AnswerMessage(BaseModel):
    """The agent's answer. `reasoning_content` is thinking and tool activity, if shown.

    `tool_calls`, or `function_call` in the older form, is there only if the answer ends with calls.
    """

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnswerToolCall] | None = Field(None, exclude_if=_is_none)
    function_call: CalledFunction | None = Field(None, exclude_if=_is_none)
    annotations: list[dict[str, Any]] | None = Field(
        None,
        exclude_if=_is_none,
        description="The files that its turn made, if they are shown as annotations.",
    )


class AnswerFile(BaseModel):
    """A file that a turn made or changed."""

    id: str
    path: str = Field(description="In the agent's workspace.")
    bytes: int
    type: str
    expires_at: int = Field(description="When it is deleted, and its link ends. Unix seconds.")
    url: str | None = Field(description="A link that needs no key; null without a public URL.")


class AnswerFiles(BaseModel):
    """What became of the files that a turn made or changed."""

    files: list[AnswerFile]
    not_kept: list[str] = Field(description="Paths of others, with the reason.")
    more: int = Field(description="How many others there are that are not named, at least.")


class Choice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[Choice]
    usage: CompletionUsage
    agcluster: AnswerFiles | None = Field(
        None,
        exclude_if=_is_none,
        description="The files that its turn made; absent if there are none.",
    )


class Cancellation(BaseModel):
    """The state of a completion after a cancel request; a `running` one ends within seconds."""

    id: str
    object: Literal["chat.completion.cancellation"] = "chat.completion.cancellation"
    state: TurnState
