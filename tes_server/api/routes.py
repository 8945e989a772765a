"""Which path goes where: Starlette's routes with the manners of an API.

A trailing slash names the same resource and is never answered by a redirect (clients follow those with GET, or not at
all); a known path with another method is 405 that names every method it takes; all else goes on to the next application,
or is 404. Paths without parameters are looked up, not matched one after the other: that is a fifth of a request's time.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Routes:
    """Routes by path and method. A path without parameters wins over a pattern; of patterns, the first that fits."""

    def __init__(self, routes: Iterable[Route], next_app: ASGIApp | None = None) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._patterns: list[Route] = []
        self._next = next_app
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Add one more route."""
        if route.param_convertors:
            self._patterns.append(route)
        else:
            self._exact.setdefault(route.path, []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to its route. Raises HTTPException 404 or 405."""
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']} here")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        others: set[str] = set()
        # Nothing of ours has a control character in its name, but the $ that ends a pattern also matches before a line feed.
        for route in self._exact.get(path, self._patterns) if path.isprintable() else ():
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await route.app(scope, receive, send)
                return
            if match is Match.PARTIAL:
                others.update(route.methods or ())
        if others:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(others))})
        if path.endswith("/") and self._is_known(path[:-1]):
            await self({**scope, "path": scope["path"][:-1]}, receive, send)
        elif self._next is not None:
            await self._next(scope, receive, send)
        else:
            raise HTTPException(404)

    def _is_known(self, path: str) -> bool:
        return path in self._exact or any(route.path_regex.match(path) for route in self._patterns)
