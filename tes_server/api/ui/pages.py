"""The human pages: the newest tasks, one task, a button to cancel it.

Plain HTML that works without JavaScript. Templates escape everything; the headers keep a page from loading anything of
somebody else's and from being framed; that a POST comes from our own page, `auth` has checked before. Must never offer
more than the API does.
"""

from __future__ import annotations

import http
import shlex
from typing import Any

import a2wsgi
import flask
import msgspec
import werkzeug.exceptions
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Scope

from tes_server import errors
from tes_server.api import problems
from tes_server.control.service import ListRequest, Service
from tes_server.model.principal import Principal
from tes_server.model.record import View
from tes_server.model.states import ENDS, State

PAGE_SIZE = 50
"""Tasks on a page: BASIC views with their names, about a screen and a half."""

THREADS = 4
"""Pages that are made at once in one process. People are few; the API's own requests must find the processor free."""

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers would then send "Origin: null" with the cancel button's POST, and `auth` refuse it.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Pages:
    """The pages as ASGI routes. The service is asked from threads, whether it blocks or not."""

    def __init__(self, service: Service) -> None:
        self._wsgi = a2wsgi.WSGIMiddleware(flask_app(service), workers=THREADS)  # type: ignore[arg-type]  # its own WSGI types

    def routes(self) -> list[Route]:
        """Where the pages are."""
        methods = {"/": ["GET"], "/ui": ["GET"], "/ui/{rest:path}": ["GET", "POST"]}
        return [Route(path, self._wsgi, methods=taken) for path, taken in methods.items()]

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._wsgi.executor.shutdown()


def flask_app(service: Service) -> flask.Flask:
    """The pages as a Flask application; WSGI servers of Flask's tests can run it too."""
    app = flask.Flask(__name__, static_url_path="/ui/static")
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters["shell"] = shlex.join

    @app.get("/")
    @app.get("/ui")
    def tasks() -> str:
        shown = flask.request.args
        page = msgspec.json.decode(service.list_json(_principal(), _request(shown)))
        following = {**shown, "page_token": page["next_page_token"]} if "next_page_token" in page else None
        return flask.render_template("tasks.html", tasks=page["tasks"], shown=shown, states=[state.value for state in State], following=following)

    @app.get("/ui/tasks/<task_id>")
    def task(task_id: str) -> str:
        found: dict[str, Any] = msgspec.json.decode(service.get_json(_principal(), task_id, View.FULL))
        ended = found["state"] in ENDS
        return flask.render_template("task.html", task=found, ended=ended, canceling="canceling" in flask.request.args and not ended)

    @app.post("/ui/tasks/<task_id>/cancel")
    def cancel(task_id: str) -> Any:
        service.cancel(_principal(), task_id)
        return flask.redirect(flask.url_for("task", task_id=task_id, canceling=""), http.HTTPStatus.SEE_OTHER)

    @app.errorhandler(Exception)
    def failed(cause: Exception) -> tuple[str, int]:
        if isinstance(cause, werkzeug.exceptions.HTTPException):
            cause = HTTPException(cause.code or 500)  # the same words as beside these pages
        problem = problems.problem_of(cause)
        if problem.status == 500:
            problems.log_failure(cause, flask.request.method, flask.request.path)
        return flask.render_template("problem.html", problem=problem), problem.status

    @app.after_request
    def harden(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        return response

    return app


def _principal() -> Principal:
    scope: Scope = flask.request.environ["asgi.scope"]
    principal: Principal = scope["principal"]
    return principal


def _request(shown: Any) -> ListRequest:
    """The list that a page's form asks for. Raises `errors.Invalid`."""
    try:
        state = State(shown["state"]) if shown.get("state") else None
    except ValueError:
        raise errors.Invalid("is not a state", "state") from None
    return ListRequest(
        view=View.BASIC,
        page_size=PAGE_SIZE,
        page_token=shown.get("page_token", ""),
        name_prefix=shown.get("name_prefix", ""),
        state=state,
        tag_key=(shown["tag_key"],) if shown.get("tag_key") else (),
        tag_value=(shown["tag_value"],) if shown.get("tag_key") and shown.get("tag_value") else (),
    )
