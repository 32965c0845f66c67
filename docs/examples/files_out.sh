#!/bin/sh
# What an agent makes: sh files_out.sh my-chat "Draw a plot and save it."
curl -sS "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -H "X-Conversation-ID: $1" \
  -d '{
    "model": "claude-sonnet-4.5",
    "messages": [{"role": "user", "content": "'"$2"'"}]
  }'
curl -sS "$OPENAI_BASE_URL/sessions/$1/files" -H "Authorization: Bearer $OPENAI_API_KEY"
