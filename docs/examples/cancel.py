"""Stop an answer after some characters: python cancel.py 20 "What can you do?" """

import sys

from openai import APIError, OpenAI

client = OpenAI()
stream = client.chat.completions.create(
    model="claude-sonnet-4.5",
    messages=[{"role": "user", "content": sys.argv[2]}],
    stream=True,
)
said = ""
is_cancelled = False
try:
    for chunk in stream:
        for choice in chunk.choices:
            said += choice.delta.content or ""
        if len(said) >= int(sys.argv[1]) and not is_cancelled:
            # With the id and the key, any other program can do it as well.
            client.post(f"/chat/completions/{chunk.id}/cancel", cast_to=object)
            is_cancelled = True
except APIError as ended:
    print(f"{said}\n[{ended.code}]")
else:
    print(said)
