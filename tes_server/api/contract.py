"""The OpenAPI file as the contract, compiled at start-up into one lean route an operation.

connexion loads, checks and resolves the file, maps operationIds to handlers and coerces parameters. Its stock
application then rebuilds a chain of decorators for every request, at four times the price of the request itself
(docs/decisions): here the same parts are put together once. `tests/integration/test_api_contract.py` holds the
result equal to the stock application where that is right.

Must never know what an operation does; `handlers` does.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from connexion.frameworks.starlette import starlettify_path
from connexion.http_facts import METHODS
from connexion.middleware.abstract import SpecMiddleware
from connexion.operations import OpenAPIOperation
from connexion.resolver import Resolver
from connexion.spec import Specification
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tes_server import telemetry
from tes_server.api import answers, problems, routes
from tes_server.api.body import Body
from tes_server.api.query import Query
from tes_server.model.principal import Principal


class Call(msgspec.Struct, frozen=True):
    """A request that keeps the contract, as handlers see it. `body` is None where the operation takes none; `size` is its bytes as it came."""

    principal: Principal
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any
    size: int
    headers: Sequence[answers.Header]


Handler = Callable[[Call], Awaitable[bytes]]
"""Answers a call with a JSON body for status 200, or raises from the error tree."""


class Contract(SpecMiddleware):  # type: ignore[misc]  # connexion is not typed
    """Serves every operation of the APIs that connexion adds to it; other paths go on to `next_app`.

    `first` are further routes, which may lie below templated paths of the contract; `bodies` tells by operationId which struct a body
    becomes; `body_limit` is in bytes.
    """

    def __init__(self, next_app: ASGIApp, *, first: Sequence[Route], bodies: Mapping[str, type], body_limit: int) -> None:
        self._routes = routes.Routes(first, next_app)
        self._bodies = bodies
        self._body_limit = body_limit

    def add_api(self, specification: Specification, *, base_path: str, resolver: Resolver, uri_parser_class: type, **_options: object) -> None:
        """Add the routes of one OpenAPI file below `base_path`. Called by connexion; its other options are not for us."""
        for path, methods in specification["paths"].items():
            for method in METHODS & methods.keys():
                operation = OpenAPIOperation.from_spec(specification, path=path, method=method, resolver=resolver, uri_parser_class=uri_parser_class)
                url = starlettify_path(base_path + path, operation.get_path_parameter_types())
                self._routes.add(Route(url, self._endpoint(operation), methods=[method], name=operation.operation_id))

    def _endpoint(self, operation: OpenAPIOperation) -> Endpoint:
        body: Body[Any] | None = None
        if operation.is_request_body_defined:
            body = Body(operation.body_schema(), self._bodies[operation.operation_id], self._body_limit)
        return Endpoint(operation.operation_id, operation.function, Query(operation), body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one request."""
        await self._routes(scope, receive, send)


class Endpoint:
    """One operation, as an ASGI application."""

    def __init__(self, name: str, handler: Handler, query: Query, body: Body[Any] | None) -> None:
        self._handler = handler
        self._query = query
        self._body = body
        self._name = name
        self._seconds = telemetry.REQUEST_SECONDS.labels(name)
        self._counters = {200: telemetry.REQUESTS.labels(name, "200")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, call the handler, send what it returns."""
        began = time.perf_counter()
        status = 200
        try:
            query = self._query.parse(scope["query_string"])
            body, size = await self._body.read(scope, receive) if self._body is not None else (None, 0)
            answer = await self._handler(Call(scope["principal"], scope["path_params"], query, body, size, scope["headers"]))
            await answers.send_json(send, 200, answer)
        except Exception as cause:
            status = problems.status_of(cause)
            raise
        finally:
            self._measure(status, time.perf_counter() - began)

    def _measure(self, status: int, seconds: float) -> None:
        counter = self._counters.get(status)
        if counter is None:
            counter = self._counters[status] = telemetry.REQUESTS.labels(self._name, str(status))
        counter.inc()
        self._seconds.observe(seconds)
