"""The demo remembers: what one told it stands in its conversation, on whichever host it goes on.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from infra.scripted_model.demo.scenes import Scene, quoted, say
from infra.scripted_model.demo.topics import END, topic
from infra.scripted_model.replies import Reply


def _keep(scene: Scene, found: re.Match[str]) -> Reply:
    return say(
        f"I will remember it: “{quoted(found['fact'])}”. It stands in this conversation, so I know "
        "it as long as you go on here, also when my container was stopped meanwhile.",
        thought="Something to remember. My memory is the conversation itself.",
    )


def _recall(scene: Scene, found: re.Match[str]) -> Reply:
    facts = list(_facts(scene))
    if not facts:
        return say("You have not told me anything to remember yet.")
    told = "\n".join(f"- {quoted(fact)}" for fact in facts)
    return say(f"You told me in this conversation:\n\n{told}")


def _facts(scene: Scene) -> Iterator[str]:
    for said in scene.earlier:
        if found := KEEP.found_in(said):
            yield found["fact"]


KEEP = topic(
    "remember",
    "Remembers what you say.",
    examples=["remember that the meeting is on Friday", "my name is Ada"],
    patterns=[
        rf"(?:remember|keep in mind|note)(?: that|:)? (?P<fact>.+?){END}",
        rf"(?P<fact>(?:my name is|I am called|call me) .+?){END}",
    ],
    act=_keep,
)
TOPICS = (
    KEEP,
    topic(
        "recall",
        "Says what you told it to remember in this conversation.",
        examples=["what do you remember?", "what is my name?"],
        patterns=[
            r"what (?:do|did|can) (?:you|I) (?:still )?(?:remember|know|tell you|say)"
            rf"(?: about me)?{END}",
            rf"what(?:'s| is) my name{END}",
            r"do you remember.*",
        ],
        act=_recall,
    ),
)
