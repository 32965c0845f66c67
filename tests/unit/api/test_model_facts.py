"""What is known of a model."""

from __future__ import annotations

from typing import Any

import pytest

from api.access.model_facts import CONTEXT_TOKENS, UNDATED, ModelFacts, facts_of


def test_the_upstreams_word_counts() -> None:
    told = {
        "created_at": "2025-09-29T00:00:00Z",
        "max_input_tokens": 1_000_000,
        "max_tokens": 64_000,
        "capabilities": {"image_input": {"supported": False}, "pdf_input": {"supported": True}},
    }
    assert facts_of("claude-x", told) == ModelFacts(
        1_759_104_000, 1_000_000, 64_000, takes_images=False, takes_documents=True
    )


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        {"created_at": 5, "max_input_tokens": "many", "max_tokens": -1, "capabilities": []},
        {"max_input_tokens": True, "max_tokens": 2**60, "capabilities": {"image_input": 1}},
        {"created_at": "yesterday", "max_tokens": 1.5},
    ],
)
def test_what_it_does_not_say_has_a_default(told: dict[str, Any] | None) -> None:
    assert facts_of("claude-x", told) == ModelFacts(UNDATED, CONTEXT_TOKENS)
    assert facts_of("claude-x-20250929", told).created == 1_759_104_000
