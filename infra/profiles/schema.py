"""The JSON Schema of a profile's file, for editors: the model, and the short forms beside it."""

from __future__ import annotations

import json
from typing import Any

from infra.profiles.read import MADE
from infra.wire.agents.profile import AgentProfile

TITLE = "An agent of AgCluster"


def profile_schema() -> dict[str, Any]:
    """The schema of one YAML file."""
    schema = AgentProfile.model_json_schema()
    definitions = schema.pop("$defs")
    for definition in definitions.values():
        definition["additionalProperties"] = False
    prompt = definitions["SystemPrompt"]
    prompt["properties"]["file"] = {
        "type": "string",
        "description": "A file of the agents' folder with the text, instead of `text`.",
    }
    prompt.pop("required")
    properties = schema.pop("properties")
    for made in MADE:
        properties.pop(made)
    properties["extends"] = {
        "type": "string",
        "description": "Another agent of the folder: what it says holds here, too.",
    }
    properties["system_prompt"] = {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/SystemPrompt"}],
        "description": "Text, or `text` or `file` and a `mode`.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
        "$defs": definitions,
    }


def profile_schema_text() -> str:
    """It as a file."""
    return json.dumps(profile_schema(), indent=2) + "\n"
