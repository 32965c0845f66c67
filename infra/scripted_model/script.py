"""The script language: a prompt says what the model is to answer. Pure.

A prompt is a list of steps joined by " then ". Each assistant message given since the prompt uses
up one step, so nothing about a conversation is kept; after the last step the newest tool result is
told, else the answer is "ok".

    echo TEXT                  TEXT, one delta a word
    count N                    "1 2 3 … N", one delta a number
    stream N deltas [every D ms] [of K chars] [plain]
                               N deltas, as fast as possible unless paced; each delta of a paced
                               stream is "<index>@<Unix time in ns> ", unless it is plain: then a
                               repeated request is answered with the very same words
    think TEXT => TEXT         a thinking block, then a text block
    tool bash CMD | tool read PATH | tool write PATH CONTENT | tool grep PATTERN [PATH]
    tool NAME {json}           any tool
    tools CALL ;; CALL         calls in parallel
    say TEXT + tool …          text and a call in one message
    json {…}                   a call of the tool that gives an answer in a form, with this object
    comply                     the same with an object that fits the tool's schema
    bytes N                    one delta of N characters
    sleep MS                   "slept", after that long
    assistants | history | image | model | system | toolnames | key | headers
                               facts about the request, as text
    usage IN OUT [CREATED READ]
                               "counted", with these figures as usage
    error CODE [times K] [after N] [retry-after S] [no-retry]
                               that HTTP error, for the first K tries (default: always); with
                               `after`, a 200 and an error event after N deltas; the last two add
                               headers
    drop [times K] [after N]   the connection breaks after N deltas
    hang [times K] [after N]   nothing more comes, for an hour
    maxtokens TEXT | refuse    other stop reasons
    stopreason REASON [TEXT]   any stop reason; without TEXT a message without a block
    fits N TEXT                TEXT; a request of more than N messages is refused as too long
    message JSON               a message spelled out, or a list of them, one for each attempt: see
                               `infra.scripted_model.spelled`

An answer that was cut off in mid-stream is continued by the next step or, if there is none, by the
rest of the step that was cut off.

A step that is none of these is answered "ok" (in a demo: by `demo`). A model called
`fake-error-CODE` always fails with that code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from infra.scripted_model.asked import (
    Asked,
    Prompt,
    all_said_by_person,
    asks_for_rest,
    blocks_of,
    find_prompt,
    said_since_prompt,
    texts_of,
    told_by_tool,
)
from infra.scripted_model.calls import tool_use
from infra.scripted_model.replies import (
    Block,
    Cut,
    CutKind,
    Refusal,
    Reply,
    Stop,
    Text,
    Thinking,
    Tokens,
    ToolUse,
    text,
    words,
)
from infra.scripted_model.rest import rest_of
from infra.scripted_model.samples import FORM_TOOL, form_tool, sample_of
from infra.scripted_model.spelled import spelled

Answer = Reply | Refusal

_TOLD_CHARS = 2000


def answer(asked: Asked, *, otherwise: Callable[[Asked, Prompt], Answer] | None = None) -> Answer:
    """What the model says to a request; `otherwise` answers a prompt that is not a script."""
    if fails := re.fullmatch(r"fake-error-(\d{3})", str(asked.body.get("model"))):
        return Refusal(int(fails[1]))
    prompt = find_prompt(asked.messages)
    steps = [step.strip() for step in prompt.text.split(" then ")]
    if not is_script(steps[0], asked):
        # As the real model does, where the request leaves it no choice.
        if asked.is_forced and (call := complying(asked)):
            return call
        if otherwise is not None:
            return otherwise(asked, prompt)
    if prompt.answered < len(steps):
        return act(steps[prompt.answered], asked) or text("ok")
    if asked.messages and asks_for_rest(asked.messages[-1]):
        cut = act(steps[-1], asked)
        if isinstance(cut, Reply):
            return rest_of(cut, said_since_prompt(asked.messages))
    told = told_by_tool(asked.messages[-1]) if asked.messages else None
    if told is None:
        return text("ok")
    return text(("tool error: " if told[1] else "tool said: ") + told[0][:_TOLD_CHARS])


def complying(asked: Asked) -> Reply | None:
    """An answer in the form that is asked for, if one is."""
    tool = form_tool(asked.tools)
    if tool is None:
        return None
    call = ToolUse(tool["name"], sample_of(tool.get("input_schema") or {}))
    return Reply((call,), stop=Stop.TOOL_USE)


def is_script(step: str, asked: Asked) -> bool:
    """Whether a step is in the language. Counts no attempt."""
    return act(step, replace(asked, attempt=lambda: 1)) is not None


def act(step: str, asked: Asked) -> Answer | None:
    """The answer one step asks for; None when it is not in the language."""
    verb = step.split(None, 1)[0] if step else ""
    if verb not in _VERBS:
        return None
    pattern, perform = _VERBS[verb]
    found = pattern.fullmatch(step)
    return perform(found, asked) if found else None


# --- the verbs -----------------------------------------------------------------------------------


def _echo(m: re.Match[str], asked: Asked) -> Answer:
    return text(m[1] or "")


def _count(m: re.Match[str], asked: Asked) -> Answer:
    return Reply((Text(tuple(f"{i} " for i in range(1, int(m[1]) + 1))),))


def _stream(m: re.Match[str], asked: Asked) -> Answer:
    size = int(m[3] or (0 if m[4] else 8))
    pieces = tuple(f"{i} ".rjust(size, "x") for i in range(int(m[1])))
    pace_s = float(m[2] or 0) / 1000
    return Reply((Text(pieces),), pace_s=pace_s, stamped=pace_s > 0 and not m[4])


def _think(m: re.Match[str], asked: Asked) -> Answer:
    return Reply((Thinking(words(m[1])), Text(words(m[2] or "done"))))


def _tool(m: re.Match[str], asked: Asked) -> Answer | None:
    return _calling((), [m[1]])


def _tools(m: re.Match[str], asked: Asked) -> Answer | None:
    return _calling((), m[1].split(";;"))


def _say(m: re.Match[str], asked: Asked) -> Answer | None:
    return _calling((Text(words(m[1])),), [m[2]])


def _json(m: re.Match[str], asked: Asked) -> Answer | None:
    tool = form_tool(asked.tools)
    return _calling((), [f"{tool['name'] if tool else FORM_TOOL} {m[1]}"])


def _comply(m: re.Match[str], asked: Asked) -> Answer:
    return complying(asked) or text("no form is asked for")


def _bytes(m: re.Match[str], asked: Asked) -> Answer:
    return Reply((Text(("b" * int(m[1]),)),))


def _sleep(m: re.Match[str], asked: Asked) -> Answer:
    return text("slept", wait_s=float(m[1]) / 1000)


def _history(m: re.Match[str], asked: Asked) -> Answer:
    said = [text for message in asked.messages for text in all_said_by_person(message)]
    return _fact(f"{len(asked.messages)} messages; users: {json.dumps(said)}")


def _assistants(m: re.Match[str], asked: Asked) -> Answer:
    said = [texts_of(message) for message in asked.messages if message.get("role") == "assistant"]
    return _fact(json.dumps(said))


def _image(m: re.Match[str], asked: Asked) -> Answer:
    sources = [
        block.get("source") or {}
        for message in asked.messages
        for block in blocks_of(message)
        if block.get("type") in ("image", "document")
    ]
    kinds = [f"{source.get('media_type')}:{len(source.get('data', ''))}" for source in sources]
    return _fact(f"images: {kinds}")


def _model(m: re.Match[str], asked: Asked) -> Answer:
    return _fact(str(asked.body.get("model")))


def _system(m: re.Match[str], asked: Asked) -> Answer:
    return _fact(json.dumps(asked.body.get("system"))[:_TOLD_CHARS])


def _toolnames(m: re.Match[str], asked: Asked) -> Answer:
    return _fact(" ".join(asked.tool_names))


def _key(m: re.Match[str], asked: Asked) -> Answer:
    given = asked.headers.get("x-api-key")
    return _fact(f"x-api-key={given} auth={asked.headers.get('authorization')}")


def _headers(m: re.Match[str], asked: Asked) -> Answer:
    return _fact(json.dumps(dict(asked.headers)))


def _usage(m: re.Match[str], asked: Asked) -> Answer:
    return text("counted", tokens=Tokens(*(int(n) for n in m[1].split())))


def _error(m: re.Match[str], asked: Asked) -> Answer:
    status = int(m["code"])
    if recovered := _recovered(m["times"], asked):
        return recovered
    if m["after"]:
        return _broken(Cut(CutKind.ERROR, int(m["after"]), status))
    headers = {"retry-after": m["wait"]} if m["wait"] else {}
    return Refusal(status, headers | ({"x-should-retry": "false"} if m["final"] else {}))


def _break_off(m: re.Match[str], asked: Asked) -> Answer:
    kind = CutKind(m[1])
    return _recovered(m["times"], asked) or _broken(Cut(kind, int(m["after"] or 0)))


def _maxtokens(m: re.Match[str], asked: Asked) -> Answer:
    return text(m[1], stop=Stop.MAX_TOKENS)


def _refuse(m: re.Match[str], asked: Asked) -> Answer:
    return text("no", stop=Stop.REFUSAL)


def _stopreason(m: re.Match[str], asked: Asked) -> Answer:
    return Reply((Text(words(m[2])),) if m[2] else (), stop=m[1])


def _fits(m: re.Match[str], asked: Asked) -> Answer:
    if len(asked.messages) > int(m[1]):
        return Refusal(400, {"x-should-retry": "false"})
    return text(m[2])


def _message(m: re.Match[str], asked: Asked) -> Answer | None:
    return spelled(m[1], attempt=asked.attempt)


_Verb = Callable[[re.Match[str], Asked], Answer | None]


def _verbs() -> dict[str, tuple[re.Pattern[str], _Verb]]:
    grammar: dict[str, tuple[str, _Verb]] = {
        "echo": (r"echo(?: (.*))?", _echo),
        "count": (r"count (\d+)", _count),
        "stream": (
            r"stream (\d+) deltas?(?: every ([\d.]+) ?ms)?(?: of (\d+) chars)?( plain)?",
            _stream,
        ),
        "think": (r"think (.*?) *=> *(.*)", _think),
        "tool": (r"tool (.*)", _tool),
        "tools": (r"tools (.*)", _tools),
        "say": (r"say (.*?) \+ tool (.*)", _say),
        "json": (r"json (\{.*\})", _json),
        "comply": (r"comply", _comply),
        "bytes": (r"bytes (\d+)", _bytes),
        "sleep": (r"sleep ([\d.]+)", _sleep),
        "assistants": (r"assistants", _assistants),
        "history": (r"history", _history),
        "image": (r"image", _image),
        "model": (r"model", _model),
        "system": (r"system", _system),
        "toolnames": (r"toolnames", _toolnames),
        "key": (r"key", _key),
        "headers": (r"headers", _headers),
        "usage": (r"usage (\d+ \d+(?: \d+ \d+)?)", _usage),
        "error": (
            r"error (?P<code>\d{3})(?: times (?P<times>\d+))?(?: after (?P<after>\d+))?"
            r"(?: retry-after (?P<wait>\d+))?(?P<final> no-retry)?",
            _error,
        ),
        "drop": (r"(drop)(?: times (?P<times>\d+))?(?: after (?P<after>\d+))?", _break_off),
        "hang": (r"(hang)(?: times (?P<times>\d+))?(?: after (?P<after>\d+))?", _break_off),
        "maxtokens": (r"maxtokens (.*)", _maxtokens),
        "refuse": (r"refuse", _refuse),
        "stopreason": (r"stopreason (\w+)(?: (.*))?", _stopreason),
        "fits": (r"fits (\d+) (.*)", _fits),
        "message": (r"message ([\[{].*)", _message),
    }
    return {
        verb: (re.compile(shape, re.DOTALL), perform) for verb, (shape, perform) in grammar.items()
    }


_VERBS = _verbs()


# --- small parts ---------------------------------------------------------------------------------


def _fact(told: str) -> Reply:
    """One delta: facts are compared whole."""
    return Reply((Text((told,)),))


def _recovered(times: str | None, asked: Asked) -> Reply | None:
    """The good answer once the faults asked for have been given."""
    if times is None:
        return None
    past = asked.attempt() - 1
    return text(f"recovered after {past} errors") if past >= int(times) else None


def _broken(cut: Cut) -> Reply:
    """Some words, cut off before their end."""
    return Reply((Text(tuple(f"w{i} " for i in range(cut.after + 5))),), cut=cut)


def _calling(before: tuple[Block, ...], specs: Iterable[str]) -> Reply | None:
    calls = [tool_use(spec.strip()) for spec in specs]
    made = [call for call in calls if call is not None]
    if len(made) < len(calls):
        return None
    return Reply((*before, *made), stop=Stop.TOOL_USE)
