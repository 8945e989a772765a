"""Errors as answers: which status an error has, and what of it the caller may read.

The only place that knows both the error tree and HTTP. Must never show the text of an error that was not raised on
purpose, nor its cause: those go to the log.
"""

from __future__ import annotations

import http
import logging
import math
import traceback

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from tes_server import errors, redaction, telemetry
from tes_server.api import answers

LOGGER = logging.getLogger(__name__)

STATUSES: dict[type[errors.TesServerError], int] = {
    errors.Invalid: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.TooMany: 429,
    errors.Unavailable: 503,
}

TITLES = {413: "Content Too Large", 414: "URI Too Long"}  # the standard library's phrases depend on the Python version

GONE = 499
"""The caller hung up before the request was whole: counted under nginx's number, never sent."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every error answer. `pointer` is a place in the body, `parameter` the name of a query parameter or header.

    `detail` does not repeat the place: whoever shows a problem to a person puts it in front.
    """

    status: int
    title: str
    detail: str
    pointer: str = ""
    parameter: str = ""


def status_of(cause: Exception) -> int:
    """The HTTP status of an error; 500 for every one that was not raised on purpose."""
    if isinstance(cause, errors.TesServerError):
        return next((status for kind, status in STATUSES.items() if isinstance(cause, kind)), 500)
    if isinstance(cause, HTTPException):
        return cause.status_code
    if isinstance(cause, ClientDisconnect):
        return GONE
    return 500


def problem_of(cause: Exception) -> Problem:
    """What the caller may read of an error."""
    status = status_of(cause)
    title = TITLES.get(status) or http.HTTPStatus(status).phrase
    if status == 500:
        return Problem(status, title, "the server failed at this request; its log says why")
    if isinstance(cause, HTTPException):
        return Problem(status, title, {404: "there is nothing at this path", 405: "this path does not take this method"}.get(status, title))
    place = cause.pointer if isinstance(cause, errors.Invalid | errors.TooLarge) else ""
    detail = redaction.text(cause.public) if isinstance(cause, errors.TesServerError) else title
    return Problem(status, title, detail, **({"pointer" if place.startswith("/") else "parameter": place} if place else {}))


def log_failure(cause: Exception, method: str, path: str) -> None:
    """Log, with its trace, what nobody raised on purpose."""
    telemetry.log(LOGGER, logging.ERROR, "request.failed", method=method, path=path, exception="".join(traceback.format_exception(cause)))


class Problems:
    """The outermost layer: turns what the layers below raise into answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer if it fails. A failure after the answer began can only be logged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noting(message: object) -> None:
            nonlocal started
            started = True
            await send(message)  # type: ignore[arg-type]

        try:
            await self._app(scope, receive, send_noting)
        except ClientDisconnect:
            return
        except Exception as cause:  # noqa: BLE001 - the last resort: whatever it is, the caller gets JSON and the log gets the trace
            problem = problem_of(cause)
            if problem.status == 500:
                log_failure(cause, scope["method"], scope["path"])
            if not started:
                await answers.send_json(send, problem.status, msgspec.json.encode(problem), _headers(cause))


def _headers(cause: Exception) -> list[answers.Header]:
    if isinstance(cause, errors.Unauthorized):
        return [(b"www-authenticate", challenge.encode("latin-1")) for challenge in cause.challenges]
    if isinstance(cause, errors.Unavailable | errors.TooMany):
        return [(b"retry-after", b"%d" % max(1, math.ceil(cause.retry_after)))]
    if isinstance(cause, HTTPException):
        return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (cause.headers or {}).items()]
    return []
