"""What is known of a model: when it was made, how much it reads and writes, what it takes. Pure.

From the operator's settings, then the upstream's list of models, as far as these say so; otherwise
by the kind of model.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.runtime.settings import ToldModel

UNDATED = 1_735_689_600
"""2025-01-01, for models without a known date."""
TOKENS_MAX = 2**40
CONTEXT_TOKENS = 200_000
"""What every model of the Messages API reads at least."""

_DATE = re.compile(r"-(20\d{2})(\d{2})(\d{2})$")


@dataclass(frozen=True)
class ModelFacts:
    """One model. `output_tokens` None: not known."""

    created: int
    context_tokens: int = CONTEXT_TOKENS
    output_tokens: int | None = None
    takes_images: bool = True
    takes_documents: bool = True


def facts_of(id: str, told: Mapping[str, Any] | None = None) -> ModelFacts:
    """What the upstream told of the model, and what its id says."""
    told = told or {}
    can = told.get("capabilities")
    return ModelFacts(
        created=_made(told.get("created_at"), id),
        context_tokens=_tokens(told.get("max_input_tokens")) or CONTEXT_TOKENS,
        output_tokens=_tokens(told.get("max_tokens")),
        takes_images=_can(can, "image_input"),
        takes_documents=_can(can, "pdf_input"),
    )


def with_told(facts: ModelFacts, told: ToldModel | None) -> ModelFacts:
    """The facts with what an operator says of the model in their place."""
    if told is None:
        return facts
    return ModelFacts(
        facts.created,
        told.context_tokens or facts.context_tokens,
        told.output_tokens or facts.output_tokens,
        takes_images=facts.takes_images if told.images is None else told.images,
        takes_documents=facts.takes_documents if told.documents is None else told.documents,
    )


def created_of(model: str) -> int:
    """When a model was created, according to its id."""
    dated = _DATE.search(model)
    if dated is None:
        return UNDATED
    try:
        return calendar.timegm(time.strptime("".join(dated.groups()), "%Y%m%d"))
    except ValueError:
        return UNDATED


def _made(told: object, id: str) -> int:
    try:
        made = datetime.fromisoformat(told) if isinstance(told, str) else None
    except ValueError:
        made = None
    return max(int(made.timestamp()), 0) if made is not None else created_of(id)


def _tokens(told: object) -> int | None:
    if not isinstance(told, int) or isinstance(told, bool):
        return None
    return told if 0 < told <= TOKENS_MAX else None


def _can(told: object, name: str) -> bool:
    """Whether the model takes it: yes, unless the upstream says no."""
    one = told.get(name) if isinstance(told, Mapping) else None
    return not (isinstance(one, Mapping) and one.get("supported") is False)
