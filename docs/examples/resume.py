"""An answer that survives cuts of the connection: python resume.py "What can you do?" """

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator

import httpx

API = os.environ["OPENAI_BASE_URL"]
KEY = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
# The turn goes on without us, and its events have numbers. The same request again joins it.
ASK = {
    "X-On-Disconnect": "continue",
    "X-Event-IDs": "true",
    "Idempotency-Key": str(uuid.uuid4()),
}


def events(response: httpx.Response) -> Iterator[tuple[str, str]]:
    """The number and the data of each event that arrived whole."""
    number = data = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            number = value
        elif name == "data":
            data = value
        elif not line and data:
            yield number, data
            data = ""


def answer(prompt: str) -> Iterator[str]:
    """The words of an answer, each once."""
    body = {
        "model": "claude-sonnet-4.5",
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
    }
    completion = seen = ""
    cuts = 0  # in a row
    while cuts < 10:
        if completion:
            url = f"{API}/chat/completions/{completion}?stream=true"
            asked = httpx.stream("GET", url, headers=KEY | {"Last-Event-ID": seen}, timeout=60)
        else:
            asked = httpx.stream(
                "POST", f"{API}/chat/completions", headers=KEY | ASK, json=body, timeout=60
            )
        try:
            with asked as response:
                if response.is_error:
                    sys.exit(response.read().decode())
                for number, data in events(response):
                    if data == "[DONE]":
                        return
                    chunk = json.loads(data)
                    if "error" in chunk:
                        sys.exit(chunk["error"]["message"])
                    completion, seen, cuts = chunk["id"], number, 0
                    for choice in chunk["choices"]:
                        yield choice["delta"].get("content") or ""
        except httpx.TransportError as cut:
            print(f"(cut: {type(cut).__name__})", file=sys.stderr)
            cuts += 1
            time.sleep(cuts / 5)
    sys.exit("nobody answers")


for words in answer(sys.argv[1]):
    print(words, end="", flush=True)
print()
