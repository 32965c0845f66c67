"""LangChain for Python."""

from __future__ import annotations

import os
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from lines import serve
from pydantic import BaseModel


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


@tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def model(**more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        model=os.environ["MODEL"],
        max_retries=0,
        timeout=90,
        **more,
    )


def parse(prompt: str, method: str) -> Any:
    return model().with_structured_output(Trip, method=method).invoke(prompt).model_dump()


def loop(prompt: str, choice: str | None = None) -> Any:
    """Ask, run what is called, and tell the results, until no function is called."""
    messages: list[Any] = [HumanMessage(prompt)]
    called: list[Any] = []
    bound = model().bind_tools([get_weather], tool_choice=choice)
    answer = bound.invoke(messages)
    while answer.tool_calls:
        messages.append(answer)
        for call in answer.tool_calls:
            called.append([call["name"], call["args"]])
            messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
        answer = model().bind_tools([get_weather]).invoke(messages)
    return {"called": called, "text": answer.content}


def ask(prompt: Any, **more: Any) -> Any:
    answer = model(**more).invoke([HumanMessage(prompt)])
    return {
        "text": answer.content,
        "finish": answer.response_metadata["finish_reason"],
        "usage": answer.usage_metadata,
    }


def stream(prompt: Any, **more: Any) -> Any:
    whole: Any = None
    for chunk in model(stream_usage=True, **more).stream([HumanMessage(prompt)]):
        whole = chunk if whole is None else whole + chunk
    return {
        "text": whole.content,
        "finish": whole.response_metadata.get("finish_reason"),
        "usage": whole.usage_metadata,
    }


serve(parse, loop, ask, stream)
