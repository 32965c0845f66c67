"""What the CLI is told of the offered tools, and of calls of them."""

from __future__ import annotations

import re
from typing import Any

from agent.cli.offers import HOLD, CallReply, Hold, Offer, OfferedCall, Offers

SCHEMA = {"type": "object"}


def offer(name: str, reply: CallReply | None = None, *, description: str = "d") -> Offer:
    return Offer(name, description, SCHEMA, lambda call: reply)


def offering(*offers: Offer) -> Offers:
    all_of_them = Offers()
    all_of_them.take(offers)
    return all_of_them


async def before(offers: Offers, name: str, id: str = "toolu_1", **more: Any) -> str:
    """What the hook decides; empty for nothing."""
    (matcher,) = offers.hooks(["Bash"])["PreToolUse"]
    given = {"tool_name": name, "tool_input": {"a": 1}, **more}
    told: Any = await matcher.hooks[0](given, id, {"signal": None})  # type: ignore[arg-type]
    return str(told.get("hookSpecificOutput", {}).get("permissionDecision", ""))


async def asked(offers: Offers, method: str, **params: Any) -> Any:
    message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    answer = await offers.server().handle(message)
    assert answer is not None
    assert answer["id"] == 7
    return answer.get("result", answer.get("error"))


async def called(offers: Offers, id: str = "toolu_1") -> Any:
    return await asked(offers, "tools/call", name="go", _meta={"claudecode/toolUseId": id})


async def test_a_call_that_gets_no_reply_waits() -> None:
    offers = offering(offer("go"))
    assert await before(offers, "go") == "defer"
    assert offers.open_calls == {"toolu_1": OfferedCall("toolu_1", "go", {"a": 1})}


async def test_a_reply_is_the_result_of_the_call() -> None:
    offers = offering(offer("go", CallReply("not so")))
    assert await before(offers, "go") == ""
    assert offers.open_calls == {}
    told = await called(offers)
    assert told == {"content": [{"type": "text", "text": "not so"}], "isError": True}


async def test_a_reply_may_end_the_turn() -> None:
    offers = offering(offer("go", CallReply("thanks", is_error=False, ends_turn=True)))
    await before(offers, "go")
    told = await called(offers)
    assert (told["isError"], told["_meta"]) == (False, {"claude/endTurn": True})


async def test_a_waiting_call_that_the_cli_carries_out_anyway_is_made_again() -> None:
    """It does so with several calls in an answer that was not streamed."""
    offers = offering(offer("go"))
    await before(offers, "go")
    told = await called(offers)
    assert told["isError"]
    assert "again" in told["content"][0]["text"]
    assert offers.open_calls == {}


async def test_a_sub_agent_gets_an_error() -> None:
    offers = offering(offer("go"))
    assert await before(offers, "go", agent_id="a1") == ""
    assert offers.open_calls == {}
    assert "main agent" in (await called(offers))["content"][0]["text"]


async def test_other_tools_are_none_of_its_business() -> None:
    offers = offering(offer("go"))
    assert await before(offers, "Bash") == ""
    (matcher,) = offers.hooks(["Bash", "Read"])["PreToolUse"]
    assert matcher.matcher is not None
    assert not re.search(matcher.matcher, "Bash")
    assert not re.search(matcher.matcher, "mcp__server__tool")
    assert re.search(matcher.matcher, "BashLike")


async def test_it_speaks_as_a_tool_server() -> None:
    offers = offering(offer("go"))
    told = await asked(offers, "initialize", protocolVersion="2025-11-25")
    assert told["protocolVersion"] == "2025-11-25"
    assert [t["name"] for t in (await asked(offers, "tools/list"))["tools"]] == ["go"]
    assert await asked(offers, "ping") == {}
    assert (await asked(offers, "resources/list"))["code"] == -32601
    assert await offers.server().handle({"method": "notifications/initialized"}) is None


def test_the_cli_is_told_only_what_is_new_to_it() -> None:
    offers = Offers()
    assert not offers.take([])
    assert offers.take([offer("go")])
    assert not offers.take([offer("go", CallReply("with another judge"))])
    assert offers.take([offer("go", description="other words")])
    assert offers.take([])


async def test_a_new_turn_knows_nothing_of_the_calls_of_the_last_one() -> None:
    offers = offering(offer("go"))
    await before(offers, "go")
    offers.take([offer("go")])
    assert offers.open_calls == {}


async def test_a_gate_decides_about_every_other_call() -> None:
    offers = Offers()
    told: list[tuple[str, bool]] = []

    def gate(call: OfferedCall, is_by_helper: bool) -> Hold | str | None:
        told.append((call.name, is_by_helper))
        if call.name == "Bash":
            return HOLD
        return "not here" if call.name == "Write" else None

    offers.take([offer("go")], gate)
    assert await before(offers, "Bash") == "defer"
    assert await before(offers, "Write") == "deny"
    assert await before(offers, "Read", agent_id="a1") == ""
    assert await before(offers, "go") == "defer"
    assert told == [("Bash", False), ("Write", False), ("Read", True)]
    offers.take([])
    assert await before(offers, "Bash") == "", "the gate is the turn's"


def test_a_gate_that_fails_lets_no_call_pass() -> None:
    (matcher,) = Offers().hooks(["Bash"], has_gate=True)["PreToolUse"]
    assert (matcher.matcher, matcher.on_failure) == (None, "block")
