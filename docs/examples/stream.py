"""An answer, word by word: python stream.py "What can you do?" """

import sys

from openai import OpenAI

stream = OpenAI().chat.completions.create(
    model="claude-sonnet-4.5",
    messages=[{"role": "user", "content": sys.argv[1]}],
    stream=True,
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
