"""`agcluster --version`."""

from __future__ import annotations

from typer.testing import CliRunner

from infra.cli.main import app
from infra.wire.base import VERSION


def test_the_option_needs_no_command() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert told.exit_code == 0, told.output
    assert told.output == f"agcluster {VERSION}\n"
