"""What `make sbom` makes of the pinned requirements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from infra.reference.licenses import IMAGES, SHIPPED, pinned


@pytest.mark.parametrize("image", SHIPPED)
def test_the_bill_of_materials_is_valid_and_complete(image: str, tmp_path: Path) -> None:
    made = tmp_path / "sbom.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "requirements", "--validate"),
            *("--of", "JSON", "-o", str(made), str(IMAGES / f"{image}.requirements.txt")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads(made.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    parts = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    assert parts == pinned(image)
