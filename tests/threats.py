"""What attackers may try, and the tests that show it failing: `tests/threats.toml` as documents.

SECURITY.md says what stands in the way; docs/reference/threats.md names the tests, each with
its file.
`python -m tests.threats [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from infra.reference.generated import command, replace_part
from tests.failures import tests_by_name

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "threats.toml"
OVERVIEW, PAGE = Path("SECURITY.md"), Path("docs/reference/threats.md")
WIDTH = 140

HEAD = """\
# Threats, and the tests that show them

[SECURITY.md](../../SECURITY.md) says who attacks, what is worth it, and what stands in the way.
This page says which tests show it. Generated from `tests/threats.toml`: `make docs`.
"""


class Threat(BaseModel):
    """One thing that an attacker may try. Its control names the files that it is in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    control: str
    tests: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the control names, from the repository's root."""
        return tuple(re.findall(r"`([\w/.-]+\.\w+)`", self.control))


class Attacker(BaseModel):
    """Who attacks, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    threat: tuple[Threat, ...]


def attackers() -> tuple[Attacker, ...]:
    """The table. Raises `ValidationError` when it has another form."""
    found = tomllib.loads(TABLE.read_text())
    return tuple(Attacker.model_validate(one) for one in found["attacker"])


def _item(text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def overview() -> str:
    """A list for each attacker: what they may try, and what stands in the way."""
    lines = []
    for attacker in attackers():
        lines.append(f"### {attacker.name}\n")
        lines += [_item(f"**{threat.what}**: {threat.control}") for threat in attacker.threat]
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """Every threat with its tests. Raises `KeyError` for a test that does not exist."""
    files = tests_by_name()
    lines = [HEAD]
    for attacker in attackers():
        lines.append(f"## {attacker.name}\n")
        for threat in attacker.threat:
            lines.append(f"### {threat.what[0].upper()}{threat.what[1:]}\n")
            lines += [f"- `{test}` ([{files[test]}](../../{files[test]}))" for test in threat.tests]
            lines.append("")
    return "\n".join(lines)


def renewed() -> dict[Path, str]:
    """Both documents as the table has them now."""
    begin, end = "<!-- generated:threats -->\n", "<!-- /generated -->\n"
    whole = replace_part((ROOT / OVERVIEW).read_text(), overview(), begin=begin, end=end)
    return {OVERVIEW: whole, PAGE: page()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both, or write or check the documents."""
    return command(
        renewed,
        printed=lambda: f"{overview()}\n{page()}",
        program="tests.threats",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
