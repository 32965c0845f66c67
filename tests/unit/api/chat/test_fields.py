"""Every field that OpenAI's own package can send has its place in `api.chat.fields`, and keeps to
it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import typing_extensions
from openai.types.chat import completion_create_params as params

from api.chat.fields import HONOURED, IGNORED_INSIDE, IGNORED_PARAMETERS, OTHERS, REFUSED
from api.chat.request import ChatRequest, read_chat_request
from infra.wire.errors import RequestRefused

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
IGNORED = IGNORED_PARAMETERS | IGNORED_INSIDE


def fields_of(shape: Any, path: str = "") -> Iterator[str]:
    """All fields of a type of requests, in OpenAI's notation."""
    if is_typeddict(shape) or typing_extensions.is_typeddict(shape):
        for name, kind in get_type_hints(shape).items():
            inside = f"{path}.{name}" if path else name
            yield inside
            yield from fields_of(kind, inside)
        return
    origin = get_origin(shape)
    is_list = isinstance(origin, type) and not issubclass(origin, str) and origin is not dict
    for kind in get_args(shape):
        yield from fields_of(kind, f"{path}[]" if is_list and hasattr(origin, "__iter__") else path)


def known_fields() -> set[str]:
    asked = (params.CompletionCreateParamsNonStreaming, params.CompletionCreateParamsStreaming)
    return {field for shape in asked for field in fields_of(shape)}


def holders_of(field: str) -> Iterator[str]:
    """The field itself, and all fields that it is inside of."""
    parts = field.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        yield name
        yield name.removesuffix("[]")


def test_every_field_of_openais_package_is_honoured_refused_or_listed_as_ignored() -> None:
    """`prompt_cache_options` came with a new version, and no list knew of it."""
    known = known_fields()
    assert {"messages[].content[].image_url.detail", "stream_options.include_usage"} <= known
    placed = HONOURED | REFUSED | IGNORED
    alone = HONOURED | {"messages[]", "messages[].content[]"}
    missing = {
        field
        for field in known
        if field not in placed and not set(holders_of(field)) & (placed - alone)
    }
    assert missing == set()


def test_no_list_names_a_field_that_openai_does_not_have() -> None:
    gone = (HONOURED | REFUSED | IGNORED) - known_fields()
    assert gone == set()


def test_lists_do_not_overlap() -> None:
    assert not HONOURED & REFUSED
    assert not (HONOURED | REFUSED) & IGNORED


def test_every_typed_field_has_its_place() -> None:
    top = {field for field in HONOURED | REFUSED if "." not in field}
    assert set(ChatRequest.__struct_fields__) <= top | IGNORED_PARAMETERS | OTHERS


RANGES = {
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_logprobs": (0, 20),
    "max_tokens": (1, math.inf),
    "max_completion_tokens": (1, math.inf),
    "n": (1, 1),
}


@pytest.mark.parametrize("name", RANGES)
def test_number_out_of_openais_range_is_refused(name: str) -> None:
    low, high = RANGES[name]
    assert read_chat_request(asked(**{name: low})).model == "m"
    beyond = [low - 1] if math.isinf(high) else [low - 1, high + 1]
    for value in [*beyond, str(low), True]:
        assert refused(**{name: value}).param == name


@pytest.mark.parametrize("name", ["max_tokens", "seed", "top_logprobs"])
def test_whole_number_may_be_written_with_a_point_but_not_be_between_two(name: str) -> None:
    assert read_chat_request(asked(**{name: 5.0})).model == "m"
    assert refused(**{name: 5.5}).param == name


@pytest.mark.parametrize(("bias", "is_good"), [(100, True), (-100, True), (101, False)])
def test_bias_is_as_large_as_openai_lets_it_be(bias: int, is_good: bool) -> None:
    if is_good:
        read_chat_request(asked(logit_bias={"5": bias}))
    else:
        assert str(refused(logit_bias={"5": bias}).param).startswith("logit_bias")


def asked(**more: Any) -> bytes:
    return json.dumps(GOOD | more).encode()


def refused(**more: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as error:
        read_chat_request(asked(**more))
    return error.value
