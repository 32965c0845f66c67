#!/bin/sh
# Go on after a hang-up: sh hang_up.sh "What can you do?"
id=$(curl -sSN "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -H "X-On-Disconnect: continue" \
  -d '{
    "model": "claude-sonnet-4.5",
    "stream": true,
    "messages": [{"role": "user", "content": "'"$1"'"}]
  }' 2>/dev/null | grep -o -m 1 'chatcmpl-[0-9a-f]*')
echo "hung up"

# The agent works on. Anybody who has the id and the key comes back for its answer, within an hour.
curl -sSN "$OPENAI_BASE_URL/chat/completions/$id?stream=true" \
  -H "Authorization: Bearer $OPENAI_API_KEY" |
  sed -un 's/^data: {/{/p' |
  jq -j --unbuffered '.choices[0].delta.content // .error.message // empty'
echo
