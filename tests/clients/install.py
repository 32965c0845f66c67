"""Put the packages of `package.json` into a folder: `python -m tests.clients.install FOLDER`.

Without a lock file: each package is pinned here, what they depend on is npm's choice, as for their
users.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.e2e.clients.node import HERE as PINNED
from tests.e2e.clients.node import npm

PACKAGES = Path(__file__).resolve().parent / "package.json"


def main(folder: Path) -> None:
    """Raises `RuntimeError` with npm's own words."""
    shutil.copy(PACKAGES, folder)
    shutil.copy(PINNED / ".npmrc", folder)
    npm(folder, "install", "--no-package-lock")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
