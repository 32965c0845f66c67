#!/bin/sh
# An answer, word by word: sh stream.sh "What can you do?"
curl -sSN "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -d '{
    "model": "claude-sonnet-4.5",
    "stream": true,
    "messages": [{"role": "user", "content": "'"$1"'"}]
  }' |
  sed -un 's/^data: {/{/p' |
  jq -j --unbuffered '.choices[0].delta.content // empty'
echo
