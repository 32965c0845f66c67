#!/bin/sh
# A function of yours, called by the agent: sh functions.sh "How is the weather in Rome?"
# The answer has `tool_calls`; send it back in `messages`, and after it the result:
# {"role": "tool", "tool_call_id": "<its id>", "content": "sunny"}.
curl -sS "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -d '{
    "model": "claude-sonnet-4.5",
    "messages": [{"role": "user", "content": "'"$1"'"}],
    "tools": [{
      "type": "function",
      "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
          "type": "object",
          "properties": {"city": {"type": "string"}},
          "required": ["city"]
        }
      }
    }]
  }'
