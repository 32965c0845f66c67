"""Rules for the whole suite: nothing skipped in CI, no leaked tasks, a report on real parts, and
which tests stay together when several processes share the work.

`--real-parts` prints which real parts this machine has before the tests, and what was skipped and
why after them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.parts import PARTS, missing
from tests.second_try import SecondTry, try_again

# How fast an example is made and run is the machine's affair, which others may share.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

IS_CI = os.environ.get("CI") == "true"

SKIPS_ALLOWED_IN_CI: dict[str, str] = {}
"""Start of a skip's reason -> why it may be skipped even in CI. Empty is how it should be."""

_SETTLE_PASSES = 5

_RINGS = {name: place for place, name in enumerate(("chaos", "e2e", "integration", "contract"))}

_KIND = re.compile(r"[\[-](docker|bubblewrap|compose)[\]-]")
"""In a test's parameters: what it is deployed on."""

_SECOND_TRY = pytest.StashKey[SecondTry]()

_containers_before: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-parts", action="store_true", help="report which real parts this machine has"
    )
    parser.addoption(
        "--chaos-seed",
        type=int,
        help="what tests/chaos draws its victims and moments from; a failure tells the one it had",
    )
    parser.addoption(
        "--second-try",
        action="store_true",
        help="run what failed once more, alone, at the end; passing then is flaky, not failed",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    if not config.getoption("--real-parts"):
        return []
    lines = ["real parts:"]
    for part in PARTS:
        reason = missing(part)
        lines.append(f"  {part:<8}{'found' if reason is None else f'MISSING: {reason}'}")
    lines.append(
        "  " + ("CI=true: nothing may be skipped" if IS_CI else "missing ones are skipped")
    )
    return lines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The rings that wait the longest come first."""
    items.sort(key=lambda item: _RINGS.get(_folder(item), len(_RINGS)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup`: what shares a deployment, or a file, stays in one process.

    xdist's own groups are part of a test's id, which pytest does not let it change any more.
    """
    return _ByDeployment(config, log) if config.getvalue("dist") == "loadgroup" else None


class _ByDeployment(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        if not path.startswith("tests/e2e/"):
            return path
        kind = _KIND.search(name)
        return f"deployment {kind[1]}" if kind else path


def pytest_sessionstart(session: pytest.Session) -> None:
    if IS_CI and not _is_xdist_worker(session.config):
        _containers_before.update(_containers())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What failed gets its second try; in CI a run that skipped something, or left a container
    behind, is a failed run.
    """
    if _is_xdist_worker(session.config):
        return
    if exitstatus == pytest.ExitCode.TESTS_FAILED and session.config.getoption("--second-try"):
        outcome = try_again(_failed(session.config), root=session.config.rootpath)
        session.config.stash[_SECOND_TRY] = outcome
        if outcome.flaky and not outcome.failed:
            exitstatus = session.exitstatus = pytest.ExitCode.OK
    if not IS_CI or exitstatus != pytest.ExitCode.OK:
        return
    if _forbidden_skips(session.config) or _containers_left():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--real-parts"):
        for reason, count in Counter(_skip_reasons(config)).most_common():
            terminalreporter.write_line(f"skipped {count}: {reason}")
    if outcome := config.stash.get(_SECOND_TRY, None):
        for test in outcome.failed:
            terminalreporter.write_line(f"FAILED, not passed in a second try: {test}")
        for test in outcome.flaky:
            terminalreporter.write_line(f"FLAKY, passed in its second try, alone: {test}")
    if not IS_CI:
        return
    for reason, count in Counter(_forbidden_skips(config)).items():
        terminalreporter.write_line(f"FAILED, for CI=true skips nothing: {count} of: {reason}")
    if left := _containers_left():
        terminalreporter.write_line(f"FAILED, containers left behind: {', '.join(left)}")


@pytest.fixture(autouse=True)
def no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    """An asynchronous test fails when it leaves a task running."""
    function: Any = getattr(request, "function", None)
    if inspect.iscoroutinefunction(function):
        request.getfixturevalue("_task_watch")


@pytest.fixture
async def _task_watch() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(_SETTLE_PASSES):
        # A cancelled task needs a pass of the loop to end; nothing else is waited for.
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        names = ", ".join(sorted(repr(task.get_coro()) for task in left if task))
        pytest.fail(f"tasks left running: {names}", pytrace=False)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def _is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _failed(config: pytest.Config) -> list[str]:
    """Node ids of what failed, or whose fixtures did."""
    reporter: TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    stats = reporter.stats if reporter else {}
    return [report.nodeid for kind in ("failed", "error") for report in stats.get(kind, [])]


def _skip_reasons(config: pytest.Config) -> list[str]:
    reporter: TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    reasons = []
    for report in reporter.stats.get("skipped", []) if reporter else []:
        longrepr = report.longrepr
        reason = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
        reasons.append(reason.removeprefix("Skipped: "))
    return reasons


def _forbidden_skips(config: pytest.Config) -> list[str]:
    allowed = tuple(SKIPS_ALLOWED_IN_CI)
    return [r for r in _skip_reasons(config) if not (allowed and r.startswith(allowed))]


def _containers_left() -> list[str]:
    """Containers of any cluster of ours that were not there at the start.

    Only CI may ask: elsewhere somebody may have started them meanwhile.
    """
    return [name for name in _containers() if name not in _containers_before]


def _containers() -> list[str]:
    if missing("docker") is not None:
        return []
    done = subprocess.run(
        ["docker", "ps", "-a", "--filter", "label=agcluster.cluster", "--format", "{{.Names}}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.split()
