"""The demo with files: it writes, reads, lists and deletes those that one names. Pure."""

from __future__ import annotations

import re
import shlex

from infra.scripted_model.demo.scenes import (
    Scene,
    bash,
    in_workspace,
    play,
    say,
    shown,
    without_numbers,
    write,
)
from infra.scripted_model.demo.topics import END, FILE, topic
from infra.scripted_model.replies import Reply, ToolUse

_QUOTES = "\"'“”`"
_LIST = "find . -type f -not -path '*/.*' | sed 's|^./||' | sort | head -50"


def _write(scene: Scene, found: re.Match[str]) -> Reply:
    path, text = found["path"], _unquoted(found["text"])
    whole = in_workspace(path)

    def first(scene: Scene) -> Reply:
        return say(f"I write `{path}`.", write(path, text + "\n"))

    def second(scene: Scene) -> Reply:
        if not scene.last.is_error:
            return say(f"Done: `{path}` is in the workspace of this conversation.")
        # The tool changes no file that was not read before.
        command = f"printf '%s\\n' {shlex.quote(text)} > {shlex.quote(whole)}"
        return say("It is there already, so I write over it.", bash(command, f"Write {path}"))

    def third(scene: Scene) -> Reply:
        return _outcome(scene, f"`{path}` has the new text.")

    return play(scene, [first, second, third])


def _add(scene: Scene, found: re.Match[str]) -> Reply:
    path, text = found["path"], _unquoted(found["text"])
    whole = shlex.quote(in_workspace(path))
    command = f"printf '%s\\n' {shlex.quote(text)} >> {whole} && cat {whole}"

    def second(scene: Scene) -> Reply:
        return _outcome(scene, f"`{path}` is now:\n\n{shown(scene.last)}")

    return play(
        scene, [lambda _: say(f"I add it to `{path}`.", bash(command, f"Add to {path}")), second]
    )


def _read(scene: Scene, found: re.Match[str]) -> Reply:
    path = found["path"]
    call = ToolUse("Read", {"file_path": in_workspace(path)})

    def second(scene: Scene) -> Reply:
        return _outcome(scene, f"`{path}` says:\n\n{shown(without_numbers(scene.last))}")

    return play(scene, [lambda _: say(f"I read `{path}`.", call), second])


def _list(scene: Scene, found: re.Match[str]) -> Reply:
    def second(scene: Scene) -> Reply:
        if scene.last.text.startswith("(Bash completed") or not scene.last.text:
            return say("There are no files in the workspace yet.")
        return _outcome(scene, f"These are the files in the workspace:\n\n{shown(scene.last)}")

    return play(
        scene, [lambda _: say("I look what is there.", bash(_LIST, "List the files")), second]
    )


def _delete(scene: Scene, found: re.Match[str]) -> Reply:
    path = found["path"]
    command = f"rm -v -- {shlex.quote(in_workspace(path))}"

    def second(scene: Scene) -> Reply:
        return _outcome(scene, f"`{path}` is deleted.")

    return play(
        scene, [lambda _: say(f"I delete `{path}`.", bash(command, f"Delete {path}")), second]
    )


def _outcome(scene: Scene, good: str) -> Reply:
    if scene.last.is_error:
        return say(f"That did not work. The tool said:\n\n{shown(scene.last)}")
    return say(f"{good}")


def _unquoted(text: str) -> str:
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES
    return text[1:-1] if is_quoted else text


TOPICS = (
    topic(
        "write a file",
        "Writes the file with your text into the workspace.",
        examples=[
            "write notes.md: buy milk",
            "create a file called todo/today.txt with the text call Ada",
            "save good morning to greeting.txt",
        ],
        patterns=[
            r"(?:write|create|make|save)(?: me)?(?: an?| the)?(?: new)?(?: text)?(?: file)?"
            rf"(?: called| named)? {FILE}\s*(?:,|and)?\s*"
            r"(?::|with(?: the)?(?: text| content| words)?:?|containing|saying|that says)"
            r"\s*(?P<text>.+)",
            rf"(?:write|save|put) (?P<text>.+) (?:to|into|in|as)(?: the)?(?: file)? {FILE}{END}",
        ],
        act=_write,
    ),
    topic(
        "add to a file",
        "Adds a line to the file and shows it.",
        examples=["add buy bread to notes.md"],
        patterns=[rf"(?:add|append) (?P<text>.+) to(?: the)?(?: file)? {FILE}{END}"],
        act=_add,
    ),
    topic(
        "read a file",
        "Reads the file and shows what it says, also one that you have sent.",
        examples=["read notes.md", "what is in notes.md?", "show me the file greeting.txt"],
        patterns=[
            rf"(?:read|show|open|cat|print)(?: me)?(?: the)?(?: file)? {FILE}{END}",
            rf"what(?:'s| is)(?: written)? in(?: the)?(?: file)? {FILE}{END}",
        ],
        act=_read,
    ),
    topic(
        "list files",
        "Lists the files of the workspace.",
        examples=["list the files", "which files are there?"],
        patterns=[
            rf"(?:list|show)(?: me)?(?: all)?(?: the| my| your)? files{END}",
            rf"(?:what|which) files .*{END}",
            r"ls",
        ],
        act=_list,
    ),
    topic(
        "delete a file",
        "Deletes the file.",
        examples=["delete greeting.txt"],
        patterns=[rf"(?:delete|remove)(?: the)?(?: file)? {FILE}{END}"],
        act=_delete,
    ),
)
