#!/bin/sh
# Two conversations of one person, each with a memory and files of its own.

# say CONVERSATION WORDS: it is known by its name, so the past need not be sent.
say() {
  curl -sS "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -H "X-Conversation-ID: $1" \
    -d '{
      "model": "claude-sonnet-4.5",
      "messages": [{"role": "user", "content": "'"$2"'"}]
    }' | jq -r '.choices[0].message.content'
}

say garden "Remember that the roses need water" >/dev/null
say office "Remember that the meeting is on Friday" >/dev/null
for name in garden office; do
  echo "$name: $(say "$name" "What do you remember?")"
done
