"""Health of the deployment for people, and of this process for supervisors and load balancers."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.deps import ApiDeps
from api.routes.openapi import OPEN, Responses, errors
from api.routes.shapes import Health
from infra.wire.base import VERSION
from infra.wire.errors import StoreUnavailable

WORKERS_AWAY_S = 30.0
"""Seconds that a replica stays ready after it last saw a ready worker. While a worker is replaced,
turns wait for the next one and everything else is served. If replicas were not ready, load
balancers would remove all of them at once."""


def health_routes(deps: ApiDeps) -> APIRouter:
    """`/health`, `/health/live`, `/health/ready`, and a pointer at `/`."""
    router = APIRouter(tags=["health"])
    away: Responses = {**errors(is_keyed=False), 503: {"model": Health}}
    seen_s: float | None = None

    async def look() -> Health:
        nonlocal seen_s
        redis, workers = True, 0
        try:
            workers = len([w for w in await deps.workers.alive() if w.state == "ready"])
        except StoreUnavailable:
            redis = False
        if workers:
            seen_s = deps.clock.monotonic()
        if not redis:
            status = "unhealthy"
        elif deps.drain.is_draining:
            status = "draining"
        else:
            status = "healthy" if workers else "degraded"
        return Health.model_validate(
            {
                "status": status,
                "version": VERSION,
                "agent_image": deps.settings.agent_image,
                "workers": workers,
                "redis": "ok" if redis else "unavailable",
            }
        )

    def is_between() -> bool:
        """Whether a worker was ready a moment ago, so that the next one may follow."""
        return seen_s is not None and deps.clock.monotonic() < seen_s + WORKERS_AWAY_S

    @router.get("/health", responses=away, openapi_extra=OPEN)
    async def health(response: Response) -> Health:
        """The state of the deployment: `degraded` without workers, 503 without Redis."""
        found = await look()
        response.status_code = 503 if found.status == "unhealthy" else 200
        return found

    @router.get("/health/live", responses=errors(is_keyed=False), openapi_extra=OPEN)
    async def live() -> dict[str, str]:
        """This process answers."""
        return {"status": "alive"}

    @router.get("/health/ready", responses=away, openapi_extra=OPEN)
    async def ready(response: Response) -> Health:
        """Whether to send traffic here: Redis answers, a worker is ready or was half a minute ago,
        and no shutdown has begun."""
        found = await look()
        is_ready = found.status == "healthy" or (found.status == "degraded" and is_between())
        response.status_code = 200 if is_ready else 503
        return found

    @router.get("/", include_in_schema=False)
    async def root() -> dict[str, str]:
        return {
            "name": "AgCluster",
            "version": VERSION,
            "chat": "/v1/chat/completions",
            "models": "/v1/models",
            "health": "/health",
            "openapi": "/openapi.json",
        }

    return router
