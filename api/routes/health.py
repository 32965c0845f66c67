"""Health of the deployment for people, and of this process for supervisors and load balancers."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Response

from api.deps import ApiDeps
from api.routes.openapi import OPEN, Responses, errors
from api.routes.shapes import Health
from infra.store.placement.workers import WorkerRecord
from infra.wire.base import VERSION
from infra.wire.errors import StoreUnavailable
from infra.wire.model.upstream_cause import UpstreamCause
from infra.wire.text.words import WHY_AWAY

WORKERS_AWAY_S = 30.0
"""Seconds that a replica stays ready after it last saw a ready worker. While a worker is replaced,
turns wait for the next one and everything else is served. If replicas were not ready, load
balancers would remove all of them at once."""


class HealthCheck:
    """What this replica sees of the deployment."""

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._worker_seen_s: float | None = None
        """When a worker was last ready."""

    async def look(self) -> Health:
        """The state now. A Redis that cannot be reached is a state, not an error."""
        has_redis, workers, upstream = True, 0, "unknown"
        try:
            alive = await self._deps.workers.alive()
            workers = sum(worker.state == "ready" for worker in alive)
            upstream = _upstream(alive)
        except StoreUnavailable:
            has_redis = False
        if workers:
            self._worker_seen_s = self._deps.clock.monotonic()
        return Health.model_validate(
            {
                "status": self._status(has_redis=has_redis, workers=workers, upstream=upstream),
                "version": VERSION,
                "agent_image": self._deps.settings.agent_image,
                "workers": workers,
                "redis": "ok" if has_redis else "unavailable",
                "upstream": upstream,
            }
        )

    def is_ready(self, found: Health) -> bool:
        """Whether to send traffic here. Without a worker only for a while: the next may follow.

        Without the model's service too: it is away from all replicas, and a turn says so.
        """
        if found.status == "degraded" and found.workers:
            return True
        if found.status != "degraded" or self._worker_seen_s is None:
            return found.status == "healthy"
        return self._deps.clock.monotonic() < self._worker_seen_s + WORKERS_AWAY_S

    def _status(self, *, has_redis: bool, workers: int, upstream: str) -> str:
        if not has_redis:
            return "unhealthy"
        if self._deps.drain.is_draining:
            return "draining"
        return "healthy" if workers and upstream in ("ok", "unknown") else "degraded"


def _upstream(alive: Sequence[WorkerRecord]) -> str:
    """What workers' gateways say of the model's service. It is away if it is for all that know."""
    known = {worker.upstream for worker in alive if worker.upstream}
    if not known or "ok" in known:
        return "ok" if known else "unknown"
    host, _, cause = min(known).partition(" ")
    known_causes = {known_cause.value: known_cause for known_cause in UpstreamCause}
    return f"{host}: {WHY_AWAY[known_causes.get(cause, UpstreamCause.BROKEN)]}"


def health_routes(deps: ApiDeps) -> APIRouter:
    """`/health`, `/health/live`, `/health/ready`, and a pointer at `/`."""
    router = APIRouter(tags=["health"])
    away: Responses = {**errors(is_keyed=False), 503: {"model": Health}}
    check = HealthCheck(deps)

    @router.get("/health", responses=away, openapi_extra=OPEN)
    async def health(response: Response) -> Health:
        """The state of the deployment: `degraded` without workers or the model's service, 503
        without Redis."""
        found = await check.look()
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
        found = await check.look()
        response.status_code = 200 if check.is_ready(found) else 503
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
            "docs": "/docs",
        }

    return router
