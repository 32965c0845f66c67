"""LiteLLM, as a library."""

from __future__ import annotations

import json
import os
from typing import Any

import litellm
from lines import serve
from pydantic import BaseModel


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def complete(messages: list[Any], **more: Any) -> Any:
    return litellm.completion(
        model=f"openai/{os.environ['MODEL']}",
        api_base=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        messages=messages,
        num_retries=0,
        timeout=90,
        **more,
    )


def parse(prompt: str, method: str) -> Any:
    form = Trip if method == "json_schema" else {"type": method}
    answer = complete([{"role": "user", "content": prompt}], response_format=form)
    return Trip.model_validate_json(answer.choices[0].message.content).model_dump()


def loop(prompt: str, choice: str | None = None) -> Any:
    """Ask, run what is called, and tell the results, until no function is called."""
    messages: list[Any] = [{"role": "user", "content": prompt}]
    called: list[Any] = []
    message = complete(messages, tools=[WEATHER], tool_choice=choice).choices[0].message
    while message.tool_calls:
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            given = json.loads(call.function.arguments)
            called.append([call.function.name, given])
            told = f"sunny in {given['city']}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
        message = complete(messages, tools=[WEATHER]).choices[0].message
    return {"called": called, "text": message.content}


def ask(prompt: Any, **more: Any) -> Any:
    answer = complete([{"role": "user", "content": prompt}], **more)
    choice = answer.choices[0]
    return {"text": choice.message.content, "finish": choice.finish_reason}


def stream(prompt: Any, **more: Any) -> Any:
    chunks = list(complete([{"role": "user", "content": prompt}], stream=True, **more))
    answer: Any = litellm.stream_chunk_builder(chunks)
    choice = answer.choices[0]
    return {"text": choice.message.content, "finish": choice.finish_reason}


serve(parse, loop, ask, stream)
