#!/bin/sh
# An answer that survives cuts of the connection: sh resume.sh "What can you do?"
answer=$(mktemp) && trap 'rm -f "$answer" "$answer.whole"' EXIT
once=$(date +%s)-$$
id='' seen='' cuts=0

until grep -q '^data: \[DONE\]' "$answer"; do
  if [ -z "$id" ]; then
    # The turn goes on without us, and its events have numbers. The same request again joins it.
    curl -sSN --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
      -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
      -H "X-On-Disconnect: continue" -H "X-Event-IDs: true" -H "Idempotency-Key: $once" \
      -d '{
        "model": "claude-sonnet-4.5",
        "stream": true,
        "messages": [{"role": "user", "content": "'"$1"'"}]
      }' >>"$answer"
  else
    curl -sSN --fail-with-body "$OPENAI_BASE_URL/chat/completions/$id?stream=true" \
      -H "Authorization: Bearer $OPENAI_API_KEY" -H "Last-Event-ID: $seen" >>"$answer"
  fi
  # 22: the service says no. In a stream, an error is its last event. Ten cuts without news: give up.
  if [ $? = 22 ] || [ $cuts = 10 ] || grep -q '^data: {"error"' "$answer"; then
    tail -n 3 "$answer" >&2
    exit 1
  fi
  # Only events that arrived whole count: those up to the last empty line.
  whole=$(grep -n '^$' "$answer" | tail -n 1 | cut -d: -f1)
  head -n "${whole:-0}" "$answer" >"$answer.whole" && mv "$answer.whole" "$answer"
  before=$seen
  id=$(sed -n 's/^data: {.*"id":"\(chatcmpl-[^"]*\)".*/\1/p' "$answer" | head -n 1)
  seen=$(sed -n 's/^id: //p' "$answer" | tail -n 1)
  if [ "$seen" = "$before" ]; then cuts=$((cuts + 1)) && sleep "$cuts"; else cuts=0; fi
done
sed -n 's/^data: {/{/p' "$answer" | jq -j '.choices[0].delta.content // empty'
echo
