"""Asks as Dify does, by its own package: `python dify_reader.py URL KEY MODEL PROMPT`.

A program of its own, for that package replaces the blocking calls of the whole process. Prints each
piece of the answer as a line of JSON.
"""

from __future__ import annotations

import json
import sys


def main(url: str, key: str, model: str, prompt: str) -> None:
    from dify_plugin import OAICompatLargeLanguageModel
    from dify_plugin.entities.model.message import UserPromptMessage

    asked = OAICompatLargeLanguageModel(model_schemas=[])._generate(
        model=model,
        credentials={"endpoint_url": url, "api_key": key, "mode": "chat"},
        prompt_messages=[UserPromptMessage(content=prompt)],
        # Told the tokens, it counts none itself, with a table from the net.
        model_parameters={"stream_options": {"include_usage": True}},
        stream=True,
    )
    for part in asked:
        print(json.dumps([part.delta.message.content, part.delta.finish_reason]))


if __name__ == "__main__":
    main(*sys.argv[1:])
