#!/bin/sh
# A PDF with the message itself: sh attach_pdf.sh contract.pdf "When does it end?"
curl -sS "$OPENAI_BASE_URL/chat/completions" \
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
  -d @- <<END | jq -r '.choices[0].message.content'
{
  "model": "claude-sonnet-4.5",
  "messages": [{
    "role": "user",
    "content": [
      {"type": "file", "file": {
        "filename": "$(basename "$1")",
        "file_data": "data:application/pdf;base64,$(base64 <"$1" | tr -d '\n')"
      }},
      {"type": "text", "text": "$2"}
    ]
  }]
}
END
