"""The application: routes, error answers, and the layers around them. No I/O happens here."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from api.deps import ApiDeps
from api.errors import error_response, routing_error
from api.http.auth import without_key
from api.http.cross_origin import CrossOrigin
from api.http.edge import Edge
from api.http.files_host import FilesHost
from api.http.hot_route import HotEndpoint, HotRoute
from api.routes.artifacts import artifact_routes
from api.routes.chat import PATHS, ChatCompletions, chat_routes
from api.routes.completions import completion_routes
from api.routes.files import file_routes
from api.routes.health import health_routes
from api.routes.manual import POLICY, as_page
from api.routes.models import model_routes
from api.routes.openapi import document
from api.routes.registry import registry_routes
from api.routes.sessions import session_routes
from api.routes.uploads import upload_routes
from infra.wire.base import VERSION
from infra.wire.errors import AgClusterError, RequestRefused


def create_app(deps: ApiDeps) -> ASGIApp:
    """The API of one replica. `api.main` runs its background loops."""
    settings = deps.settings
    chat = ChatCompletions(deps)
    hot: ASGIApp
    hot = edge = Edge(
        HotEndpoint(chat.create_chat_completion, path=PATHS[0]),
        max_body_bytes=settings.max_body_bytes,
        requests_max=settings.requests_max,
        bodies_max_bytes=settings.bodies_max_bytes,
        file_max_bytes=settings.file_max_bytes,
    )
    framework = _framework(deps, chat)
    # The last one that is added is the outermost.
    framework.add_middleware(edge.around)
    if settings.cors_origins:
        framework.add_middleware(CrossOrigin, allow_origins=settings.cors_origins)
        hot = CrossOrigin(edge, allow_origins=settings.cors_origins)
    app: ASGIApp = HotRoute(hot, framework, paths=PATHS)
    if settings.files_url is not None:
        app = FilesHost(app, files_url=settings.files_url)
    return app


def _framework(deps: ApiDeps, chat: ChatCompletions) -> FastAPI:
    """All routes, and the document about them."""
    app = FastAPI(
        title="AgCluster",
        version=VERSION,
        description="An OpenAI-compatible API in front of the Claude Agent SDK.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(chat_routes(chat, max_header_chars=deps.settings.max_header_chars))
    app.include_router(completion_routes(deps))
    # Before the sessions, whose names may contain slashes.
    app.include_router(artifact_routes(deps))
    app.include_router(session_routes(deps))
    app.include_router(file_routes(deps))
    app.include_router(upload_routes(deps))
    app.include_router(model_routes(deps))
    app.include_router(registry_routes(deps))
    app.include_router(health_routes(deps))
    if deps.settings.a2a:
        # Its package is an extra, and loads in a tenth of a second.
        from api.routes.a2a import a2a_routes

        app.include_router(a2a_routes(deps))
    app.add_exception_handler(AgClusterError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(RequestValidationError, _refuse_fields)

    @app.get("/docs", include_in_schema=False)
    async def manual() -> HTMLResponse:
        """The same document, to read."""
        return HTMLResponse(as_page(document(app)), headers={"content-security-policy": POLICY})

    app.openapi = lambda: document(app)  # type: ignore[method-assign]  # FastAPI's own way
    return app


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, AgClusterError)
    return error_response(error)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = without_key(request.url.path, request.headers)
    return routing_error(error.status_code, request.method, path, error.headers or {})


async def _refuse_fields(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(RequestRefused(str(error.errors()[0]["msg"])))
