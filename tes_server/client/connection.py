"""HTTP to one TES server: finds where its API begins, keeps connections, tries again what may be tried again.

Answers are checked to be JSON objects and handed on as they came. Must never print, nor show a secret in an error.
"""

from __future__ import annotations

import http
import json
import ssl
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import urllib3

from tes_server import errors
from tes_server.client.address import Address

JsonObject = dict[str, Any]
Query = Sequence[tuple[str, str]]

API_ROOTS = ("/ga4gh/tes/v1", "/v1", "")
"""Where servers have the API below the address that people know. The root comes last: some answer only service-info there."""

PATIENCE = 60.0
"""Seconds for which a server that has answered before may be away: time for a restart or a rolling update."""

FIRST_PATIENCE = 1.0
"""Seconds for a server that never answered: a wrong address should be told at once."""

CONNECTIONS = 8
"""Requests under way at a time; enough to hide the latency of a far server, few enough not to be a burden."""

_BUSY = frozenset({429, 502, 503, 504})
_UNKNOWN = frozenset({18, 19, 20, 21})  # X509_V_ERR_…: self-signed, or by an authority that is not known here
_PAGE = 256  # TES 1.1, ListTasks: the default, and below the 2048 that it allows


class Unreachable(errors.Unavailable):
    """No answer from the server; `public` says which URL and what to do."""


class Refused(errors.TesServerError):
    """The server answered with an error. `status` is its HTTP status."""

    def __init__(self, public: str, status: int) -> None:
        super().__init__(public)
        self.status = status


class Server:
    """One TES server. Safe to use from `CONNECTIONS` threads. Every method may raise `Unreachable` and `Refused`.

    `notice` gets a sentence when an answer takes long because requests are tried again.
    """

    def __init__(self, address: Address, notice: Callable[[str], None]) -> None:
        self._address = address
        self._notice = notice
        self._answered = False
        self._is_away = False
        self._closed = threading.Event()
        self._base = address.url if address.url.endswith("/v1") else ""
        self._pool = _pool(address)

    def service_info(self) -> JsonObject:
        """The server's service-info; asks for it once more if the API's place is known."""
        if self._base:
            return self._read(self._base + "/service-info")
        return self._discover()

    def create(self, task: JsonObject) -> str:
        """Create a task and return its id.

        A random Idempotency-Key goes with it, so that servers that know the header make one task even where an answer
        was lost and the request is sent again.
        """
        headers = {"Idempotency-Key": uuid.uuid4().hex, "Content-Type": "application/json"}
        response = self._request("POST", self._api() + "/tasks", headers, json.dumps(task).encode(), patient=False)
        answer = _object(response, self._address.url)
        task_id = answer.get("id")
        if not isinstance(task_id, str) or not task_id:
            raise Refused(f"{self._address.url} answered the new task without an id", 200)
        return task_id

    def get(self, task_id: str, view: str) -> JsonObject:
        """One task as the server shows it in `view`."""
        return self._read(self._task_url(task_id), [("view", view)])

    def tasks(self, filters: Query, view: str, limit: int | None) -> Iterator[JsonObject]:
        """Tasks as the server lists them, page by page, at most `limit`."""
        token = ""
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            page = [*filters, ("view", view), ("page_size", str(size)), *([("page_token", token)] if token else [])]
            answer = self._read(self._api() + "/tasks", page)
            found = answer.get("tasks") or []
            # Servers may hold more on a page than was asked for.
            yield from found if left is None else found[:left]
            left = None if left is None else left - len(found)
            before, token = token, answer.get("next_page_token") or ""
            if not token or token == before:
                return

    def cancel(self, task_id: str) -> None:
        """Ask the server to cancel a task. It may still run when this returns."""
        # What a good answer holds differs between servers; its status says it all.
        self._request("POST", self._task_url(task_id) + ":cancel")

    def close(self) -> None:
        """Close the connections; requests that wait to be sent again fail. Idempotent."""
        self._closed.set()
        self._pool.clear()

    def _task_url(self, task_id: str) -> str:
        return f"{self._api()}/tasks/{urllib.parse.quote(task_id, safe='')}"

    def _api(self) -> str:
        if not self._base:
            self._discover()
        return self._base

    def _discover(self) -> JsonObject:
        """Ask for service-info where it may be, and remember where it was. TES 1.0 servers have it below /tasks."""
        roots = [self._address.url + root for root in API_ROOTS]
        for path in ("/service-info", "/tasks/service-info"):
            for root in roots:
                try:
                    info = self._read(root + path)
                except Refused as refused:
                    # Not here (404), or a web page instead of an answer (200). All else, as a missing sign-in, is for the user.
                    if refused.status in (200, 404, 405):
                        continue
                    raise
                self._base = root
                return info
        tried = ", ".join(root + "/service-info" for root in roots)
        raise Unreachable(f"no TES server at {self._address.url} (tried {tried}); check --url or TES_URL")

    def _read(self, url: str, query: Query = ()) -> JsonObject:
        full = f"{url}?{urllib.parse.urlencode(query)}" if query else url
        return _object(self._request("GET", full), url)

    def _request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None, patient: bool = True
    ) -> urllib3.BaseHTTPResponse:
        """A good answer. Sends again while that is safe and there is patience left.

        `patient=False`: an answer that is late is not asked for again, for the server may still be at work on the request.
        """
        signed = {"Authorization": self._address.authorization} if self._address.authorization else {}
        every = {"Accept": "application/json", **signed, **(headers or {})}
        started, delay = time.monotonic(), 0.2
        while True:
            wait = delay
            failure: errors.TesServerError
            try:
                response = self._pool.request(method, url, headers=every, body=body, retries=_REDIRECTS)
            except urllib3.exceptions.HTTPError as cause:
                reason = getattr(cause, "reason", None) or cause
                problem = _in_words(reason)
                failure = Unreachable(f"cannot reach {self._address.url}: {problem}; {self._what_to_do(reason)}")
                if _is_final(reason) or (not patient and isinstance(reason, urllib3.exceptions.ReadTimeoutError)):
                    raise failure from cause
            else:
                self._answered = True
                if 200 <= response.status < 300:
                    self._is_away = False
                    return response
                failure = Refused(_worded(response, url), response.status)
                if response.status not in _BUSY or (not patient and response.status == 504):
                    raise failure
                problem = f"answers {response.status}"
                wait = max(delay, _retry_after(response))
            left = (PATIENCE if self._answered else FIRST_PATIENCE) - (time.monotonic() - started)
            if wait > left:
                raise failure
            if delay > 1 and not self._is_away:
                self._is_away = True
                self._notice(f"{self._address.url}: {problem}; trying again for up to {left:.0f} s")
            if self._closed.wait(wait):
                raise failure
            delay = min(2 * delay, 5.0)

    def _what_to_do(self, reason: BaseException) -> str:
        if isinstance(reason, urllib3.exceptions.SSLError):
            return "with an authority of your own, set SSL_CERT_FILE to its certificate" if _is_unknown(reason) else "look at --url or TES_URL"
        return "it answered before: see its log" if self._answered else "start it (`tes-server serve`), or set --url or TES_URL"


