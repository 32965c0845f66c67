"""What fails and which tests show it: one table, `tests/failures.toml`, as two documents.

ARCHITECTURE.md says what the user sees; docs/reference/failures.md names the tests, each with
its file.
`python -m tests.failures [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.reference.generated import command, replace_part

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "failures.toml"
OVERVIEW, PAGE = Path("ARCHITECTURE.md"), Path("docs/reference/failures.md")

HEAD = """\
# Failures, and the tests that show them

ARCHITECTURE.md says who notices a failure and what the user sees. This page says which tests show
it. Generated from `tests/failures.toml`: `make docs`.

Tests of workers and hosts run real worker code with stand-in agents in one process. Those in
`tests/e2e` run a real CLI in real containers. A failing Redis is a real one. A chaos scenario
(`tests/chaos/scenarios.py`) runs real processes, several numbered answers under way, and the fault;
it looks at every answer for what was lost, doubled, late or silent. `make soak` mixes them at
random.
"""


class Failure(BaseModel):
    """One kind of failure. At least one test or chaos scenario shows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    noticed_by: str
    user_sees: str
    tests: tuple[str, ...]
    chaos: tuple[str, ...] = ()


class Group(BaseModel):
    """Failures of one part of the system."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    failure: tuple[Failure, ...]


def groups() -> tuple[Group, ...]:
    """The table. Raises `ValidationError` when it has another form."""
    found = tomllib.loads(TABLE.read_text())
    return tuple(Group.model_validate(one) for one in found["group"])


def overview() -> str:
    """A table for each group: what fails, who notices, what the user sees."""
    parts = []
    for group in groups():
        parts.append(f"**{group.name}**\n")
        parts.append("| what fails | who notices | what the user sees |\n| --- | --- | --- |")
        parts += [f"| {f.what} | {f.noticed_by} | {f.user_sees} |" for f in group.failure]
        parts.append("")
    return "\n".join(parts)


def page() -> str:
    """Every failure with its tests. Raises `KeyError` for a test that does not exist."""
    files = tests_by_name()
    lines = [HEAD]
    for group in groups():
        lines.append(f"## {group.name}\n")
        for failure in group.failure:
            lines.append(f"### {failure.what[0].upper()}{failure.what[1:]}\n")
            lines += [
                f"- `{test}` ([{files[test]}](../../{files[test]}))" for test in failure.tests
            ]
            lines += [f"- chaos scenario `{name}`" for name in failure.chaos]
            lines.append("")
    return "\n".join(lines)


def tests_by_name() -> Mapping[str, str]:
    """The file of each test, from the repository's root."""
    found = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"def (test_\w+)\(", file.read_text()):
            found[name] = str(file.relative_to(ROOT))
    return found


def renewed() -> dict[Path, str]:
    """Both documents as the table has them now."""
    begin, end = "<!-- generated:failures -->\n", "<!-- /generated -->\n"
    whole = replace_part(OVERVIEW.read_text(), overview(), begin=begin, end=end)
    return {OVERVIEW: whole, PAGE: page()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both, or write or check the documents."""
    return command(
        renewed,
        printed=lambda: f"{overview()}\n{page()}",
        program="tests.failures",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
