"""What an agent makes: python files_out.py my-chat "Draw a plot and save it." """

import sys

from openai import OpenAI

client = OpenAI(default_headers={"X-Conversation-ID": sys.argv[1]})
answer = client.chat.completions.create(
    model="claude-sonnet-4.5", messages=[{"role": "user", "content": sys.argv[2]}]
)
print(answer.choices[0].message.content)
for file in answer.model_extra.get("agcluster", {}).get("files", []):
    content = client.files.content(file["id"]).content
    print(f"{file['path']}: {len(content)} bytes, {file['url']}")
