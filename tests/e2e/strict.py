"""Answers and chunks as the types of the installed openai package have them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)

DOCUMENTED = {"reasoning_content", "agcluster"}
"""What docs/reference/clients.md says is in a message or a delta beyond OpenAI's."""


def completion(body: str | bytes) -> ChatCompletion:
    """Raises `ValueError` for a body that is not OpenAI's."""
    return _checked(ChatCompletion.model_validate_json(body, strict=True))


def chunks(stream: str) -> list[ChatCompletionChunk]:
    """All chunks of a stream that ended well.

    Raises `ValueError` for what is not OpenAI's: a block, a chunk, or an end without its mark.
    """
    told = [block for block in stream.split("\n\n") if block and not block.startswith(":")]
    if not all(block.startswith("data: ") and "\n" not in block for block in told):
        raise ValueError(f"not a block of OpenAI's: {told!r}")
    *inside, end = [block.removeprefix("data: ") for block in told]
    if end != "[DONE]":
        raise ValueError(f"ends with {end!r}")
    made = [_checked(ChatCompletionChunk.model_validate_json(one, strict=True)) for one in inside]
    if len({(one.id, one.created, one.model) for one in made}) != 1:
        raise ValueError("the chunks are not of one answer")
    return made


def _checked(model: Model) -> Model:
    if unknown := set(_extras(model)) - DOCUMENTED:
        raise ValueError(f"fields that OpenAI does not have: {sorted(unknown)}")
    return model


def _extras(told: Any) -> Iterator[str]:
    if isinstance(told, BaseModel):
        yield from told.model_extra or ()
        for _, inside in told:
            yield from _extras(inside)
    elif isinstance(told, list):
        for inside in told:
            yield from _extras(inside)
