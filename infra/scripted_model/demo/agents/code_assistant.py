"""The code assistant's demo: a function, a mistake that its tests find, and a change. Pure."""

from __future__ import annotations

from infra.scripted_model.demo.agents.shipped import AgentDemo
from infra.scripted_model.demo.scenes import Scene, bash, in_workspace, play, say, shown, write
from infra.scripted_model.replies import Reply, ToolUse

CODE = "durations.py"
TESTS = "test_durations.py"

_CODE = '''"""Durations as people write them."""

import re

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"(\\d+)([hms])")


def parse(text: str) -> int:
    """The seconds in `1h30m`. Raises `ValueError` for anything else."""
    parts = _PART.findall(text)
    if not parts:
        raise ValueError(f"not a duration: {text!r}")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)
'''
_TESTS = """import unittest

from durations import parse


class Durations(unittest.TestCase):
    def test_units_add_up(self):
        self.assertEqual(parse("1h30m"), 5400)
        self.assertEqual(parse("45s"), 45)

    def test_anything_else_is_refused(self):
        for text in ("", "h", "90", "1h!", "1h 30m"):
            with self.subTest(text), self.assertRaises(ValueError):
                parse(text)


if __name__ == "__main__":
    unittest.main()
"""
_WRONG = """    parts = _PART.findall(text)
    if not parts:
"""
_RIGHT = """    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
"""
_OLD_UNITS = '_SECONDS = {"h": 3600, "m": 60, "s": 1}\n_PART = re.compile(r"(\\d+)([hms])")'
_NEW_UNITS = (
    '_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}\n_PART = re.compile(r"(\\d+)([dhms])")'
)
_RUN = f"cd /workspace && python3 -m unittest {TESTS} 2>&1 | tail -25"
_RUN_WITH_DAYS = (
    f'cd /workspace && sed -i \'s/        self.assertEqual(parse("45s"), 45)/&\\n'
    f'        self.assertEqual(parse("2d"), 172800)/\' {TESTS} && python3 -m unittest {TESTS} 2>&1'
)


def _act(scene: Scene) -> Reply:
    done_before = scene.has_called("Write", file_path=in_workspace(TESTS)) and scene.earlier
    return play(scene, _SECOND_TURN if done_before else _FIRST_TURN)


def _write_code(scene: Scene) -> Reply:
    return say(
        f"I write the function in `{CODE}`, then tests that try to break it.",
        write(CODE, _CODE),
        thought="A small parser. The risk is in what it must refuse, so the tests look there.",
    )


def _write_tests(scene: Scene) -> Reply:
    return say("", write(TESTS, _TESTS))


def _run(scene: Scene) -> Reply:
    return say("Now the tests.", bash(_RUN, "Run the tests"))


def _mend(scene: Scene) -> Reply:
    if "FAILED" not in scene.last.text:
        return _report(scene)
    return say(
        "They found a mistake of mine: `findall` skips what it does not know, so `1h!` counted "
        "as an hour. I mend the function, not the test.",
        _edit(_WRONG, _RIGHT),
    )


def _report(scene: Scene) -> Reply:
    if scene.last.is_error or "OK" not in scene.last.text:
        return say(f"The tests do not pass yet:\n\n{shown(scene.last)}")
    return say(
        f"`parse` in `{CODE}` reads durations such as `1h30m` and refuses everything else.\n\n"
        f"Tested with `python3 -m unittest {TESTS}`:\n\n{shown(scene.last)}\n\n"
        "Not done: days, and fractions such as `1.5h`. Say so if you need them."
    )


def _look_again(scene: Scene) -> Reply:
    return say(
        f"I add days. First I look at `{CODE}` as it is now.",
        ToolUse("Read", {"file_path": in_workspace(CODE)}),
        thought="The file may have changed since. Read before editing.",
    )


def _add_days(scene: Scene) -> Reply:
    return say("", _edit(_OLD_UNITS, _NEW_UNITS))


def _test_days(scene: Scene) -> Reply:
    return say(
        "A test for it, and all tests again.",
        bash(_RUN_WITH_DAYS, "Add a test and run all"),
    )


def _report_days(scene: Scene) -> Reply:
    if scene.last.is_error or "OK" not in scene.last.text:
        return say(f"The tests do not pass yet:\n\n{shown(scene.last)}")
    return say(f"`2d` is 172,800 seconds now. All tests pass:\n\n{shown(scene.last)}")


def _edit(old: str, new: str) -> ToolUse:
    given = {"file_path": in_workspace(CODE), "old_string": old, "new_string": new}
    return ToolUse("Edit", given)


_FIRST_TURN = (_write_code, _write_tests, _run, _mend, _run, _report)
_SECOND_TURN = (_look_again, _add_days, _test_days, _report_days)

CODE_ASSISTANT = AgentDemo(
    name="code-assistant",
    role="You are a code assistant",
    words=("Parse durations such as 1h30m, with tests.", "It should know days, too."),
    act=_act,
)
