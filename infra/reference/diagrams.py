"""The generated parts of ARCHITECTURE.md: the folders and the state diagrams; the keys, as text.

`python -m infra.reference.diagrams [--write|--check]` from the repository's root. A test fails when
the document and the code differ.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar, get_type_hints

from infra.reference.folders import folders
from infra.reference.generated import replace_part, run
from infra.store.keys import Keys
from infra.wire.ids import (
    ConversationKey,
    FileId,
    HostId,
    ReplicaId,
    TenantId,
    TurnId,
    UploadId,
    WorkerId,
)
from infra.wire.states import (
    CONVERSATION_TRANSITIONS,
    FILE_TRANSITIONS,
    TURN_TRANSITIONS,
    WORKER_TRANSITIONS,
    ConversationState,
    FileState,
    TurnState,
    WorkerState,
)

DOCUMENT = Path("ARCHITECTURE.md")

PLACEHOLDERS: Mapping[object, str] = {
    ConversationKey: "<c>",
    TenantId: "<t>",
    TurnId: "<turn>",
    WorkerId: "<worker>",
    HostId: "<host>",
    ReplicaId: "<replica>",
    FileId: "<file>",
    UploadId: "<upload>",
}

_WIDTH = 140

State = TypeVar("State", bound=StrEnum)


def states() -> str:
    """The state diagrams, as mermaid."""
    turn = mermaid(TURN_TRANSITIONS, TurnState.QUEUED)
    conversation = mermaid(CONVERSATION_TRANSITIONS, ConversationState.COLD)
    worker = mermaid(WORKER_TRANSITIONS, WorkerState.READY)
    file = mermaid(FILE_TRANSITIONS, FileState.UPLOADING)
    parts = (("Turn", turn), ("Conversation", conversation), ("Worker", worker), ("File", file))
    return "\n".join(f"**{name}**\n{diagram}" for name, diagram in parts)


def mermaid(table: Mapping[State, frozenset[State]], *starts: State) -> str:
    """One table as a mermaid state diagram, in the order of its enum."""
    order = list(table)
    lines = ["```mermaid", "stateDiagram-v2", *(f"    [*] --> {start}" for start in starts)]
    for old in order:
        following = sorted(table[old], key=order.index)
        lines += [f"    {old} --> {new}" for new in following]
        if not following:
            lines.append(f"    {old} --> [*]")
    return "\n".join([*lines, "```"]) + "\n"


def keys() -> str:
    """Every key as a list item: its name with placeholders, and its docstring."""
    items = [f"- `{name}`: {text}" for name, text in _keys()]
    wrap = textwrap.TextWrapper(
        _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(map(wrap.fill, items)) + "\n"


def renewed(document: str) -> str:
    """The document with these parts as the code has them now."""
    for name, text in (("folders", folders(Path())), ("states", states())):
        begin, end = f"<!-- generated:{name} -->\n", "<!-- /generated -->\n"
        document = replace_part(document, text, begin=begin, end=end)
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the parts, or write or check the document."""
    return run(
        DOCUMENT,
        renewed,
        printed=lambda: "\n".join((folders(Path()), states())),
        program="infra.reference.diagrams",
        about=__doc__,
        arguments=arguments,
    )


def _keys() -> Iterator[tuple[str, str]]:
    made = Keys()
    for name, function in vars(Keys).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        bound: Callable[..., str] = getattr(made, name)
        yield bound(*_arguments(function)), re.sub(r"\s+", " ", inspect.getdoc(function) or "")


def _arguments(function: Callable[..., str]) -> list[str]:
    hints = get_type_hints(function)
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    return [PLACEHOLDERS.get(hints[p], f"<{p}>") for p in parameters]


if __name__ == "__main__":
    sys.exit(main())
