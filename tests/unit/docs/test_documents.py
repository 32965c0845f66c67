"""What documents say about the code is compared with the code."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from api.errors import TABLE
from infra.runtime.settings import PREFIX, Settings
from infra.scripted_model.demo.showcase import AGENTS, TOPICS
from infra.wire.text.words import SENTENCES
from tests import threats
from tests.failures import groups, renewed

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CURRENT = [d for d in DOCUMENTS if "adr" not in d.parts and d.name != "CHANGELOG.md"]
"""Those that say how it is, not how it was or might have been."""
_FILE = re.compile(r"`([\w.*/-]+\.(?:py|lua|sh|acl|cfg|yaml|toml|txt))`")
_FOLDER = re.compile(r"`((?:api|worker|agent|infra|tests|docs)/[\w./-]*)`")
_MODULE = re.compile(r"`(?:python -m )?((?:api|worker|agent|infra|tests)(?:\.\w+)+)")
_THEIRS = {"librechat.yaml"}
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")
_SETTING = re.compile(rf"\b{PREFIX}([A-Z_]+)\b")


def test_there_are_documents() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} <= {d.name for d in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = _LINK.findall(document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_setting_named_exists(document: Path) -> None:
    named = {name.lower() for name in _SETTING.findall(document.read_text())}
    assert named <= set(Settings.model_fields)


@pytest.mark.parametrize("document", CURRENT, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_path_named_exists(document: Path) -> None:
    """A file by its path in the repository; by its name alone where that is enough to find it."""
    text = document.read_text()
    files = {name for name in _FILE.findall(text) if name not in _THEIRS}
    paths = {name for name in files if "/" in name} | set(_FOLDER.findall(text))
    assert sorted(path for path in paths if not list(ROOT.glob(path))) == []
    assert sorted(files - paths - _file_names()) == []


@pytest.mark.parametrize("document", CURRENT, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_module_named_exists(document: Path) -> None:
    named = set(_MODULE.findall(document.read_text()))
    assert sorted(name for name in named if not name.endswith(".sock") and not _is_ours(name)) == []


def _is_ours(dotted: str) -> bool:
    """A package, a module, or a name in one of them."""
    path, (*above, last) = ROOT / dotted.replace(".", "/"), dotted.split(".")
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module = ROOT.joinpath(*above).with_suffix(".py")
    return module.exists() and re.search(rf"\b{last}\b", module.read_text()) is not None


@functools.cache
def _file_names() -> frozenset[str]:
    kept = ("api", "worker", "agent", "infra", "tests")
    found = [file for folder in kept for file in (ROOT / folder).rglob("*.*")]
    return frozenset(file.name for file in [*found, *ROOT.glob("*.*")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_test_named_exists(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text()))
    assert sorted(named - _tests()) == []


@functools.cache
def _tests() -> frozenset[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return frozenset(n for f in files for n in re.findall(r"def (test_\w+)\(", f.read_text()))


def test_failures_are_as_their_table_says() -> None:
    """Each has a test or a scenario, and both documents are as `make docs` writes them."""
    listed = [one for group in groups() for one in group.failure]
    assert len(listed) > 60
    assert [one.what for one in listed if not one.tests and not one.chaos] == []
    assert {path: (ROOT / path).read_text() for path in renewed()} == renewed()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_every_line_can_be_read(document: Path) -> None:
    """Rows of tables and names that cannot be broken apart from it."""
    lines = document.read_text().splitlines()
    assert [line for line in lines if _is_long_prose(line)] == []


def _is_long_prose(line: str) -> bool:
    return len(line) > 200 and not line.startswith("|") and max(map(len, line.split())) < 100


def test_every_threat_has_a_control_that_is_there_and_a_test() -> None:
    listed = [threat for attacker in threats.attackers() for threat in attacker.threat]
    assert len(listed) > 30
    assert len({threat.what for threat in listed}) == len(listed)
    named = {path for threat in listed for path in threat.files}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_security_and_its_page_are_what_the_table_of_threats_says() -> None:
    assert {path: (ROOT / path).read_text() for path in threats.renewed()} == threats.renewed()


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    listed = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {page.name for page in folder.glob("[0-9]*.md")}


def test_clients_document_holds_every_status() -> None:
    text = (ROOT / "docs" / "reference" / "clients.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.*) \|$", text, flags=re.MULTILINE)
    shown = {(code.value, str(entry.status), SENTENCES[code]) for code, entry in TABLE.items()}
    assert {(code, status, message) for status, code, message in rows} == shown


def test_every_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    declared = re.findall(
        r'"([A-Za-z][\w-]*)(?:\[\w+\])?\s*(?:[<>=!~].*?)?(?:;.*?)?"', _requirements(project)
    )
    reasons = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    assert [name for name in declared if not re.search(rf"\b{re.escape(name)}\b", reasons)] == []


def _requirements(project: str) -> str:
    lists = re.findall(r"^(?:dependencies|agent|embedded|dev) = \[(.*?)\]\n", project, re.M | re.S)
    return "\n".join(line for block in lists for line in block.splitlines())


def test_the_page_of_the_demo_has_all_its_words() -> None:
    page = (ROOT / "docs" / "start" / "demo.md").read_text()
    for topic in TOPICS:
        examples = " · ".join(f"`{example}`" for example in topic.examples)
        assert f"| {examples} | {topic.about} |" in page
    for agent in AGENTS:
        words = " Then: ".join(f"`{one}`" for one in agent.words)
        assert f"| `{agent.name}` | {words} |" in page
