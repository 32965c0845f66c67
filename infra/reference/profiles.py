"""Generates `docs/reference/agent.schema.json`, the JSON Schema of agents' profiles.

`python -m infra.reference.profiles [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import sys
from pathlib import Path

from infra.profiles.schema import profile_schema_text
from infra.reference.generated import run

DOCUMENT = Path("docs/reference/agent.schema.json")


def main(arguments: list[str] | None = None) -> int:
    """Print, write or check it."""
    return run(
        DOCUMENT,
        lambda _: profile_schema_text(),
        printed=profile_schema_text,
        program="infra.reference.profiles",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
