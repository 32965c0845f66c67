"""The models, their names and the upstream that serves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from infra.runtime.settings.types import Aliases, Names, Section, ToldModels


class ModelSettings(Section):
    """The models that callers and agents may use."""

    title: ClassVar = "Models"

    models: Names = Field(
        (
            "claude-opus-4-5-20251101",
            "claude-sonnet-4-5-20250929",
            "claude-haiku-4-5-20251001",
            "claude-opus-4-1-20250805",
        ),
        description="Model ids offered at /v1/models. If `upstream_models` is off, or only this "
        "setting is set, any other model is 404.",
    )
    upstream_models: bool = Field(
        True,
        description="Also offer the models that the upstream lists for a caller's key.",
    )
    model_aliases: Aliases = Field(
        {
            "claude-opus-4.5": "claude-opus-4-5-20251101",
            "claude-sonnet-4.5": "claude-sonnet-4-5-20250929",
            "claude-haiku-4.5": "claude-haiku-4-5-20251001",
            "claude-opus-4.1": "claude-opus-4-1-20250805",
        },
        description="Other names for models, offered in addition to them.",
    )
    utility_models: Aliases = Field(
        {"claude-utility": "claude-haiku-4-5-20251001"},
        description="Names of models for titles, tags and the like, offered in addition to the "
        "models. A request for one is a single call of the model behind the name, without an "
        "agent. If `models` lacks the default's target, the default follows `models`.",
    )
    model_facts: ToldModels = Field(
        {},
        description="What /v1/models says of models about which the upstream tells nothing, or "
        'something else, as JSON: `{"my-model": {"context_tokens": 131072, "output_tokens": 8192, '
        '"images": false, "documents": false}}`. The names are the real ids of models; what is '
        "left out stays.",
    )
    agent_models: Names = Field(
        (),
        description="Models that agents may call in addition to the requested one, also for "
        "sub-agents and small tasks. Empty: `models` and those behind utility models.",
    )
    anthropic_base_url: str = Field(
        "https://api.anthropic.com", description="The upstream: any server of the Messages API."
    )

    @field_validator("anthropic_base_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Self:
        if lost := [a for a, m in self.model_aliases.items() if m not in self.models]:
            if "model_aliases" in self.model_fields_set:
                raise ValueError(
                    f"AGCLUSTER_MODEL_ALIASES name models that are not in AGCLUSTER_MODELS: {lost}"
                )
            kept = {a: m for a, m in self.model_aliases.items() if m in self.models}
            object.__setattr__(self, "model_aliases", kept)
        return self

    @model_validator(mode="after")
    def _set_models_are_all(self) -> Self:
        if "models" in self.model_fields_set and "upstream_models" not in self.model_fields_set:
            object.__setattr__(self, "upstream_models", False)
        return self

    @model_validator(mode="after")
    def _utility_follows_models(self) -> Self:
        if "utility_models" not in self.model_fields_set and self.models:
            small = next((m for m in self.models if "haiku" in m), self.models[0])
            made = {
                name: model if model in self.models else small
                for name, model in self.utility_models.items()
            }
            object.__setattr__(self, "utility_models", made)
        return self

    def models_of_turn(self, model: str) -> tuple[str, ...]:
        """The models that a turn's agent may call: the turn's own model and the open ones."""
        return tuple(dict.fromkeys((model, *self.open_models)))

    @property
    def open_models(self) -> tuple[str, ...]:
        """The models that any agent may call."""
        small = [self.model_aliases.get(name, name) for name in self.utility_models.values()]
        return self.agent_models or tuple(dict.fromkeys((*self.models, *small)))

    @property
    def model_tiers(self) -> dict[str, str]:
        """The open model for each tier that agents can ask for."""
        return self.tiers_of(self.open_models)

    def tiers_of(self, models: Sequence[str]) -> dict[str, str]:
        """The model for each tier, of these. A tier without one gets the first; the smallest tier
        gets a utility model if there is one."""
        if not models:
            return {}
        first = models[0]
        small = next((m for m in self.utility_models.values() if m in models), first)
        return {
            tier: next((m for m in models if tier in m), instead)
            for tier, instead in (
                ("haiku", small),
                ("sonnet", first),
                ("opus", first),
                ("fable", first),
            )
        }

    def resolve_model(self, name: str) -> str | None:
        """The real id of a model, alias or utility model; None if it is not offered.

        A utility model may stand for a model that agents are not offered.
        """
        if target := self.utility_models.get(name):
            return self.model_aliases.get(target, target)
        return self.model_aliases.get(name, name if name in self.models else None)
