"""The demo as one meets it: its words, and the agents that ship with the product.

Everything but the model is real: `agcluster up --demo` on this machine, in bubblewrap.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from infra.scripted_model.demo.showcase import AGENTS, TOPICS
from tests.e2e.deployments import Deployment, embedded
from tests.parts import need

pytestmark = [pytest.mark.timeout(240), pytest.mark.bwrap]

KEY = "any"
USUAL = "claude-sonnet-4.5"


@pytest.fixture(scope="module")
def demo() -> Iterator[Deployment]:
    need("bwrap")
    need("redis")
    need("sdk")
    # No setting but what `--demo` sets: the agents' folder is an empty one.
    with embedded("bubblewrap", AGCLUSTER_DEMO="true", AGCLUSTER_AGENTS_DIR="agents") as running:
        yield running


@dataclass
class Chat:
    """A conversation as a chat client has it: it sends back what it shows."""

    deployment: Deployment
    model: str = USUAL
    seen: list[Mapping[str, Any]] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    """Links of the files that were made, by path."""
    name: str = field(default_factory=lambda: f"demo-{uuid.uuid4()}")

    def say(self, words: str) -> str:
        self.seen.append({"role": "user", "content": words})
        answer = httpx.post(
            f"{self.deployment.base_url}/v1/chat/completions",
            headers={"authorization": f"Bearer {KEY}", "x-conversation-id": self.name},
            json={"model": self.model, "messages": self.seen},
            timeout=90,
        )
        assert answer.status_code == 200, answer.text
        told: str = answer.json()["choices"][0]["message"]["content"]
        self.seen.append({"role": "assistant", "content": told})
        files = (answer.json().get("agcluster") or {}).get("files") or ()
        self.made |= {one["path"]: one["url"] for one in files}
        return told

    def file(self, path: str) -> httpx.Response:
        """A file that was made, by its link, without a key."""
        return httpx.get(self.made[path], timeout=30)


def test_the_menu_has_the_usual_models_first_then_the_agents(demo: Deployment) -> None:
    listed = httpx.get(
        f"{demo.base_url}/v1/models", headers={"authorization": f"Bearer {KEY}"}
    ).json()["data"]
    ids = [one["id"] for one in listed]
    names = [agent.name for agent in AGENTS]
    assert sorted(ids[-len(names) :]) == sorted(names)
    assert ids[0].startswith("claude-")
    assert all(one["description"] for one in listed if one["id"] in names)


def test_it_writes_reads_and_lists_the_files_that_one_names(demo: Deployment) -> None:
    chat = Chat(demo)
    assert "Done: `notes.md`" in chat.say("Write notes.md: buy milk")
    assert "buy milk" in chat.say("what is in notes.md?")
    assert "milk\nbuy bread\n" in chat.say("add buy bread to notes.md")
    assert "notes.md has" not in chat.say("write notes.md: all over")
    assert "```\nall over\n```" in chat.say("read notes.md")
    assert "notes.md" in chat.say("list the files")
    assert "is deleted" in chat.say("delete notes.md")
    assert "no files" in chat.say("which files are there?")
    assert "did not work" in chat.say("read notes.md")


def test_it_runs_commands_remembers_and_says_what_to_try_next(demo: Deployment) -> None:
    chat = Chat(demo)
    assert "Try next" in chat.say("hello")
    assert "```\n42\n```" in chat.say("run echo $((6 * 7))")
    chat.say("my name is Ada")
    chat.say("remember that the meeting is on Friday")
    told = chat.say("what do you remember?")
    assert "- my name is Ada\n- the meeting is on Friday" in told
    assert "I understand:" in chat.say("help")


def test_it_asks_back_and_makes_what_is_answered(demo: Deployment) -> None:
    chat = Chat(demo)
    assert "2. a web page" in chat.say("ask me a question")
    chat.say("the second, please")
    assert "<h1>Hello" in chat.file("outputs/hello.html").text


def test_it_draws_a_plot_by_real_matplotlib_and_shows_it(demo: Deployment) -> None:
    need("analyst")
    chat = Chat(demo)
    told = chat.say("plot x**2 - 3*x")
    assert "with matplotlib" in told
    assert f"]({chat.made['outputs/plot.png']})" in told
    assert chat.file("outputs/plot.png").content.startswith(b"\x89PNG")


def test_it_uses_a_sub_agent_and_names_the_agents(demo: Deployment) -> None:
    chat = Chat(demo)
    assert "There are 0 files" in chat.say("use a sub-agent")
    assert "data-analyst" in chat.say("which agents are there?")


def test_the_code_assistant_repairs_what_its_tests_find(demo: Deployment) -> None:
    chat, told = talked(demo, "code-assistant")
    assert "found a mistake of mine" in told[0]
    assert re.search(r"Ran 2 tests .*\n\nOK", told[0], re.DOTALL)
    assert "172,800" in told[1]
    assert re.search(r"Ran 2 tests .*\n\nOK", told[1], re.DOTALL)
    assert '"d": 86400' in chat.say("read durations.py")


def test_the_reviewer_proves_its_finding(demo: Deployment) -> None:
    _, [told] = talked(demo, "reviewer")
    assert "old: [[0, 1], [2, 3], [4]]\nnew: [[0, 1], [2, 3]]" in told
    assert "Do not merge" in told


def test_promises_of_two_prompts_are_kept_by_more_than_words(demo: Deployment) -> None:
    assert "May I do this?" in Chat(demo, model="code-assistant").say("run git push origin main")
    assert "It failed, and said" in Chat(demo, model="reviewer").say("run git commit -m fine")


def test_the_researcher_cites_what_it_has_read(demo: Deployment) -> None:
    chat, [told] = talked(demo, "researcher")
    assert "8,848.86 m" in told
    assert "sources/2020-announcement.md" in chat.file("outputs/report.md").text


def test_the_data_analyst_shows_a_plot_and_hands_over_a_workbook(demo: Deployment) -> None:
    need("analyst")
    chat, told = talked(demo, "data-analyst")
    assert "north  -32 %" in told[0]
    assert "made with pandas" in told[0]
    assert f"]({chat.made['outputs/revenue.png']})" in told[0], "the picture is in the answer"
    assert chat.file("outputs/revenue.png").content.startswith(b"\x89PNG")
    assert chat.file("outputs/revenue.xlsx").content.startswith(b"PK")
    assert "2025-05: 100,900" in told[1]


def test_a_team_of_three_makes_and_checks_a_page(demo: Deployment) -> None:
    chat, [told] = talked(demo, "team")
    assert "**Scout:** In /workspace there are" in told, told
    assert "**Builder:** I wrote outputs/countdown.html." in told
    assert "**Checker:** All four parts are there" in told
    assert "LACKS" not in told
    assert "until New Year" in chat.file("outputs/countdown.html").text


def talked(demo: Deployment, name: str) -> tuple[Chat, Sequence[str]]:
    """An agent's demo conversation, and its answers."""
    [agent] = [agent for agent in AGENTS if agent.name == name]
    chat = Chat(demo, model=name)
    return chat, [chat.say(words) for words in agent.words]


def test_all_words_of_the_page_work_one_after_the_other(demo: Deployment) -> None:
    chat = Chat(demo)
    for topic in TOPICS:
        for example in topic.examples:
            told = chat.say(example)
            assert not re.search("did not work|failed|I understand some", told), (example, told)
            if "1. a plot" in told:
                assert "Drew" in chat.say("a plot")
