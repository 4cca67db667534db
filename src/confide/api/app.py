"""The ASGI application: every route of the server in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from confide.api.attestation import AttestationRoutes, Attestor
from confide.api.auth import Doorman
from confide.api.chat import ChatLimits, InferenceRoute
from confide.api.endpoint import ENDPOINTS
from confide.api.envelope import Envelope, Proven
from confide.api.metrics import MEDIA_TYPE as METRICS_TYPE
from confide.api.page import Page
from confide.api.proof import Prover
from confide.api.respond import internal_error, store_down
from confide.api.seen import Meter, NoMeter
from confide.api.vision import ImageRules
from confide.errors import ApiError, NotFound, StoreError
from confide.route.models import ModelTable
from confide.store.receipts import ReceiptStore
from confide.wire.answers import error_body

EXPOSED: Final = (
    *("X-Request-ID", "openai-processing-ms", "Retry-After", "X-Receipt-Id", "X-ACI-Version", "X-ACI-Keyset-Digest"),
    *("X-E2EE-Applied", "X-E2EE-Version", "X-E2EE-Algo"),
)
"""Headers that scripts of other origins may read."""


@dataclass(frozen=True)
class ApiParts:
    """What the routes need."""

    models: ModelTable
    doorman: Doorman
    prover: Prover
    attestor: Attestor
    receipts: ReceiptStore
    limits: ChatLimits = field(default_factory=ChatLimits)
    images: ImageRules = field(default_factory=ImageRules)
    cors_origins: Sequence[str] = ()
    meter: Meter = field(default_factory=NoMeter)
    page: Page | None = None


def build(parts: ApiParts) -> ASGIApp:
    """The application, ready for a server."""
    models = _Models(parts.doorman, parts.models)
    inference = [
        InferenceRoute(endpoint, parts.doorman, parts.models, parts.prover, parts.limits, parts.images, parts.meter)
        for endpoint in ENDPOINTS
    ]
    routes = Starlette(
        routes=[
            *(Route(route.path, route, methods=["POST"]) for route in inference),
            Route("/v1/models", models.list, methods=["GET"]),
            Route("/v1/models/{id:path}", models.one, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            *AttestationRoutes(parts.doorman, parts.attestor, parts.receipts, parts.prover.older()).table(),
            *(parts.page.table() if parts.page else ()),
        ],
        exception_handlers=_HANDLERS | {StoreError: _StoreErrors(parts.meter).answer},
    )
    routes.router.redirect_slashes = False
    app: ASGIApp = Envelope(Front(inference, routes))
    if parts.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=parts.cors_origins,
            allow_methods=["GET", "POST", "OPTIONS"],
            allow_headers=["*"],  # Starlette answers with the names that were asked for, authorization included
            expose_headers=EXPOSED,
            max_age=600,
        )
    return Proven(app, parts.prover.headers)


def build_metrics(text: Callable[[], bytes], doorman: Doorman) -> ASGIApp:
    """What listens on the address of the metrics: ``GET /metrics``, and nothing else."""

    async def metrics(request: Request) -> Response:
        doorman.caller(request.headers)
        return Response(text(), media_type=METRICS_TYPE)

    routes = Starlette(routes=[Route("/metrics", metrics, methods=["GET"])], exception_handlers=_HANDLERS)
    return Envelope(routes)


class Front:
    """Takes requests with a prompt straight to their route. Starlette's layers and its table cost a sixth of all that
    a small request does; they stay for the other routes, and for other methods on the same paths."""

    def __init__(self, inference: Sequence[InferenceRoute], others: ASGIApp) -> None:
        self._inference = {route.path: route for route in inference}
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        route = self._inference.get(scope["path"]) if scope["method"] == "POST" else None
        if route is None:
            await self._others(scope, receive, send)
        else:
            scope["endpoint"] = route
            await route(scope, receive, send)


class _Models:
    def __init__(self, doorman: Doorman, models: ModelTable) -> None:
        self._doorman = doorman
        self._models = models

    async def list(self, request: Request) -> Response:
        self._doorman.caller(request.headers)
        return Response(self._models.document, media_type="application/json")

    async def one(self, request: Request) -> Response:
        self._doorman.caller(request.headers)
        return _json(self._models.find(request.path_params["id"]).as_json())


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _health(_: Request) -> Response:
    return _json({"status": "ok"})


def _error(error: ApiError) -> Response:
    return Response(error_body(error), error.status, headers=error.headers, media_type="application/json")


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(error)


class _StoreErrors:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def answer(self, _: Request, __: Exception) -> Response:
        self._meter.store_failed()
        return _error(store_down())


async def _bug(_: Request, __: Exception) -> Response:
    return _error(internal_error())


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path[:200]
    if error.status_code == 404:
        return _error(NotFound(f"Invalid URL ({method} {path})"))
    allowed = (error.headers or {}).get("Allow", "")
    return _error(
        ApiError(
            f"Not allowed to {method} on {path} (HINT: perhaps you meant to use {allowed}?)",
            status=error.status_code,
            type="invalid_request_error",
            code="method_not_allowed" if error.status_code == 405 else None,
            headers=error.headers,
        )
    )


_HANDLERS: Final[dict[Any, Any]] = {ApiError: _api_error, HTTPException: _http_error, Exception: _bug}
