"""A hook of MkDocs: makes the documents of the repository pages of the site, as they are.

The documents are written to be read in the repository, too. So the site takes the ones at the root
as they lie there, lets links lead to where things are in the site or in the repository, and puts
blank lines where Markdown of the repository needs none. Used by `mkdocs.yml`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
FROM_ROOT = {
    "ARCHITECTURE.md": "explanation/architecture.md",
    "SECURITY.md": "explanation/security.md",
    "CONTRIBUTING.md": "explanation/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
}
"""Documents at the root, and the pages that they are in the site."""
PLACES = {page: name for name, page in FROM_ROOT.items()}

_LINK = re.compile(r"(\]\()(?!https?://|#|mailto:)([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^\s*(```|~~~)")
_BLOCK = re.compile(r"^\s*(?:[-*+] |\d+\. |\|)")
_ITEM = re.compile(r"^\s*(?:[-*+] |\d+\. )")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents at the root."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links that lead somewhere in the site, and blank lines before blocks."""
    where = page.file.src_uri
    written_at = PLACES.get(where, f"docs/{where}")
    repository = str(config.extra["repository"])
    return with_blank_lines(linked(markdown, at=written_at, page=where, repository=repository))


def linked(markdown: str, *, at: str, page: str, repository: str) -> str:
    """The text of the document `at` (from the root) with its links as the page needs them."""

    def lead(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(at), link[2]))
        if target in FROM_ROOT:
            found = FROM_ROOT[target]
        elif target.startswith("docs/") and (ROOT / target).is_file():
            found = target.removeprefix("docs/")
        else:
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"{link[1]}{repository}/{kind}/main/{target}{link[3]}"
        return f"{link[1]}{os.path.relpath(found, os.path.dirname(page) or '.')}{link[3]}"

    return _LINK.sub(lead, markdown)


def with_blank_lines(markdown: str) -> str:
    """A blank line before each list and table, outside of code."""
    lines: list[str] = []
    is_code = False
    for line in markdown.splitlines():
        before = lines[-1] if lines else ""
        if _FENCE.match(line):
            is_code = not is_code
        elif not is_code and _BLOCK.match(line) and before.strip() and not _goes_on(before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _goes_on(before: str) -> bool:
    """Whether the line before is of the same list or table, or a wrapped line of an item."""
    return bool(_BLOCK.match(before)) or before.startswith((" ", "\t"))
