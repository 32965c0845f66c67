"""pydantic-ai."""

from __future__ import annotations

import os
from typing import Any

from lines import serve
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


OUTPUTS = {"tool": ToolOutput, "native": NativeOutput, "prompted": PromptedOutput}
MODEL = OpenAIChatModel(
    os.environ["MODEL"],
    provider=OpenAIProvider(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"]),
)


def parse(prompt: str, method: str) -> Any:
    agent: Any = Agent(MODEL, output_type=OUTPUTS[method](Trip))
    return agent.run_sync(prompt).output.model_dump()


def loop(prompt: str, choice: str | None = None) -> Any:
    called: list[Any] = []
    agent: Any = Agent(MODEL)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        called.append(["get_weather", {"city": city}])
        return f"sunny in {city}"

    return {"called": called, "text": agent.run_sync(prompt).output}


def ask(prompt: str, **more: Any) -> Any:
    answer: Any = Agent(MODEL).run_sync(prompt, model_settings=more)
    last = answer.all_messages()[-1]
    return {"text": answer.output, "finish": last.finish_reason}


def show(prompt: str, data: str, media_type: str) -> Any:
    """Ask about a file; `data` is in hex."""
    file = BinaryContent(data=bytes.fromhex(data), media_type=media_type)
    return {"text": Agent(MODEL).run_sync([file, prompt]).output}


serve(parse, loop, ask, show)
