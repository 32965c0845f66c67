"""A file for the agent, of any type: python files_in.py table.csv "What is in this table?" """

import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI()
file = client.files.create(file=Path(sys.argv[1]), purpose="user_data")
answer = client.chat.completions.create(
    model="claude-sonnet-4.5",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "file", "file": {"file_id": file.id}},
                {"type": "text", "text": sys.argv[2]},
            ],
        }
    ],
)
print(answer.choices[0].message.content)
