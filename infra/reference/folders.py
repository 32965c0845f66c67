"""The picture of the folders in ARCHITECTURE.md: each package, with the first sentence of its
docstring.

The files are read as text, never imported, because they belong to every program.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = ("api", "worker", "agent", "infra")


def folders(root: Path) -> str:
    """The packages under `root`, as a tree. Raises `ValueError` for one without a docstring."""
    found = [(path, _sentence(path)) for top in TOP for path in _packages(root / top)]
    names = [_indented(path.relative_to(root)) for path, _ in found]
    width = max(map(len, names)) + 2
    lines = [f"{name:{width}}{text}" for name, (_, text) in zip(names, found, strict=True)]
    return "\n".join(["```", *lines, "```"]) + "\n"


def _packages(folder: Path) -> Iterator[Path]:
    if not (folder / "__init__.py").exists():
        return
    yield folder
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield from _packages(inner)


def _indented(path: Path) -> str:
    return "  " * (len(path.parts) - 1) + path.name + "/"


def _sentence(package: Path) -> str:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    if not text:
        raise ValueError(f"{package} has no docstring")
    return re.split(r"(?<=\.)\s", re.sub(r"\s+", " ", text), maxsplit=1)[0]
