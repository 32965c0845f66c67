"""The generated part of ARCHITECTURE.md that shows a worker's own state machines.

`python -m worker.diagrams [--write|--check]` from the repository's root, like
`infra.reference.diagrams` for states that other programs see. A test fails if the document and the
tables differ.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from infra.reference.diagrams import DOCUMENT, mermaid
from infra.reference.generated import replace_part, run
from worker.conversations.phases import ACTOR_TRANSITIONS, ActorPhase
from worker.hosts.breaker import BREAKER_TRANSITIONS, BreakerState
from worker.turns.phases import RUN_BEGINS, RUN_TRANSITIONS

_BEGIN, _END = "<!-- generated:worker-states -->\n", "<!-- /generated -->\n"


def states() -> str:
    """The diagrams, as mermaid."""
    actor = mermaid(ACTOR_TRANSITIONS, ActorPhase.RECOVERING)
    run = mermaid(RUN_TRANSITIONS, *RUN_BEGINS)
    breaker = mermaid(BREAKER_TRANSITIONS, BreakerState.CLOSED)
    return (
        f"**A conversation's actor**\n{actor}\n**The run of a turn**\n{run}\n"
        f"**The breaker of an engine**\n{breaker}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the diagrams, or write or check the document."""
    return run(
        DOCUMENT,
        lambda text: replace_part(text, states(), begin=_BEGIN, end=_END),
        printed=states,
        program="worker.diagrams",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
