"""The HTTPS endpoint: finds the operation, checks who asks, has bodies checked, answers as Azure does."""

from __future__ import annotations

import json
import ssl
import threading
import traceback
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.emulators.azure_batch import management, protocol
from tests.emulators.azure_batch.identities import Identities
from tests.emulators.azure_batch.management import Management
from tests.emulators.azure_batch.protocol import BatchError, Json
from tests.emulators.azure_batch.requests import Reply, Request
from tests.emulators.azure_batch.routes import Route, find
from tests.emulators.azure_batch.world import API_VERSION, TENANT
from tests.emulators.faults import Calls
from tests.emulators.http_server import Answer, Server, loopback

ADMIN = "/_emulator/"
"""Where `POST NAME` with JSON calls the emulator itself."""
QUERY = ("api-version", "timeOut", "maxresults", "$filter", "$select", "$expand", "$skiptoken", "recursive", "force")
NO_BODY = (204, 304)


class Endpoint:
    """The service and its authority behind one address. `url` is known before any operation is added."""

    def __init__(self, calls: Calls, identities: Identities, tls: ssl.SSLContext, port: int = 0) -> None:
        self._calls = calls
        self._identities = identities
        self._operations: Sequence[object] = ()
        self._lock: threading.Condition | None = None
        self._management: Management | None = None
        self._admin: Callable[[str, Json], Any] = lambda _name, _given: None
        self.defects: list[str] = []
        """answers that no such service would give, and handlers that failed: tests look at it"""
        self._server = Server(loopback(port), self._reply, tls)
        self.url = f"https://127.0.0.1:{self._server.port}"

    def start(self, lock: threading.Condition, operations: Sequence[object], manager: Management, admin: Callable[[str, Json], Any]) -> None:
        """`operations`: their methods have the names of routes; they are called under the lock."""
        self._lock, self._operations, self._management, self._admin = lock, operations, manager, admin
        self._server.start()

    def close(self) -> None:
        self._server.close()

    def _reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        path, _, query = target.partition("?")
        if path.startswith(ADMIN):
            return self._administer(path.removeprefix(ADMIN), body)
        if path.startswith(f"/{TENANT}/") or path.endswith("/oauth2/v2.0/token"):
            status, told = self._identities.entra(self.url, path, body)
            return Answer(status, json.dumps(told).encode(), {})
        if management.asked(path):
            return self._manage(method, path, query, headers, body)
        found = find(method, path)
        if found is None:
            return _refusal(BatchError("InvalidUri", 400, f"The emulator knows no {method} {path}."), headers)
        return self._call(*found, method, path, query, headers, body)

    def _call(self, route: Route, names: Mapping[str, str], method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        try:
            lost = self._calls.begin(route.name)
            principal = self._identities.check(method, path, query, headers)
            self._identities.allow(principal, route.name)
            asked = _query(query)
            request = Request(names, asked, headers, _body(route, headers, body), self.url + path)
            assert self._lock is not None
            with self._lock:
                reply = self._method(route.name)(request)
                answer = self._answer(route, reply, asked)
        except BatchError as error:
            self._calls.refuse(route.name, error.code)
            return _refusal(error, headers)
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer, and the tests hear of it
            self.defects.append(traceback.format_exc())
            return _refusal(BatchError("InternalError", 500, "a defect of the emulator"), headers)
        return None if lost else Answer(reply.status or route.status, answer, {**_headers(headers), **reply.headers})

    def _manage(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """A call of Resource Manager."""
        call = Management.name(method, path)
        try:
            lost = self._calls.begin(call)
            # Other clouds have a Resource Manager of their own: its url, too, is what tokens for it are for.
            principal = self._identities.bearer(headers.get("authorization", "").removeprefix("Bearer "), management.RESOURCE, self.url)
            self._identities.allow(principal, call)
            assert self._lock is not None
            assert self._management is not None
            with self._lock:
                told = self._management.reply(method, path, dict(urllib.parse.parse_qsl(query)), body)
        except BatchError as error:
            self._calls.refuse(call, error.code)
            return Answer(error.status, management.refused(error), {} if error.retry_after is None else {"Retry-After": str(error.retry_after)})
        except Exception:  # noqa: BLE001 - as above
            self.defects.append(traceback.format_exc())
            return Answer(500, management.refused(BatchError("InternalError", 500, "a defect of the emulator")), {})
        return None if lost else Answer(200, json.dumps(told).encode(), {})

    def _method(self, name: str) -> Callable[[Request], Reply]:
        for operations in self._operations:
            if hasattr(operations, name):
                found: Callable[[Request], Reply] = getattr(operations, name)
                return found
        raise AssertionError(f"no operation {name}")

    def _answer(self, route: Route, reply: Reply, query: Mapping[str, str]) -> bytes:
        if isinstance(reply.body, bytes) or reply.body is None:
            return reply.body or b""
        whole = "$select" not in query
        for item in reply.body["value"] if route.several else [reply.body]:
            protocol.check(route.gives, item, whole=whole)
        return json.dumps(reply.body).encode()

    def _administer(self, name: str, body: bytes) -> Answer:
        try:
            return Answer(200, json.dumps(self._admin(name, json.loads(body or b"{}")), default=str).encode() + b"\n", {})
        except (AttributeError, TypeError, ValueError, LookupError, AssertionError, BatchError) as error:
            return Answer(400, f"{type(error).__name__}: {error}\n".encode(), {"Content-Type": "text/plain"})


def _query(text: str) -> dict[str, str]:
    found = dict(urllib.parse.parse_qsl(text))
    for name in found:
        if name not in QUERY:
            words = "One of the query parameters specified in the request URI is not supported."
            raise BatchError("UnsupportedQueryParameter", 400, words, {"QueryParameterName": name})
    if "api-version" not in found:
        words = "A required query parameter was not specified for this request."
        raise BatchError("MissingRequiredQueryParameter", 400, words, {"QueryParameterName": "api-version"})
    if found["api-version"] != API_VERSION:
        raise BatchError("UnsupportedRequestVersion", 400, "The specified request version is not supported.", {"Version": found["api-version"]})
    return found


def _body(route: Route, headers: Mapping[str, str], body: bytes) -> Json:
    """JSON that is what the route takes; of routes that say nothing of it, whatever it is."""
    kind = headers.get("content-type", "")
    if body and not kind.startswith("application/json; odata=minimalmetadata"):
        raise BatchError(
            "InvalidHeaderValue", 400, "The value provided for one of the HTTP headers was not in the correct format.", {"HeaderName": "Content-Type"}
        )
    try:
        given = json.loads(body) if body else {}
    except ValueError as error:
        raise BatchError("InvalidRequestBody", 400, "The specified Request Body is not syntactically valid.", {"Reason": str(error)}) from error
    if route.takes:
        return protocol.read(route.takes, given)
    return given if isinstance(given, dict) else {}


def _headers(asked: Mapping[str, str]) -> dict[str, str]:
    found = {"request-id": str(uuid.uuid4()), "DataServiceVersion": "3.0", "Content-Type": "application/json;odata=minimalmetadata"}
    if asked.get("return-client-request-id", "").lower() == "true" and "client-request-id" in asked:
        found["client-request-id"] = asked["client-request-id"]
    return found


def _refusal(error: BatchError, asked: Mapping[str, str]) -> Answer:
    headers = _headers(asked)
    words = f"{error.message}\nRequestId:{headers['request-id']}\nTime:{protocol.stamp(protocol.now())}"
    told: Json = {"code": error.code, "message": {"lang": "en-US", "value": words}}
    if error.values:
        told["values"] = [{"key": name, "value": value} for name, value in error.values.items()]
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Answer(error.status, b"" if error.status in NO_BODY else json.dumps(told).encode(), headers)
