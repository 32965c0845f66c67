"""The site of the documents builds, with links that all lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.reference.site import FROM_ROOT, linked, with_blank_lines

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = "https://example.org/repo"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is built strictly: a link, an anchor or a page outside of the menu that is wrong is an
    error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    ours = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    wanted = {page.replace("README.md", "index.md") for page in ours | set(FROM_ROOT.values())}
    assert wanted - pages == set()


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        for loads in ('src="http', 'rel="stylesheet" href="http', 'rel="preconnect" href="http'):
            assert loads not in text, page


def test_it_can_be_searched(site: Path) -> None:
    found = (site / "search" / "search_index.json").read_text()
    assert "AGCLUSTER_METRICS_PORT" in found


def test_what_is_not_kept_for_later_is_in_git() -> None:
    told = (ROOT / ".gitignore").read_text().split()
    assert "build/" in told, "the site is built, not kept"


@pytest.mark.parametrize(
    ("link", "leads"),
    [
        ("[a](../reference/settings.md#x)", "[a](../reference/settings.md#x)"),
        ("[a](../../SECURITY.md)", "[a](../explanation/security.md)"),
        ("[a](../../README.md#five)", f"[a]({REPOSITORY}/blob/main/README.md#five)"),
        ("[a](../../tests/chaos)", f"[a]({REPOSITORY}/tree/main/tests/chaos)"),
        ("[a](../../compose.yaml)", f"[a]({REPOSITORY}/blob/main/compose.yaml)"),
        ("[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("[a](#here)", "[a](#here)"),
    ],
)
def test_a_link_leads_to_the_site_or_to_the_repository(link: str, leads: str) -> None:
    where = "how-to/mcp.md"
    assert linked(link, at=f"docs/{where}", page=where, repository=REPOSITORY) == leads


def test_a_document_at_the_root_links_from_there() -> None:
    page = FROM_ROOT["SECURITY.md"]
    said = linked(
        "[a](docs/reference/threats.md)", at="SECURITY.md", page=page, repository=REPOSITORY
    )
    assert said == "[a](../reference/threats.md)"


def test_lists_and_tables_get_a_blank_line_before_them_and_code_does_not() -> None:
    written = "Text:\n- one\n  goes on\n- two\n\nMore\n| a |\n| - |\n```sh\nx\n- y\n```\n"
    assert with_blank_lines(written) == (
        "Text:\n\n- one\n  goes on\n- two\n\nMore\n\n| a |\n| - |\n```sh\nx\n- y\n```\n"
    )


def test_the_menu_has_the_four_parts() -> None:
    text = (ROOT / "mkdocs.yml").read_text().replace("!!python/object/apply:pymdownx.slugs", "#")
    parts = [next(iter(part)) for part in yaml.safe_load(text)["nav"] if isinstance(part, dict)]
    assert parts == ["Start", "How-to", "Reference", "Explanation"]
