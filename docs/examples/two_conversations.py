"""Two conversations of one person, each with a memory and files of its own."""

from openai import OpenAI

client = OpenAI()


def say(conversation: str, words: str) -> str:
    """Say something in a conversation. It is known by its name, so the past need not be sent."""
    answer = client.chat.completions.create(
        model="claude-sonnet-4.5",
        messages=[{"role": "user", "content": words}],
        extra_headers={"X-Conversation-ID": conversation},
    )
    return answer.choices[0].message.content or ""


say("garden", "Remember that the roses need water")
say("office", "Remember that the meeting is on Friday")
for name in ("garden", "office"):
    print(f"{name}: {say(name, 'What do you remember?')}")
