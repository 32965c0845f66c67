"""A function of yours, called by the agent: python functions.py "How is the weather in Rome?" """

import json
import sys

from openai import OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam


def get_weather(city: str) -> str:
    return f"sunny in {city}"


WEATHER: ChatCompletionFunctionToolParam = {
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

client = OpenAI()
messages = [{"role": "user", "content": sys.argv[1]}]
while True:
    answer = client.chat.completions.create(
        model="claude-sonnet-4.5", messages=messages, tools=[WEATHER]
    )
    message = answer.choices[0].message
    if not message.tool_calls:
        break
    messages.append(message)
    for call in message.tool_calls:
        result = get_weather(**json.loads(call.function.arguments))
        print(f"called {call.function.name}: {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
print(message.content)
