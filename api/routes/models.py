"""`GET /v1/models`: with a key the models that it may use, without a key those of the settings."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.access.model_facts import UNDATED, ModelFacts
from api.deps import ApiDeps
from api.http.auth import without_key
from api.routes.openapi import OPEN_OR_KEYED, errors
from api.routes.shapes import Model, ModelArchitecture, ModelList, ModelProvider
from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import ErrorCode, RequestRefused


def _model(name: str, facts: ModelFacts) -> Model:
    modalities = [
        "text",
        *(["image"] if facts.takes_images else []),
        *(["file"] if facts.takes_documents else []),
    ]
    return Model(
        id=name,
        created=facts.created,
        context_length=facts.context_tokens,
        context_window=facts.context_tokens,
        max_model_len=facts.context_tokens,
        max_output_tokens=facts.output_tokens,
        architecture=ModelArchitecture(input_modalities=modalities),
        top_provider=ModelProvider(
            context_length=facts.context_tokens, max_completion_tokens=facts.output_tokens
        ),
        supported_parameters=SUPPORTED,
    )


def _agent(name: str, profile: AgentProfile, facts: ModelFacts) -> Model:
    """An agent reads and writes what its model does."""
    own = {
        "created": UNDATED,
        "owned_by": "agcluster",
        "description": profile.description or None,
        "icon": profile.icon,
        "url": profile.url,
    }
    return _model(name, facts).model_copy(update=own)


SUPPORTED = [
    "max_completion_tokens", "max_tokens", "reasoning", "reasoning_effort", "response_format",
    "stop", "structured_outputs", "tool_choice", "tools", "verbosity",
]  # fmt: skip
"""Parameters that count, in OpenRouter's words."""


def model_routes(deps: ApiDeps) -> APIRouter:
    """With and without `/v1`."""
    router = APIRouter(tags=["models"])

    async def list_models(request: Request) -> ModelList:
        """All models, aliases, utility models and agents. With a key also the models that the
        upstream lists for it; a key that the upstream refuses is 401."""
        caller = await deps.admission.greet(request)
        offered = await deps.catalog.offered(caller)
        names = deps.agents.offered(caller)
        found = [(name, await deps.agents.found(name, caller)) for name in names]
        agents = [
            _agent(name, one[0], offered.get(one[1]) or deps.catalog.facts(one[1]))
            for name, one in found
            if one is not None
        ]
        # Models first: some clients begin with the first one of a list.
        return ModelList(data=[*(_model(id, facts) for id, facts in offered.items()), *agents])

    async def get_model(request: Request, model_id: str) -> Model:
        """One agent, model or alias, in any form in which it can be requested."""
        caller = await deps.admission.greet(request)
        offered = await deps.catalog.offered(caller)
        if (found := await deps.agents.found(model_id, caller)) is not None:
            agent, model = found
            return _agent(model_id, agent, offered.get(model) or deps.catalog.facts(model))
        if model_id in offered:
            return _model(model_id, offered[model_id])
        meant = await deps.catalog.resolve(model_id, caller)
        if meant is None:
            raise RequestRefused(
                f"The model `{without_key(model_id, request.headers)[:200]}` does not exist.",
                code=ErrorCode.MODEL_NOT_FOUND,
                param="model",
            )
        return _model(model_id, offered.get(meant) or deps.catalog.facts(meant))

    for prefix, in_schema in (("/v1", True), ("", False)):
        router.add_api_route(
            f"{prefix}/models",
            list_models,
            response_model_exclude_none=True,
            include_in_schema=in_schema,
            responses=errors(),
            openapi_extra=OPEN_OR_KEYED,
        )
        router.add_api_route(
            f"{prefix}/models/{{model_id:path}}",
            get_model,
            response_model_exclude_none=True,
            include_in_schema=in_schema,
            responses=errors(404),
            openapi_extra=OPEN_OR_KEYED,
        )
    return router
