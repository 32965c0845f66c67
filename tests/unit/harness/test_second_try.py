"""A failed test is run once more, alone; the run's colour follows from that."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.second_try import TRIES_MAX, try_again

ROOT = Path(__file__).parents[3]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Three tests in a folder: one passes, one fails the first time only, one always."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            from pathlib import Path

            def test_sound():
                pass

            def test_chance():
                been = Path(__file__).with_name("been")
                if not been.exists():
                    been.touch()
                    raise AssertionError("the first time")

            def test_broken():
                raise AssertionError("always")
            """
        )
    )
    return tmp_path


def test_what_passes_alone_is_flaky_and_what_fails_again_has_failed(suite: Path) -> None:
    (suite / "been").touch()
    outcome = try_again(["test_it.py::test_chance", "test_it.py::test_broken"], root=suite)
    assert outcome.flaky == ("test_it.py::test_chance",)
    assert outcome.failed == ("test_it.py::test_broken",)


def test_many_failures_are_no_chance() -> None:
    tests = [f"test_it.py::test_{i}" for i in range(TRIES_MAX + 1)]
    outcome = try_again(tests, root=ROOT)
    assert outcome.flaky == ()
    assert len(outcome.failed) == TRIES_MAX + 1


def test_a_test_that_does_not_end_has_failed(suite: Path) -> None:
    (suite / "test_it.py").write_text("import time\ndef test_endless():\n    time.sleep(60)\n")
    outcome = try_again(["test_it.py::test_endless"], root=suite, timeout_s=1.0)
    assert outcome.failed == ("test_it.py::test_endless",)


@pytest.mark.parametrize(
    ("wanted", "code", "word"),
    [
        ("test_chance", 0, "FLAKY, passed in its second try, alone"),
        ("test_broken", 1, "FAILED, not"),
    ],
)
@pytest.mark.slow
def test_the_runs_colour_is_that_of_the_second_try(
    suite: Path, wanted: str, code: int, word: str
) -> None:
    # The hooks of the whole suite, without those that know its folders.
    hooks = "pytest_addoption, pytest_sessionfinish, pytest_terminal_summary"
    (suite / "conftest.py").write_text(f"from tests.conftest import {hooks}\n")
    (suite / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\npythonpath = .\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--second-try", "-n0", "-k", wanted],
        cwd=suite,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert word in done.stdout
