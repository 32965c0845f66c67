#!/bin/sh
# Stop an answer a second after its first words: sh cancel.sh "What can you do?"
answer=$(mktemp) && trap 'rm -f "$answer"' EXIT
curl -sSN "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -d '{
    "model": "claude-sonnet-4.5",
    "stream": true,
    "messages": [{"role": "user", "content": "'"$1"'"}]
  }' >"$answer" &
until grep -q '"content":"[^"]' "$answer" || ! kill -0 $!; do sleep 0.1; done
sleep 1
id=$(grep -o 'chatcmpl-[0-9a-f]*' "$answer" | head -n 1)
# With the id and the key, any other program can do it as well.
curl -sS -X POST "$OPENAI_BASE_URL/chat/completions/$id/cancel" \
  -H "Authorization: Bearer $OPENAI_API_KEY" | jq -r .object
wait
sed -n 's/^data: {/{/p' "$answer" | jq -j '.choices[0].delta.content // .error.code // empty'
echo
