"""`GET /v1/models`: from the settings alone, so a list costs nothing and needs no key."""

from __future__ import annotations

import calendar
import re
import time

from fastapi import APIRouter

from api.deps import ApiDeps
from api.models import Model, ModelList
from api.openapi import OPEN, errors
from infra.wire.errors import ErrorCode, RequestRefused

_DATED = re.compile(r"-(20\d{2})(\d{2})(\d{2})$")
_UNDATED = 1_735_689_600
"""2025-01-01, for models whose id holds no date."""


def model_routes(deps: ApiDeps) -> APIRouter:
    """With and without `/v1`."""
    router = APIRouter(tags=["models"])
    settings = deps.settings
    models = {
        name: Model(id=name, created=created_of(settings.resolve_model(name) or name))
        for name in (*settings.models, *settings.model_aliases, *settings.utility_models)
    }

    async def list_models() -> ModelList:
        """All models, aliases and utility models."""
        return ModelList(data=list(models.values()))

    async def get_model(model_id: str) -> Model:
        """One model or alias."""
        if model_id not in models:
            raise RequestRefused(
                f"The model `{model_id[:200]}` does not exist.",
                code=ErrorCode.MODEL_NOT_FOUND,
                param="model",
            )
        return models[model_id]

    for prefix, in_schema in (("/v1", True), ("", False)):
        router.add_api_route(
            f"{prefix}/models",
            list_models,
            include_in_schema=in_schema,
            responses=errors(is_keyed=False),
            openapi_extra=OPEN,
        )
        router.add_api_route(
            f"{prefix}/models/{{model_id:path}}",
            get_model,
            include_in_schema=in_schema,
            responses=errors(404, is_keyed=False),
            openapi_extra=OPEN,
        )
    return router


def created_of(model: str) -> int:
    """When the model appeared, by the date in its id (Unix seconds)."""
    if dated := _DATED.search(model):
        try:
            return calendar.timegm(time.strptime("".join(dated.groups()), "%Y%m%d"))
        except ValueError:
            pass  # Digits that are no date.
    return _UNDATED
