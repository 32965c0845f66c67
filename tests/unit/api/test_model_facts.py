"""What is known of a model."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.access.catalog import ModelCatalog
from api.access.model_facts import CONTEXT_TOKENS, UNDATED, ModelFacts, facts_of, with_told
from infra.runtime.settings import Settings, SettingsRefused, ToldModel, load_settings
from tests.fakes.manual_clock import ManualClock


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


def test_an_operators_word_counts_more_and_leaves_the_rest() -> None:
    facts = facts_of("m", {"max_input_tokens": 1000, "max_tokens": 100})
    told = ToldModel(context_tokens=131_072, images=False)
    said = with_told(facts, told)
    assert (said.context_tokens, said.output_tokens) == (131_072, 100)
    assert (said.takes_images, said.takes_documents) == (False, True)
    assert with_told(facts, None) == facts


@pytest.mark.parametrize(
    "text",
    ['{"m": {"context": 5}}', '{"m": {"context_tokens": 0}}', '{"m": 5}', "[]", "m=5"],
)
def test_an_operators_mistake_is_named(text: str) -> None:
    with pytest.raises(SettingsRefused):
        load_settings({"AGCLUSTER_MODEL_FACTS": text}, env_file=None)
    good = '{"m": {"output_tokens": 5}}'
    read: Settings = load_settings({"AGCLUSTER_MODEL_FACTS": good}, env_file=None)
    assert read.model_facts["m"].output_tokens == 5


async def test_the_catalog_says_it_of_a_model_and_of_its_other_names() -> None:
    told = {"model_facts": {"m": {"context_tokens": 5}}, "models": ["m"], "upstream_models": False}
    more = {"model_aliases": {"mine": "m"}, "utility_models": {}}
    settings = Settings.model_validate(told | more)
    async with httpx.AsyncClient() as upstream:
        offered = await ModelCatalog(settings, upstream, ManualClock()).offered(None)
    assert {name: facts.context_tokens for name, facts in offered.items()} == {"m": 5, "mine": 5}
