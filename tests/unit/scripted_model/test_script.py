"""The script language: what a prompt makes the model say."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest

from infra.scripted_model.asked import Asked, find_prompt
from infra.scripted_model.replies import (
    Cut,
    CutKind,
    Refusal,
    Reply,
    Stop,
    Text,
    Thinking,
    Tokens,
    ToolUse,
    words,
)
from infra.scripted_model.samples import FORM_TOOL
from infra.scripted_model.script import Answer, answer


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def assistant(said: str = "…") -> dict[str, Any]:
    return {"role": "assistant", "content": said}


def block(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def say(
    *messages: Mapping[str, Any], headers: Mapping[str, str] | None = None, **body: Any
) -> Answer:
    counter = itertools.count(1)
    asked = Asked({"messages": messages, **body}, headers or {}, lambda: next(counter))
    return answer(asked)


def reply(prompt: str, **body: Any) -> Reply:
    said = say(user(prompt), **body)
    assert isinstance(said, Reply)
    return said


def said(prompt: str, **body: Any) -> str:
    return _text(reply(prompt, **body))


def _text(given: Answer) -> str:
    assert isinstance(given, Reply)
    return "".join("".join(b.pieces) for b in given.blocks if isinstance(b, Text))


def test_echo_gives_a_delta_a_word() -> None:
    assert reply("echo one  two three").blocks == (Text(("one", "  two", " three")),)


@pytest.mark.parametrize("text", ["", "a", " a b ", "a\nb  c\n", "x"])
def test_words_joined_are_the_text_again(text: str) -> None:
    assert "".join(words(text)) == text


def test_count_and_bytes() -> None:
    assert reply("count 3").blocks == (Text(("1 ", "2 ", "3 ")),)
    assert said("bytes 1000") == "b" * 1000


def test_streams_are_paced_and_stamped_on_request() -> None:
    fast = reply("stream 3 deltas of 10 chars")
    assert fast.blocks == (Text(("xxxxxxxx0 ", "xxxxxxxx1 ", "xxxxxxxx2 ")),)
    assert not fast.stamped
    slow = reply("stream 3 deltas every 20 ms")
    assert (slow.pace_s, slow.stamped) == (0.02, True)


def test_a_plain_stream_is_paced_and_says_the_same_again() -> None:
    plain = reply("stream 3 deltas every 20 ms plain")
    assert plain.blocks == (Text(("0 ", "1 ", "2 ")),)
    assert plain.pace_s == 0.02
    assert not plain.stamped


def test_thinking_comes_before_its_answer() -> None:
    assert reply("think hard work => the answer").blocks == (
        Thinking(("hard", " work")),
        Text(("the", " answer")),
    )


@pytest.mark.parametrize(
    ("prompt", "call"),
    [
        (
            "tool bash ls -la | wc",
            ToolUse("Bash", {"command": "ls -la | wc", "description": "scripted"}),
        ),
        ("tool read /a", ToolUse("Read", {"file_path": "/a"})),
        ("tool write /a some text", ToolUse("Write", {"file_path": "/a", "content": "some text"})),
        (
            "tool grep x /a",
            ToolUse("Grep", {"pattern": "x", "output_mode": "content", "path": "/a"}),
        ),
        ('tool Edit {"a": 1}', ToolUse("Edit", {"a": 1})),
        ('tool Bash {"command": "ls"}', ToolUse("Bash", {"command": "ls"})),
        ("tool TodoWrite", ToolUse("TodoWrite", {})),
        ('json {"a": [1]}', ToolUse(FORM_TOOL, {"a": [1]})),
    ],
)
def test_tools_are_called(prompt: str, call: ToolUse) -> None:
    assert reply(prompt) == Reply((call,), stop=Stop.TOOL_USE)


def test_calls_may_be_parallel_and_follow_words() -> None:
    both = reply("tools bash ls ;; read /a")
    assert [b.name for b in both.blocks if isinstance(b, ToolUse)] == ["Bash", "Read"]
    mixed = reply("say now look + tool bash ls")
    assert mixed.blocks[0] == Text(("now", " look"))
    assert mixed.stop is Stop.TOOL_USE


def test_each_answer_uses_up_one_step() -> None:
    script = user("echo one then echo two then tool bash ls")
    assert _text(say(script)) == "one"
    assert _text(say(script, assistant())) == "two"
    assert say(script, assistant(), assistant()) == reply("tool bash ls")
    assert _text(say(script, assistant(), assistant(), assistant())) == "ok"


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"content": "a.txt"}, "tool said: a.txt"),
        ({"content": [block("a"), {"type": "image"}]}, "tool said: a [image]"),
        ({"content": "no", "is_error": True}, "tool error: no"),
        ({}, "tool said: "),
    ],
)
def test_after_the_last_step_the_tools_result_is_told(result: dict[str, Any], told: str) -> None:
    after = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", **result}]}
    assert _text(say(user("tool bash ls"), assistant(), after)) == told


def test_the_prompt_is_what_a_person_wrote_last() -> None:
    messages = [
        user("echo old"),
        assistant(),
        user(
            block("<system-reminder>echo wrong</system-reminder>"),
            block("<system-reminder>x</system-reminder>echo new"),
            block("[Request interrupted by user]"),
        ),
    ]
    found = find_prompt(messages)
    assert (found.text, found.answered) == ("echo new", 0)


def test_facts_about_the_request() -> None:
    image = {"type": "image", "source": {"media_type": "image/png", "data": "abcd"}}
    assert said("model", model="claude-x") == "claude-x"
    assert said("system", system=[block("be nice")]) == json.dumps([block("be nice")])
    assert said("toolnames", tools=[{"name": "Bash"}, {"name": "Read"}]) == "Bash Read"
    assert _text(say(user("key"), headers={"x-api-key": "k"})) == "x-api-key=k auth=None"
    assert _text(say(user(image, block("image")))) == "images: ['image/png:4']"
    told = _text(say(user("echo a"), assistant(), user("history")))
    assert told == '3 messages; users: ["echo a", "history"]'


def test_a_prompt_without_an_answer_is_in_the_history() -> None:
    """It goes with the next one, in one message; only the newest of them is acted out."""
    told = _text(say(user(block("echo a"), block("<reminder>"), block("history"))))
    assert told == '1 messages; users: ["echo a", "history"]'


def test_usage_can_be_dictated() -> None:
    assert reply("usage 1 2 3 4").tokens == Tokens(1, 2, 3, 4)


def test_errors_are_given_as_asked() -> None:
    assert say(user("error 401")) == Refusal(401)
    assert say(user("error 429 retry-after 7 no-retry")) == Refusal(
        429, {"retry-after": "7", "x-should-retry": "false"}
    )
    assert reply("error 529 after 3").cut == Cut(CutKind.ERROR, 3, 529)
    assert reply("drop after 2").cut == Cut(CutKind.DROP, 2)
    assert reply("hang").cut == Cut(CutKind.HANG, 0)
    assert say(user("echo x"), model="fake-error-529") == Refusal(529)


def test_errors_may_pass() -> None:
    counter = itertools.count(1)
    asked = Asked({"messages": [user("error 500 times 2")]}, {}, lambda: next(counter))
    assert [answer(asked) for _ in range(2)] == [Refusal(500)] * 2
    assert _text(answer(asked)) == "recovered after 2 errors"
    counter = itertools.count(1)
    broken = Asked({"messages": [user("drop times 1 after 4")]}, {}, lambda: next(counter))
    first = answer(broken)
    assert isinstance(first, Reply)
    assert first.cut == Cut(CutKind.DROP, 4)
    assert _text(answer(broken)) == "recovered after 1 errors"


def test_other_stops() -> None:
    assert reply("maxtokens a b").stop is Stop.MAX_TOKENS
    assert reply("refuse").stop is Stop.REFUSAL


@pytest.mark.parametrize(
    "prompt",
    [
        "hello",
        "",
        "count the cows",
        "think about it",
        "tool me up",
        "error 7",
        "json {broken",
        "then",
    ],
)
def test_what_is_no_script_is_answered_ok(prompt: str) -> None:
    assert said(prompt) == "ok"


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], [{"role": "user", "content": []}], [{}]]
)
def test_odd_requests_are_answered_too(messages: list[dict[str, Any]]) -> None:
    assert _text(say(*messages)) == "ok"


def test_any_stop_reason_can_be_asked_for() -> None:
    assert reply("stopreason pause_turn a b") == Reply((Text(("a", " b")),), stop=Stop.PAUSE_TURN)
    assert reply("stopreason refusal") == Reply((), stop=Stop.REFUSAL)


def test_a_message_is_spelled_out_for_each_attempt() -> None:
    spelled = {
        "say": [
            "a b",
            ["c"],
            {"thinking": "hm"},
            {"start": "x", "text": ["y"]},
            {"tool": "bash ls"},
        ],
        "cut": {"kind": "drop", "blocks": 2},
    }
    first = reply("message " + json.dumps(spelled))
    assert first.blocks == (
        Text(("a", " b")),
        Text(("c",)),
        Thinking(("hm",)),
        Text(("y",), opening="x"),
        ToolUse("Bash", {"command": "ls", "description": "scripted"}),
    )
    assert (first.stop, first.cut) == (Stop.TOOL_USE, Cut(CutKind.DROP, blocks=2))
    several = "message " + json.dumps([spelled, {"say": ["z"]}])
    second = answer(Asked({"messages": [user(several)]}, {}, lambda: 7))
    assert _text(second) == "z"


def test_a_cut_message_is_gone_on_with_at_the_next_step() -> None:
    nudge = "Output token limit hit. Resume directly."
    told = say(user("maxtokens a then echo b"), assistant("a"), user(nudge))
    assert _text(told) == "b"


CUT_OFF = "Your response above was cut off mid-stream. Resume directly from where it stops."


def test_an_answer_that_broke_off_is_gone_on_with() -> None:
    told = say(user("count 5"), assistant("1 2 "), user(CUT_OFF))
    assert _text(told) == "3 4 5 "
    twice = say(user("count 5"), assistant("1 2 "), user(CUT_OFF), assistant("3 "), user(CUT_OFF))
    assert _text(twice) == "4 5 "
    stamped = say(user("stream 5 deltas every 1 ms"), assistant("0@17 1@18 "), user(CUT_OFF))
    assert isinstance(stamped, Reply)
    assert (stamped.first, stamped.stamped) == (2, True)
    assert len(_text(stamped).split()) == 3
    assert _text(say(user("count 5 then echo six"), assistant("1 "), user(CUT_OFF))) == "six"


def test_a_request_may_be_too_long() -> None:
    assert said("fits 1 ok then") == "ok then"
    longer = say(user("a"), assistant("b"), user("fits 2 ok"))
    assert isinstance(longer, Refusal)
    assert longer.status == 400
