"""The official openai client for Python."""

from __future__ import annotations

import json
import os
from typing import Any

import openai
from lines import serve
from pydantic import BaseModel

CHAT = openai.OpenAI(
    base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], max_retries=0, timeout=90
).chat.completions
MODEL = os.environ["MODEL"]


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


class GetWeather(BaseModel):
    """Tell the weather of a city."""

    city: str


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")


def user(prompt: Any) -> list[Any]:
    return [{"role": "user", "content": prompt}]


def parse(prompt: str, method: str) -> Any:
    if method == "stream":
        with CHAT.stream(model=MODEL, messages=user(prompt), response_format=Trip) as stream:
            answer = stream.get_final_completion()
    else:
        answer = CHAT.parse(model=MODEL, messages=user(prompt), response_format=Trip)
    parsed = answer.choices[0].message.parsed
    return parsed.model_dump() if parsed else None


def loop(prompt: str, choice: str | None = None) -> Any:
    """Ask, run what is called, and tell the results, until no function is called."""
    messages, called = user(prompt), []
    first: Any = {"tool_choice": choice} if choice else {}
    message = (
        CHAT.parse(model=MODEL, messages=messages, tools=[WEATHER], **first).choices[0].message
    )
    while message.tool_calls:
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        for call in message.tool_calls:
            given = call.function.parsed_arguments
            called.append([call.function.name, given.model_dump()])
            told = f"sunny in {given.city}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
        message = CHAT.parse(model=MODEL, messages=messages, tools=[WEATHER]).choices[0].message
    return {"called": called, "text": message.content}


def calls_streamed(prompt: str) -> Any:
    """The calls of a stream, as its pieces say."""
    with CHAT.stream(model=MODEL, messages=user(prompt), tools=[WEATHER]) as stream:
        choice = stream.get_final_completion().choices[0]
    calls = choice.message.tool_calls or []
    return {
        "called": [[one.function.name, json.loads(one.function.arguments)] for one in calls],
        "finish": choice.finish_reason,
    }


def ask(prompt: Any, **more: Any) -> Any:
    answer = CHAT.create(model=MODEL, messages=user(prompt), **more)
    choice = answer.choices[0]
    usage = answer.usage.model_dump() if answer.usage else None
    return {"text": choice.message.content, "finish": choice.finish_reason, "usage": usage}


def stream(prompt: Any, **more: Any) -> Any:
    """Without the client's own `stream` helper: that one takes a limit that was reached as an
    error.
    """
    text, finish = "", None
    for chunk in CHAT.create(model=MODEL, messages=user(prompt), stream=True, **more):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return {"text": text, "finish": finish}


serve(parse, loop, calls_streamed, ask, stream)
