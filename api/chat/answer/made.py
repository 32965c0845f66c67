"""How an answer shows the files that its turn has made, and how that is taken out again.

Clients send back the answers that they show. What is added here is not the agent's, so it is taken
out of them before anything reads them: it must make no answer look like another one, and must not
be imitated. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.files.links import FileLinks
from api.http.files_host import LINKS_AT
from infra.wire.events import Artifact, EndReason, TurnEnded, TurnFiles
from infra.wire.files.kinds import PICTURES
from infra.wire.files.shown import ArtifactDisplay

SHOWN_MAX = 20
"""Links in an answer. All files are in its metadata."""

_HEAD = "**Files**"
_RULE = "---"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_MORE = re.compile(r"- and [0-9]+ more")
_NOT_KEPT = ": not kept"


@dataclass(frozen=True)
class ShownFiles:
    """What an answer says of the files that its turn made."""

    text: str
    """Added to its end; empty for nothing."""
    annotations: Sequence[Mapping[str, Any]]
    """In OpenAI's form, nested, which Open WebUI shows; empty for none."""
    metadata: Mapping[str, Any]
    """For programs."""


class FileDisplay:
    """Shows files as a deployment wants it, or the agent that made them."""

    def __init__(self, links: FileLinks, display: ArtifactDisplay) -> None:
        self._links = links
        self._display = display

    def shown(self, made: TurnFiles | None, *, is_only_metadata: bool = False) -> ShownFiles | None:
        """None if there is nothing to show.

        `is_only_metadata`: the answer's text must stay as it is.
        """
        if made is None or not (made.files or made.not_kept or made.more):
            return None
        display = ArtifactDisplay.OFF if is_only_metadata else made.display or self._display
        linked = [(one, self._links.link(one)) for one in made.files]
        return ShownFiles(
            text=_block(linked, made) if display is ArtifactDisplay.LINKS else "",
            annotations=[
                _annotation(one, url)
                for one, url in linked
                if url is not None and display is ArtifactDisplay.ANNOTATIONS
            ],
            metadata=_metadata(linked, made),
        )


def shown_files(
    display: FileDisplay | None, end: TurnEnded, *, has_form: bool
) -> ShownFiles | None:
    """What an answer that ended like this says of its files; None for nothing.

    Nothing is added to JSON, or to an answer that goes on when the client has made its calls.
    """
    if display is None:
        return None
    is_only_metadata = has_form or end.end_reason is EndReason.CALLS
    return display.shown(end.made, is_only_metadata=is_only_metadata)


def without_files(answer: str) -> str:
    """An answer as a client sends it back, without what was added to it here."""
    if _HEAD not in answer:
        return answer
    lines, kept, at = answer.split("\n"), list[str](), 0
    while at < len(lines):
        if lines[at] == _RULE and (end := _end_of_block(lines, at)) > at:
            while kept and not kept[-1].strip():
                kept.pop()
            at = end
        else:
            kept.append(lines[at])
            at += 1
    return "\n".join(kept)


def _end_of_block(lines: Sequence[str], start: int) -> int:
    """Behind the last line of the block that begins there; `start` if none does."""
    if start + 1 >= len(lines) or lines[start + 1] != _HEAD:
        return start
    at, end = start + 2, start
    while at < len(lines) and (not lines[at].strip() or _is_ours(lines[at])):
        at += 1
        if lines[at - 1].strip():
            end = at
    return end


def _is_ours(line: str) -> bool:
    if line.startswith(("- [", "![")):
        # Names are escaped, so this cannot be in one.
        _, _, behind = line.partition("](")
        return f"{LINKS_AT}/" in behind.partition(")")[0]
    is_left_out = line.startswith("- ") and line.endswith(_NOT_KEPT)
    return is_left_out or _MORE.fullmatch(line) is not None


def _block(linked: Sequence[tuple[Artifact, str | None]], made: TurnFiles) -> str:
    there = [(one, url) for one, url in linked if url is not None]
    shown = there[:SHOWN_MAX]
    pictures = [
        f"![{_plain(_name(one))}]({url})" for one, url in shown if one.media_type in PICTURES
    ]
    lines = [f"- [{_plain(_name(one))}]({url}) · {_size(one.bytes)}" for one, url in shown]
    lines += [f"- {_plain(one)}{_NOT_KEPT}" for one in made.not_kept]
    if more := made.more + len(there) - len(shown):
        lines.append(f"- and {more} more")
    if not lines:
        return ""
    return "\n".join(("", "", _RULE, _HEAD, "", *(f"{one}\n" for one in pictures), *lines, ""))


def _name(made: Artifact) -> str:
    return made.path.removeprefix("outputs/")


def _plain(text: str) -> str:
    """The text with everything escaped that Markdown, or HTML in it, could mean."""
    return _PUNCTUATION.sub(r"\\\1", text)


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"


def _annotation(made: Artifact, url: str) -> Mapping[str, Any]:
    cited = {"url": url, "title": _name(made), "start_index": 0, "end_index": 0}
    return {"type": "url_citation", "url_citation": cited}


def _metadata(linked: Sequence[tuple[Artifact, str | None]], made: TurnFiles) -> Mapping[str, Any]:
    files = [
        {
            "id": one.file,
            "path": one.path,
            "bytes": one.bytes,
            "type": one.media_type,
            "expires_at": one.expires_ms // 1000,
            "url": url,
        }
        for one, url in linked
    ]
    return {"files": files, "not_kept": list(made.not_kept), "more": made.more}
