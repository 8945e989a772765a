"""What is served beside the contract: probes, metrics, the API's description, and service-info where old clients look for it.

Small and seldom asked, so plain Starlette. Must never touch a task.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Sequence

import anyio
import anyio.to_thread
import msgspec
import prometheus_client
import swagger_ui_bundle
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from tes_server import metrics_files
from tes_server.control.service import Service
from tes_server.store import base

HERE = pathlib.Path(__file__).parent

PROBE_THREADS = 4
"""Looks at the store at once, and counts of the metrics at once."""

NOSNIFF = {"X-Content-Type-Options": "nosniff"}

NEVER_KEPT = {**NOSNIFF, "Cache-Control": "no-store"}

PAGE_HEADERS = {
    **NOSNIFF,
    # Swagger UI sets style attributes and draws its icons from data URLs; it loads nothing from anywhere else.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}

SWAGGER_UI = pathlib.Path(str(swagger_ui_bundle.swagger_ui_path))

DOCS_FILES = (SWAGGER_UI / "swagger-ui.css", SWAGGER_UI / "swagger-ui-bundle.js", HERE / "docs" / "start.js")


def probes(service: Service) -> list[Route]:
    """/healthz: this process answers. /readyz: so does its store. /metrics: figures for Prometheus.

    They have threads of their own: all others may be waiting for a store that is away, and just then somebody wants to know.
    """
    looks, counts = anyio.CapacityLimiter(PROBE_THREADS), anyio.CapacityLimiter(PROBE_THREADS)

    async def healthz(_request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        base.asked.set(time.monotonic())
        await anyio.to_thread.run_sync(service.ready, limiter=looks)
        return _json({"status": "ok"})

    async def metrics(_request: Request) -> Response:
        return Response(
            await anyio.to_thread.run_sync(figures, limiter=counts),
            media_type=None,
            headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST, **NEVER_KEPT},
        )

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def figures() -> bytes:
    """Metrics of this process; of all processes of the server where they share a directory."""
    if os.environ.get(metrics_files.VARIABLE):
        registry = prometheus_client.CollectorRegistry()
        registry.register(metrics_files.Together())
        return prometheus_client.generate_latest(registry)
    return prometheus_client.generate_latest()


def service_info(service: Service) -> list[Route]:
    """/service-info without a base path (clients.md row 2)."""

    async def info(request: Request) -> Response:
        return _json(service.service_info(request.scope["principal"]))

    return [Route("/service-info", info)]


def legacy_service_info(service: Service, base_paths: Sequence[str]) -> list[Route]:
    """TES 1.0's place of service-info, with the keys of then (row 3). They win over `/tasks/{id}`."""

    async def legacy(request: Request) -> Response:
        return _json(service.legacy_service_info(request.scope["principal"]))

    return [Route(f"{base}/tasks/service-info", legacy) for base in base_paths]


def documentation(description: bytes) -> list[Route]:
    """/openapi.json, and /docs to browse it; every byte of both comes from this machine."""

    async def openapi(_request: Request) -> Response:
        return Response(description, media_type="application/json", headers=NOSNIFF)

    page = (HERE / "docs" / "index.html").read_text()

    async def docs(_request: Request) -> Response:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    def file(path: pathlib.Path) -> Route:
        async def send(_request: Request) -> Response:
            return FileResponse(path, headers=PAGE_HEADERS)

        return Route(f"/docs/{path.name}", send)

    return [Route("/openapi.json", openapi), Route("/docs", docs), *(file(path) for path in DOCS_FILES)]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=NEVER_KEPT)
