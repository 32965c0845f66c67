"""What reaches a terminal is escaped: there are few places that print, and all of them do it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from infra.runtime.console import complain, tell

ROOT = Path(__file__).parents[2]
MAY_PRINT = frozenset({"infra/runtime/console.py", "infra/cli/terminal.py"})
HOSTILE = "one\x1b]0;owned\x07\rtwo\u202e\nthree"


def prints(path: Path) -> list[int]:
    """Lines on which it writes to a terminal by itself."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            ends = called.endswith(("stdout.write", "stderr.write", "typer.secho", "typer.echo"))
            if (called == "print" or ends) and node.args:
                found.append(node.lineno)
    return found


def test_nothing_prints_but_what_escapes() -> None:
    programs = (
        path
        for room in ("agent", "api", "infra", "worker")
        for path in (ROOT / room).rglob("*.py")
        # Developers' tools, which print what we wrote.
        if path.relative_to(ROOT).parts[:2]
        not in {("infra", "reference"), ("infra", "scripted_model")}
        and path.name != "diagrams.py"
    )
    found = {str(path.relative_to(ROOT)): lines for path in programs if (lines := prints(path))}
    assert set(found) == MAY_PRINT, found


def test_a_programs_last_words_do_nothing_to_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for say in (tell, complain):
        say(HOSTILE)
    said = capsys.readouterr()
    for text in said:
        assert text == "one\\x1b]0;owned\\x07\\rtwo\\u202e\nthree\n"


@pytest.mark.parametrize("program", ["worker", "gateway", "engine-proxy", "api"])
def test_a_refused_setting_is_shown_escaped(program: str) -> None:
    modules = {"gateway": "worker.gateway.main", "engine-proxy": "worker.engine_proxy.main"}
    more = ("--listen", "/tmp/x") if program == "engine-proxy" else ()
    done = subprocess.run(
        [sys.executable, "-m", modules.get(program, f"{program}.main"), *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={"AGCLUSTER_X\x1b[31m\u202e": "1", "PATH": "/bin"},
    )
    assert done.returncode != 0
    assert r"AGCLUSTER_X\x1b[31M" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
