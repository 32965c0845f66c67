#!/bin/sh
# A file for the agent, of any type: sh files_in.sh table.csv "What is in this table?"
id=$(curl -sS "$OPENAI_BASE_URL/files" -H "Authorization: Bearer $OPENAI_API_KEY" \
  -F purpose=user_data -F "file=@$1" | sed -n 's/.*"id": *"\(file-[^"]*\)".*/\1/p')
curl -sS "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -d '{
    "model": "claude-sonnet-4.5",
    "messages": [{
      "role": "user",
      "content": [
        {"type": "file", "file": {"file_id": "'"$id"'"}},
        {"type": "text", "text": "'"$2"'"}
      ]
    }]
  }'
