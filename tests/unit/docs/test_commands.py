"""Commands in the documents exist, with the options that they are given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md")])
CURRENT = [page for page in PAGES if "adr" not in page.parts and page.name != "CHANGELOG.md"]
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_OURS = re.compile(r"(?:^|[ /'\"])agcluster (?P<rest>[a-z-].*)")
_END = {"|", "&&", "||", ";", ">", "#", "\\"}


def commands() -> list[tuple[str, str]]:
    """Each line of a shell block that runs `agcluster`, with its page."""
    return [
        (page.relative_to(ROOT).as_posix(), found["rest"])
        for page in CURRENT
        for block in _BLOCK.findall(page.read_text())
        for line in block.splitlines()
        if not line.startswith("#") and (found := _OURS.search(line))
    ]


def test_there_are_some() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_has_this_name_and_these_options(page: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in shlex.split(line, comments=True):
        if word in _END:
            break
        if hasattr(command, "commands") and not word.startswith("-"):
            assert word in command.commands, f"{page}: agcluster {line}"
            command = command.commands[word]
        elif word.startswith("--"):
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            assert word.partition("=")[0] in {*known, "--help"}, f"{page}: agcluster {line}"


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in CURRENT
        for block in _BLOCK.findall(page.read_text())
        for target in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    }
    assert named
    assert named <= targets
