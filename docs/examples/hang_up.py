"""Go on after a hang-up: python hang_up.py "What can you do?" """

import sys
import time

from openai import ConflictError, OpenAI

client = OpenAI(max_retries=0)
stream = client.chat.completions.create(
    model="claude-sonnet-4.5",
    messages=[{"role": "user", "content": sys.argv[1]}],
    stream=True,
    extra_headers={"X-On-Disconnect": "continue"},
)
id = next(stream).id
stream.close()
print("hung up")

# The agent works on. Anybody who has the id and the key comes back for its answer, within an hour.
while True:
    try:
        answer = client.chat.completions.retrieve(id)
        break
    except ConflictError:
        time.sleep(0.5)
print(answer.choices[0].message.content)
