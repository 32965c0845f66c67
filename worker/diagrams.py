"""The generated part of ARCHITECTURE.md that shows a worker's own state machines.

`python -m worker.diagrams [--write|--check]` from the repository's root, as
`infra.reference.diagrams` for what other programs see. A test fails when the document and the
tables differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from infra.reference.diagrams import DOCUMENT, mermaid
from infra.reference.generated import apply, replace_part
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
    parser = argparse.ArgumentParser(prog="python -m worker.diagrams", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="renew the document")
    mode.add_argument("--check", action="store_true", help="fail if the document differs")
    given = parser.parse_args(arguments)
    if not given.write and not given.check:
        print(states())
        return 0
    renewed = replace_part(DOCUMENT.read_text(), states(), begin=_BEGIN, end=_END)
    return apply({DOCUMENT: renewed}, is_check=given.check)


if __name__ == "__main__":
    sys.exit(main())
