"""What `import agcluster` finds once the project is installed: the command, and where our code is.

Installed, our folders `api`, `worker`, `agent` and `infra` lie inside this package, so that they
take no such names from anybody else's environment. Our programs import them by those names all the
same: each program puts the folder they lie in before all others (`infra.launch`).
"""

from __future__ import annotations

import sys
from pathlib import Path


def code_folder() -> Path:
    """The folder that our packages lie in: this one, or the repository where that is installed."""
    here = Path(__file__).resolve().parent
    return here if (here / "infra").is_dir() else here.parents[1]


def main() -> None:
    """The `agcluster` command."""
    sys.path.insert(0, str(code_folder()))
    from infra.cli.main import main as command

    command()
