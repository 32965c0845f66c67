"""OpenAI's messages become what an agent is told."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from api.chat.messages.attached import NamedFiles
from api.chat.messages.prompt import read_messages
from api.chat.request import read_chat_request
from api.turns.ask import Prompt
from infra.wire.errors import RequestRefused
from infra.wire.history.decision import GO_ON, digest
from infra.wire.turns import DocumentBlock, FileBlock, HistoryMessage, ImageBlock, TextBlock

PIXEL = base64.b64encode(b"pixel").decode()
PNG = f"data:image/png;base64,{PIXEL}"


def read(*messages: dict[str, Any], files: NamedFiles | None = None) -> Prompt:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    return read_messages(read_chat_request(body).messages, files)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def refused(*messages: dict[str, Any], files: NamedFiles | None = None) -> RequestRefused:
    with pytest.raises(RequestRefused) as error:
        read(*messages, files=files)
    return error.value


def test_one_user_message_is_the_prompt() -> None:
    blocks = (TextBlock(text="hi"),)
    assert read(user("hi")) == Prompt(
        system_prompt=None,
        history=(),
        prompt=blocks,
        sent=(digest(blocks),),
        has_answers=False,
        answers=(),
    )


def test_system_and_developer_text_is_joined() -> None:
    told = read(
        {"role": "system", "content": "be brief"},
        user("hi"),
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
    )
    assert told.system_prompt == "be brief\n\nbe kind"
    assert told.prompt == (TextBlock(text="hi"),)


def test_everything_before_the_last_answer_is_history() -> None:
    told = read(user("a"), {"role": "assistant", "content": "b"}, user("c"))
    assert told.history == (
        HistoryMessage(role="user", content=(TextBlock(text="a"),)),
        HistoryMessage(role="assistant", content=(TextBlock(text="b"),)),
    )
    assert told.prompt == (TextBlock(text="c"),)


def test_all_the_user_said_since_the_last_answer_is_the_prompt() -> None:
    told = read(user("a"), {"role": "assistant", "content": "b"}, user("c"), user("d"))
    assert told.prompt == (TextBlock(text="c"), TextBlock(text="d"))
    assert len(told.history) == 2


def test_empty_answer_of_a_stopped_turn_ends_it_all_the_same() -> None:
    told = read(user("a"), {"role": "assistant", "content": ""}, user("b"))
    assert told.history == (HistoryMessage(role="user", content=(TextBlock(text="a"),)),)
    assert told.prompt == (TextBlock(text="b"),)
    assert told.sent == (digest([TextBlock(text="a")]), digest([TextBlock(text="b")]))
    assert told.answers == ("",)
    assert told.has_answers


def test_what_the_user_said_between_two_answers_is_one_turn_with_one_digest() -> None:
    """A prompt that was accepted must look the same when it comes back as history."""
    answer = {"role": "assistant", "content": "one"}
    first = read(user("a"), {"role": "system", "content": "s"}, user("b"))
    again = read(user("a"), user("b"), answer, {"role": "assistant", "content": "two"}, user("c"))
    assert first.sent == (digest(first.prompt),)
    assert again.sent == (*first.sent, digest(again.prompt))
    assert again.answers == ("onetwo",)
    assert not first.has_answers


def test_greeting_before_the_first_question_belongs_to_no_turn() -> None:
    told = read({"role": "assistant", "content": "Welcome!"}, user("a"))
    assert told.sent == (digest(told.prompt),)
    assert told.answers == ()
    assert told.has_answers


def test_tool_calls_and_results_become_text() -> None:
    told = read(
        user("weather?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "get", "arguments": '{"c": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
        user("thanks"),
    )
    texts = [b.text for m in told.history for b in m.content if isinstance(b, TextBlock)]
    assert texts == ["weather?", '[Called get with {"c": 1}]', "[Result of 1]", "sunny", "Sunny."]


def test_tool_result_may_be_the_last_message() -> None:
    told = read(
        user("x"),
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "function", "name": "f", "content": "42"},
    )
    assert told.prompt == (TextBlock(text="[Result of f]"), TextBlock(text="42"))


def test_inline_picture_is_an_image() -> None:
    part = {"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}}
    told = read(user([{"type": "text", "text": "see"}, part]))
    assert told.prompt[1] == ImageBlock(media_type="image/png", data=PIXEL)


def test_pdf_is_a_document() -> None:
    file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}"}
    told = read(user([{"type": "file", "file": file}]))
    assert told.prompt == (
        DocumentBlock(media_type="application/pdf", data=PIXEL, filename="a.pdf"),
    )


FILES: list[tuple[str | None, str, str]] = [
    ("größe.txt", "data:text/plain;base64,{}", "text/plain"),
    ("a.docx", "data:application/msword;base64,{}", "application/msword"),
    ("a.xml", "data:application/xml;base64,{}", "application/xml"),
    ("../a.py", "data:text/x-python;base64,{}", "text/x-python"),
    (None, "data:application/octet-stream;base64,{}", "application/octet-stream"),
    ("a.csv", "{}", ""),
    (None, "data:no type at all;base64,{}", ""),
]


@pytest.mark.parametrize(("filename", "url", "media_type"), FILES)
def test_a_file_of_any_type_is_taken(filename: str | None, url: str, media_type: str) -> None:
    content = "größe\0".encode()
    data = base64.b64encode(content).decode()
    file = {"filename": filename, "file_data": url.format(data)}
    block = FileBlock(
        media_type=media_type,
        bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        filename=filename,
        data=data,
    )
    for part in ({"type": "file", "file": file}, {"type": "input_file", **file}):
        assert read(user([part])).prompt == (block,)
        # As well in the messages before, which clients send again and again.
        told = read(user([part]), {"role": "assistant", "content": "b"}, user("c"))
        assert told.history[0].content == (block,)


def test_a_sound_is_a_file() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}
    (block,) = read(user([part])).prompt
    assert isinstance(block, FileBlock)
    assert (block.filename, block.media_type) == ("recording.mp3", "audio/mpeg")
    assert (block.bytes, block.data) == (3, "AAAA")


def test_a_picture_that_no_model_sees_is_a_file() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,AAAA"}}
    (block,) = read(user([part])).prompt
    assert isinstance(block, FileBlock)
    assert block.media_type == "image/svg+xml"


def test_a_message_carries_so_many_files_and_no_more() -> None:
    files = NamedFiles({}, files_max=3)
    picture = {"type": "image_url", "image_url": {"url": PNG}}
    assert len(read(user([picture] * 3), files=files).prompt) == 3
    error = refused(user([picture] * 4), files=files)
    assert error.param == "messages[0].content[3]"
    assert "3 files" in error.message
    later = [{"role": "assistant", "content": "b"}, user("c")]
    assert len(read(user([picture] * 4), *later, files=files).history[0].content) == 4


def test_a_text_file_in_a_system_message_is_its_text() -> None:
    data = base64.b64encode(b"Be brief.").decode()
    file = {"filename": "rules.md", "file_data": f"data:text/markdown;base64,{data}"}
    told = read({"role": "system", "content": [{"type": "file", "file": file}]}, user("x"))
    assert told.system_prompt == "[File rules.md]\nBe brief."


URL = "https://example.org/a%20b.png?x=1"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "image_url", "image_url": URL},
        {"type": "input_image", "image_url": URL},
        {"type": "file", "file": {"file_data": URL}},
        {"type": "input_file", "file_url": URL},
    ],
)
def test_a_url_is_the_agents_to_fetch_where_that_is_allowed(part: dict[str, Any]) -> None:
    files = NamedFiles({}, are_urls_fetched=True)
    (block,) = read(user([part]), files=files).prompt
    assert isinstance(block, FileBlock)
    assert (block.url, block.data, block.file) == (URL, None, None)
    assert len(bytes.fromhex(block.digest)) == 32
    assert "not fetched" in refused(user([part])).message


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "HTTP://example.org/x",
        "https://user:secret@example.org/x",
        "https:///x",
        "https://example.org/ x",
        "https://example.org/\nx",
        "https://exämple.org/x y",
        f"https://example.org/{'x' * 3000}",
    ],
)
def test_a_url_has_a_plain_form(url: str) -> None:
    files = NamedFiles({}, are_urls_fetched=True)
    error = refused(user([{"type": "image_url", "image_url": {"url": url}}]), files=files)
    assert error.param == "messages[0].content[0].image_url.url"
    assert "secret" not in error.message


@pytest.mark.parametrize("scheme", ["http", "https", "file", "ftp"])
def test_picture_urls_are_never_fetched(scheme: str) -> None:
    url = f"{scheme}://169.254.169.254/x.png"
    error = refused(user([{"type": "image_url", "image_url": {"url": url}}]))
    assert error.param == "messages[0].content[0].image_url.url"
    assert "not fetched" in error.message


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (7, "messages[0].content"),
        ({"type": "text"}, "messages[0].content"),
        (["x"], "messages[0].content[0]"),
        ([{"text": "x"}], "messages[0].content[0].type"),
        ([{"type": "video"}], "messages[0].content[0].type"),
        ([{"type": "text", "text": 5}], "messages[0].content[0].text"),
        (
            [{"type": "input_audio", "input_audio": {}}],
            "messages[0].content[0].input_audio.format",
        ),
        (
            [{"type": "input_audio", "input_audio": {"format": "../x", "data": "AAAA"}}],
            "messages[0].content[0].input_audio.format",
        ),
        (
            [{"type": "input_audio", "input_audio": {"format": "wav", "data": "%"}}],
            "messages[0].content[0].input_audio.data",
        ),
        ([{"type": "image_url"}], "messages[0].content[0].image_url"),
        ([{"type": "image_url", "image_url": {}}], "messages[0].content[0].image_url.url"),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}],
            "messages[0].content[0].image_url.url",
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png,raw"}}],
            "messages[0].content[0].image_url.url",
        ),
        ([{"type": "file", "file": {"file_id": "f"}}], "messages[0].content[0].file.file_id"),
        (
            [{"type": "input_file", "file_url": "https://x/y.pdf"}],
            "messages[0].content[0].file_url",
        ),
        (
            [{"type": "file", "file": {"file_data": "https://x/y.pdf"}}],
            "messages[0].content[0].file.file_data",
        ),
        ("", "messages[0].content"),
        ("  ", "messages[0].content"),
        (None, "messages[0].content"),
        ([], "messages[0].content"),
    ],
)
def test_bad_content_is_refused_by_name(content: Any, param: str) -> None:
    assert refused(user(content)).param == param


def test_answer_sent_last_is_to_go_on() -> None:
    """The button "Continue" of a chat program."""
    told = read(user("count"), {"role": "assistant", "content": "one two"})
    assert told.history == (
        HistoryMessage(role="user", content=(TextBlock(text="count"),)),
        HistoryMessage(role="assistant", content=(TextBlock(text="one two"),)),
    )
    assert told.prompt == (TextBlock(text=GO_ON),)
    assert told.sent == (digest([TextBlock(text="count")]), digest(told.prompt))
    assert told.answers == ("one two",)


@pytest.mark.parametrize("content", ["", None, [], "  "])
def test_empty_answer_sent_last_is_only_where_it_is_wanted(content: Any) -> None:
    told = read(user("count"), {"role": "assistant", "content": content})
    assert (told.prompt, told.history) == ((TextBlock(text="count"),), ())


def test_conversation_may_begin_with_an_answer_that_is_to_go_on() -> None:
    told = read({"role": "assistant", "content": "Once upon"})
    assert told.prompt == (TextBlock(text=GO_ON),)
    assert told.history[0].role == "assistant"


def test_instructions_alone_are_the_prompt() -> None:
    alone = read({"role": "system", "content": "Summarise: a b c"})
    assert (alone.system_prompt, alone.prompt) == (None, (TextBlock(text="Summarise: a b c"),))
    two = read({"role": "system", "content": "s"}, {"role": "developer", "content": "d"})
    assert (two.system_prompt, two.prompt) == ("s", (TextBlock(text="d"),))
    assert two.sent == (digest(two.prompt),)
    assert refused({"role": "system", "content": ""}).param == "messages[0].content"


def test_pictures_have_no_place_in_a_system_message() -> None:
    """But the chat goes on: the client sends it each time."""
    part = {"type": "image_url", "image_url": {"url": PNG}}
    told = read({"role": "system", "content": [part]}, user("x"))
    assert told.system_prompt == "[Left out here: a picture or document]"


UNREADABLE: list[tuple[Any, str | None]] = [
    ({"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}, "a sound recording"),
    ({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, "a picture"),
    ({"type": "image_url"}, "a picture"),
    (
        {
            "type": "file",
            "file": {"filename": "a.docx", "file_data": "data:application/msword;base64,A"},
        },
        "the file a.docx",
    ),
    ({"type": "file", "file": {"file_id": "file-1"}}, "a file"),
    ({"type": "file", "file": 5}, "a file"),
    ({"type": "thinking", "thinking": "hm"}, None),
    ({"type": "reasoning", "text": 5}, None),
    ({"type": "video_url"}, "something of a kind that could not be read"),
    ({"type": 7}, "something of a kind that could not be read"),
    ({"type": "text", "text": 5}, "something of a kind that could not be read"),
]


@pytest.mark.parametrize(("part", "told"), UNREADABLE)
@pytest.mark.parametrize("role", ["user", "assistant", "tool", "system"])
def test_what_an_earlier_message_carries_never_ends_a_chat(
    part: Any, told: str | None, role: str
) -> None:
    """Clients resend their history: one refused upload was 400 for ever."""
    text = {"type": "text", "text": "see"}
    said = read(user("a"), {"role": role, "content": [text, part]}, user("b"))
    shown = json.dumps([m.model_dump() for m in said.history], ensure_ascii=False)
    shown += said.system_prompt or ""
    shown += "".join(block.text for block in said.prompt if isinstance(block, TextBlock))
    assert ("[Left out here: " in shown) is (told is not None)
    assert f"[Left out here: {told}]" in shown or told is None
    assert "see" in shown
    assert said.prompt[-1] == TextBlock(text="b")


@pytest.mark.parametrize("content", [7, {"type": "text"}, ["x"], [[]]])
def test_earlier_content_that_is_none_becomes_a_note(content: Any) -> None:
    said = read(user(content), {"role": "assistant", "content": "no"}, user("b"))
    assert said.history[0].content == (
        TextBlock(text="[Left out here: content that could not be read]"),
    )


@pytest.mark.parametrize("part", [part for part, _ in UNREADABLE])
def test_newest_message_is_refused_saying_what_to_change(part: Any) -> None:
    assert refused(user("a"), user([part])).param