# Redirects are followed for any method; urllib3 takes Authorization off where they lead to another host.
_REDIRECTS = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False)


def _pool(address: Address) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=10, read=60)
    parts = urllib.parse.urlsplit(address.url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        return urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, timeout=timeout)
    return urllib3.PoolManager(maxsize=CONNECTIONS, timeout=timeout)


def _object(response: urllib3.BaseHTTPResponse, url: str) -> JsonObject:
    try:
        answer = json.loads(response.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Refused(f"{url} answered something that is no JSON object; is it a TES server?", response.status)
    return answer


def _is_final(reason: BaseException) -> bool:
    """Certificates and malformed names do not get better."""
    return isinstance(reason, urllib3.exceptions.SSLError | urllib3.exceptions.LocationValueError)


def _is_unknown(reason: urllib3.exceptions.SSLError) -> bool:
    """True if nobody who is trusted here has signed its certificate."""
    cause = reason.args[0] if reason.args else None
    return isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _UNKNOWN


def _in_words(reason: BaseException) -> str:
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "its name is not known"
    if isinstance(reason, urllib3.exceptions.SSLError):
        return f"TLS: {reason}"
    cause = reason.__cause__ or reason.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return "it does not answer in time"
    return "the connection broke"


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _worded(response: urllib3.BaseHTTPResponse, url: str) -> str:
    """An error answer as one line: the field, the words of the server, the status."""
    status = response.status
    try:
        answer: object = json.loads(response.data)
    except ValueError:
        answer = None
    try:
        phrase = f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    fields = answer if isinstance(answer, dict) else {}
    # `detail` is RFC 9457's word; the others are what servers without problem documents send.
    said = next((text for key in ("detail", "message", "error", "msg", "title") if isinstance(text := fields.get(key), str) and text), "")
    pointer = fields.get("pointer") or fields.get("parameter")
    where = f"{pointer}: " if isinstance(pointer, str) and pointer and not said.startswith(pointer) else ""
    line = f"{where}{' '.join(said.split())} ({phrase})" if said else f"{url} answered {phrase}"
    if status in (401, 403) and not where:
        line += "; sign in with TES_TOKEN or --token-file, or with TES_USER and TES_PASSWORD, if that is what it wants"
    return line
