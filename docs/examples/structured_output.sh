#!/bin/sh
# An answer that is an object: sh structured_output.sh "Plan a trip to Rome."
curl -sS "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -d '{
    "model": "claude-sonnet-4.5",
    "messages": [{"role": "user", "content": "'"$1"'"}],
    "response_format": {
      "type": "json_schema",
      "json_schema": {
        "name": "trip",
        "strict": true,
        "schema": {
          "type": "object",
          "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
          "required": ["city", "days"],
          "additionalProperties": false
        }
      }
    }
  }'
