"""A turn's events become updates, and a task is the sum of them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

from a2a.types import TaskState
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from api.a2a.growing import GrowingTask
from api.a2a.updates import TaskDisplay, TaskNames, TurnUpdates, task_of
from api.files.links import FileLinks
from infra.runtime.links import LinkSigner
from infra.wire.events import (
    Artifact,
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    TurnEnded,
    TurnFiles,
    encode_event,
)
from infra.wire.ids import FileId, TurnId
from infra.wire.states import TurnState

ROOT = Path(__file__).parents[4]
TURN = TurnId("turn_" + "0" * 32)
LINKS = FileLinks(LinkSigner([b"a secret for links, long enough"]), base_url=None)
NAMES = TaskNames("task-1", "ctx-1", TaskDisplay("http://here"), LINKS)
EVENTS: list[Event] = [
    TextDelta(text="I look \ud83d"),
    TextDelta(text="\ude00. "),
    ThinkingDelta(text="hm"),
    ToolCall(id="1", name="Bash", summary="ls"),
    Notice(text="Retrying."),
    TextDelta(text="Done."),
    TurnEnded(state=TurnState.DONE),
]


@given(st.sets(st.integers(1, len(EVENTS) - 1)))
def test_a_task_is_the_same_however_its_events_arrive(cuts: set[int]) -> None:
    growing = GrowingTask(task_of(NAMES, TurnState.RUNNING, at_ms=0))
    updates = TurnUpdates(TURN, NAMES)
    payloads = [encode_event(event) for event in EVENTS]
    for start, end in itertools.pairwise([0, *sorted(cuts), len(EVENTS)]):
        growing.add(updates.of(payloads[start:end], first=start + 1, at_ms=0))
    task = growing.told()
    assert updates.is_ended
    [answer] = task.artifacts
    assert [part.text for part in answer.parts] == ["I look 😀. Done."]
    assert task.status.state == TaskState.TASK_STATE_COMPLETED


def test_what_is_broken_in_the_middle_of_a_character_can_be_sent() -> None:
    updates = TurnUpdates(TURN, NAMES)
    end = TurnEnded(state=TurnState.DONE)
    told = updates.of(
        [encode_event(TextDelta(text="x\ud83d")), encode_event(end)], first=1, at_ms=0
    )
    assert told[0].artifact_update.artifact.parts[0].text == "x\ufffd"


def test_a_file_has_an_address_even_where_nothing_is_signed() -> None:
    file = FileId("file-" + "0" * 32)
    made = Artifact(
        file=file, path="outputs/a.csv", bytes=3, media_type="text/csv", expires_ms=2000
    )
    end = TurnEnded(
        state=TurnState.DONE, made=TurnFiles(files=(made,), not_kept=("core (too large)",))
    )
    shown, status = TurnUpdates(TURN, NAMES).of([encode_event(end)], first=1, at_ms=0)
    artifact = shown.artifact_update.artifact
    assert (artifact.artifact_id, artifact.name) == (file, "outputs/a.csv")
    assert artifact.parts[0].url == f"http://here/v1/files/{file}/content"
    assert artifact.parts[0].filename == "a.csv"
    assert MessageToDict(status.status_update.metadata)["notKept"] == ["core (too large)"]


def test_an_event_of_a_later_version_is_skipped() -> None:
    assert not TurnUpdates(TURN, NAMES).of([b'{"type":"later"}'], first=1, at_ms=0)


GROWS = """
import resource
from tests.unit.api.a2a.test_updates import *
growing, updates = GrowingTask(task_of(NAMES, TurnState.RUNNING, at_ms=0)), TurnUpdates(TURN, NAMES)
delta = encode_event(TextDelta(text="twenty characters ok"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(20_000):
    growing.add(updates.of([delta], first=n + 1, at_ms=0))
assert len(growing.told().artifacts[0].parts[0].text) == 400_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_long_answer_takes_memory_for_its_length_not_its_square() -> None:
    """It took 3.9 GB."""
    done = subprocess.run(
        [sys.executable, "-c", GROWS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000, "KiB"
