"""Reads how much the model thinks, and where and how the answer ends. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from api.chat.request import ChatRequest
from infra.wire.errors import RequestRefused
from infra.wire.options import Effort, Verbosity

STOPS_MAX = 4
STOP_MAX_CHARS = 256

E = TypeVar("E", bound=StrEnum)


def read_effort(chat: ChatRequest) -> Effort | None:
    """`reasoning_effort`, or `reasoning.effort`. Raises `RequestRefused` for another value."""
    if chat.reasoning_effort is not None:
        return _chosen(Effort, chat.reasoning_effort, "reasoning_effort")
    told = chat.reasoning_told
    if told.get("enabled") is False:
        return Effort.NONE
    return _chosen(Effort, told.get("effort"), "reasoning.effort")


def read_verbosity(chat: ChatRequest) -> Verbosity | None:
    """Raises `RequestRefused` for another value."""
    return _chosen(Verbosity, chat.verbosity, "verbosity")


def read_stop(chat: ChatRequest) -> tuple[str, ...]:
    """The sequences before which the answer ends. Raises `RequestRefused`."""
    stops = chat.stops
    if len(stops) > STOPS_MAX:
        raise RequestRefused(f"`stop` names more than {STOPS_MAX} sequences.", param="stop")
    if not all(stops):
        raise RequestRefused("`stop` names an empty sequence.", param="stop")
    if any(len(stop) > STOP_MAX_CHARS for stop in stops):
        message = f"A sequence of `stop` is longer than {STOP_MAX_CHARS} characters."
        raise RequestRefused(message, param="stop")
    return stops


def _chosen(kind: type[E], told: object, field: str) -> E | None:
    if told is None:
        return None
    if isinstance(told, str) and told in set(kind):
        return kind(told)
    raise RequestRefused(f"`{field}` must be one of {', '.join(kind)}.", param=field)
