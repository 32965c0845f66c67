"""What is left of a reply that broke off: a model that is asked to go on goes on. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from infra.scripted_model.replies import Reply, Text

_STAMP = re.compile(r"\d+@\d+ ")


def rest_of(reply: Reply, said: str) -> Reply:
    """The reply without the words of its text that end what was said already."""
    if reply.stamped:
        first = len(_STAMP.findall(said))
        blocks = tuple(
            Text(block.pieces[first:]) if isinstance(block, Text) else block
            for block in reply.blocks
        )
        return replace(reply, blocks=blocks, first=first)
    blocks = tuple(
        _rest_of_text(block, said) if isinstance(block, Text) else block for block in reply.blocks
    )
    return replace(reply, blocks=blocks)


def _rest_of_text(block: Text, said: str) -> Text:
    for count in range(len(block.pieces), 0, -1):
        if said.endswith("".join(block.pieces[:count])):
            return Text(block.pieces[count:])
    return block
