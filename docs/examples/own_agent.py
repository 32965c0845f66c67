"""An agent of your own: python own_agent.py proofreader "There is two mistake in this." """

import sys

from openai import OpenAI

agent, text = sys.argv[1:]
client = OpenAI()
for model in client.models.list():
    if model.id == agent:
        print(f"{model.id}: {model.model_extra['description']}")
answer = client.chat.completions.create(model=agent, messages=[{"role": "user", "content": text}])
print(answer.choices[0].message.content)
