"""What the demo says to a request: which scene it is, and what to try next. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from infra.scripted_model.asked import Asked, Prompt
from infra.scripted_model.demo import files, memory, pictures, questions, shell, sub_agents, welcome
from infra.scripted_model.demo.agents import reviewer, team
from infra.scripted_model.demo.agents.code_assistant import CODE_ASSISTANT
from infra.scripted_model.demo.agents.data_analyst import DATA_ANALYST
from infra.scripted_model.demo.agents.researcher import RESEARCHER
from infra.scripted_model.demo.agents.shipped import demo_of
from infra.scripted_model.demo.scenes import Scene, paced, say
from infra.scripted_model.demo.topics import END, Topic, topic
from infra.scripted_model.replies import Reply, Text, ToolUse, words
from infra.scripted_model.script import complying

AGENTS = (CODE_ASSISTANT, reviewer.REVIEWER, RESEARCHER, DATA_ANALYST, team.TEAM)
"""The demos of the agents that ship with the product."""

TOPICS: tuple[Topic, ...] = (
    topic(
        "take the tour",
        "Looks around in its sandbox and writes a file.",
        examples=["what can you do?", "hello"],
        patterns=[
            rf"(?:hello|hi|hey)(?: there)?{END}",
            rf"(?:what can you do|show me what you can do){END}",
        ],
        act=lambda scene, _: welcome.tour(scene),
    ),
    *files.TOPICS,
    *shell.TOPICS,
    *memory.TOPICS,
    *questions.TOPICS,
    *pictures.TOPICS,
    *sub_agents.TOPICS,
    topic(
        "try an agent",
        "Says how to pick one of the agents that ship with AgCluster, and what to ask it.",
        examples=["try the data-analyst", "which agents are there?"],
        patterns=[
            rf"(?:try|use|ask|show)(?: me)?(?: the)? (?P<name>{'|'.join(a.name for a in AGENTS)})"
            rf"(?: agent)?{END}",
            r"(?:which|what) agents .*",
        ],
        act=lambda _, found: _how_to_pick(found.groupdict().get("name")),
    ),
    topic(
        "help",
        "Lists what it understands.",
        examples=["help"],
        patterns=[rf"(?:help|what do you understand|what can I (?:say|ask)){END}"],
        act=lambda _, __: welcome.list_words(TOPICS),
    ),
)
"""What the demo understands. The first one that finds something in a prompt acts."""

_TASKS: Mapping[str, Callable[[Scene], Reply]] = {
    sub_agents.COUNT: sub_agents.count,
    reviewer.FIND: reviewer.find,
    team.SCOUT: team.scout,
    team.BUILD: team.build,
    team.CHECK: team.check,
}
"""What sub-agents of the demo do."""

SUGGESTIONS = (
    "what can you do?",
    "write notes.md: buy milk",
    "plot x**2 - 3*x",
    "ask me a question",
    "read notes.md",
    "remember that the meeting is on Friday",
    "try the data-analyst",
    "what do you remember?",
    "run echo $((6 * 7))",
    "make an artifact",
    "use a sub-agent",
    "help",
)
"""In an order in which each is a change, and finds what it needs."""

_SUGGESTED = 3


def showcase(asked: Asked, prompt: Prompt) -> Reply:
    """The next message."""
    scene = Scene(asked, prompt)
    if task := _TASKS.get(prompt.text.removeprefix(sub_agents.TASK)):
        return task(scene)
    if not asked.tools:
        return welcome.in_short()
    reply = _reply(scene)
    calls = [block for block in reply.blocks if isinstance(block, ToolUse)]
    if lacking := [call.name for call in calls if not scene.can(call.name)]:
        return say(f"That needs the tool `{lacking[0]}`, which this agent does not have.")
    if calls:
        return reply
    # Where the answer has to have a form, the words before it were said already.
    return complying(asked) or _with_suggestions(reply, scene)


def _reply(scene: Scene) -> Reply:
    said = scene.prompt.text
    for one in TOPICS:
        if found := one.found_in(said):
            return one.act(scene, found)
    if questions.is_answer(scene):
        return questions.answered(scene)
    if agent := demo_of(scene, AGENTS):
        return agent.act(scene)
    return welcome.not_understood(scene, TOPICS) if scene.earlier else welcome.tour(scene)


def _how_to_pick(name: str | None) -> Reply:
    demos = [agent for agent in AGENTS if name in (None, agent.name)]
    told = "\n".join(f"- model `{one.name}`, then say “{one.words[0]}”" for one in demos)
    return say(
        "Agents are picked where your chat program lets you pick a model, or as `model` in a "
        f"request. They keep what was said and the files:\n\n{told}"
    )


def _with_suggestions(reply: Reply, scene: Scene) -> Reply:
    """The reply, and what to try next: something that was not said in this conversation."""
    seen = [*scene.earlier, scene.prompt.text]
    agent = demo_of(scene, AGENTS)
    own = [one for one in (agent.words if agent else ()) if one not in seen]
    known = [one for one in TOPICS if any(map(one.found_in, seen))]
    new = [one for one in SUGGESTIONS if not any(topic.found_in(one) for topic in known)]
    tried = ([*own, *new] or SUGGESTIONS[-1:])[:_SUGGESTED]
    next_words = "\n\n**Try next:** " + ", ".join(f"“{one}”" for one in tried)
    *before, last = reply.blocks
    assert isinstance(last, Text), "what ends a turn of the demo is said in words"
    return paced(replace(reply, blocks=(*before, Text((*last.pieces, *words(next_words))))))
