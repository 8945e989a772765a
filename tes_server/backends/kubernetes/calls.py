"""Requests to a Kubernetes API server. The only module that knows the SDK, and nothing of tasks.

The SDK does what is hard to get right: kubeconfig, exec plugins, in-cluster tokens that rotate, TLS. Bodies are plain JSON both ways. No request is
repeated here, and none lasts longer than it is given.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import pathlib
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import msgspec

import tes_server
from tes_server import errors
from tes_server.telemetry import Code

T = TypeVar("T")

CONNECT = 5.0
"""Seconds for a connection to be made."""

READ = 15.0
"""Seconds without a byte after which an answer is given up."""

THREADS = 16
"""Connections that are kept: submits and looks side by side, and the watches."""

LONGEST_WORDS = 1000
"""Characters of a server's own words that are passed on."""


class NotSent(errors.Unavailable):
    """No connection was made: what was asked for was certainly not done."""


class Answer(NamedTuple):
    """An answer, whatever its status."""

    status: int
    body: bytes
    retry_after: float = 0.0

    @property
    def words(self) -> str:
        """The message of a Status object, or what else was said; bounded."""
        return _status(self.body).message[:LONGEST_WORDS] or self.body[:LONGEST_WORDS].decode("utf-8", "replace").strip() or f"status {self.status}"

    @property
    def reason(self) -> str:
        """The machine-readable reason of a Status object: `AlreadyExists`, `Forbidden`, `Expired`."""
        return _status(self.body).reason


class _Status(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""


class Raw(Protocol):
    """What is used of the SDK's (that is urllib3's) response."""

    status: int
    headers: Mapping[str, str]

    @property
    def data(self) -> bytes:
        """The whole body."""

    def read1(self, amt: int) -> bytes:
        """The next piece of the body, as it comes; b"" at its end."""

    def shutdown(self) -> None:
        """Wake up who reads."""

    def close(self) -> None:
        """Give up the connection."""


class Calls:
    """A connection pool to one cluster. Thread-safe. What does not answer is `errors.Unavailable`, what was never asked `NotSent`."""

    def __init__(self, configuration: Any) -> None:
        from kubernetes import client

        configuration.retries = False  # whoever calls knows what may be repeated
        configuration.connection_pool_maxsize = THREADS
        self._client = client.ApiClient(configuration)
        self._client.user_agent = f"tes-server/{tes_server.__version__}"
        self._dated: tuple[datetime.datetime, float] | None = None

    def close(self) -> None:
        """Give back connections."""
        self._client.close()

    def now(self) -> datetime.datetime | None:
        """The time by the cluster's clock, to the second, which its objects' times are to be compared with; None before the first answer."""
        dated = self._dated
        return dated[0] + datetime.timedelta(seconds=time.monotonic() - dated[1]) if dated else None

    def get(self, path: str, **query: str) -> Answer:
        """Read an object or a list."""
        return self._call("GET", path, query)

    def post(self, path: str, body: Mapping[str, Any], **query: str) -> Answer:
        """Make an object."""
        return self._call("POST", path, {"fieldManager": "tes-server", **query}, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Merge into an object (RFC 7386)."""
        return self._call("PATCH", path, {"fieldManager": "tes-server"}, body, "application/merge-patch+json")

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Delete an object."""
        return self._call("DELETE", path, {}, body or {})

    @contextlib.contextmanager
    def stream(self, path: str, silence: float, **query: str) -> Iterator[Raw]:
        """An answer that is read as it comes; `silence` seconds without a byte end it. Errors while it is read are `errors.Unavailable` too."""
        with _translated():
            response = self._request("GET", path, query, None, "", silence)
            try:
                yield response
            finally:
                response.close()

    def _call(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None, kind: str = "application/json") -> Answer:
        with _translated():
            response = self._request(method, path, query, body, kind, READ)
            data = response.data
            return Answer(response.status, data, _seconds(response.headers.get("Retry-After", "")))

    def _request(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None, kind: str, silence: float) -> Raw:
        headers = {"Accept": "application/json", **({"Content-Type": kind} if body is not None else {})}
        parameters = self._client.param_serialize(
            method=method, resource_path=path, query_params=list(query.items()), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response: Raw = self._client.call_api(*parameters, _request_timeout=(CONNECT, silence)).response
        with contextlib.suppress(ValueError):  # no date, or none in words that mean one
            self._dated = email.utils.parsedate_to_datetime(response.headers.get("Date", "")).astimezone(datetime.UTC), time.monotonic()
        return response


def connect(kubeconfig: str = "", context: str = "") -> Calls:
    """To the cluster that this process runs in, or that a kubeconfig names. SettingsError says what is missing."""
    try:
        from kubernetes import client, config
    except ImportError as cause:
        raise errors.SettingsError("Kubernetes needs more: pip install 'tes-server[kubernetes]'", "kubernetes") from cause
    configuration = client.Configuration()
    try:
        if kubeconfig:
            config.load_kube_config(kubeconfig, context or None, configuration, persist_config=False)
        else:
            config.load_incluster_config(configuration)
    except Exception as cause:  # the library meets whatever a file holds with errors of any kind, and a missing one with words on its content
        raise _no_connection(kubeconfig, context, cause) from cause
    return Calls(configuration)


def _no_connection(kubeconfig: str, context: str, cause: Exception) -> errors.SettingsError:
    if not kubeconfig:
        return errors.SettingsError(f"this process runs in no pod with a service account; name a kubeconfig: {cause}", "kubernetes.kubeconfig")
    try:
        pathlib.Path(kubeconfig).open("rb").close()
    except OSError as unread:
        return errors.SettingsError(f"{kubeconfig} cannot be read: {unread.strerror}", "kubernetes.kubeconfig")
    if context and f"name {context} in" in str(cause):
        return errors.SettingsError(f"there is no context {context!r} in {kubeconfig}, or it names what is not there: {cause}", "kubernetes.context")
    return errors.SettingsError(f"{kubeconfig} is no kubeconfig that can be used: {type(cause).__name__}: {cause}", "kubernetes.kubeconfig")


def refuse(answer: Answer, what: str) -> NoReturn:
    """Raise for an answer that should have been a success: Unavailable if it may pass, else EngineError."""
    words = f"{what}: {answer.words}"
    if answer.status in (401, 403, 408, 409, 429) or answer.status >= 500:  # 401 and 403 pass when somebody mends the role
        raise errors.Unavailable(words, answer.retry_after or 1.0)
    raise errors.EngineError(words, Code.ENGINE_ERROR)


def decoded(answer: Answer, kind: type[T]) -> T:
    """The object of a success. What is none, from a proxy in between perhaps, is Unavailable."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
        raise errors.Unavailable(f"the cluster's answer makes no sense: {cause}") from cause


def part(name: str) -> str:
    """A name as a part of a path."""
    return urllib.parse.quote(name, safe="")


def _status(body: bytes) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Status()


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    import urllib3
    from kubernetes.client import ApiException

    try:
        yield
    except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as cause:
        raise NotSent(f"the cluster cannot be reached: {_why(cause)}") from cause
    except (urllib3.exceptions.HTTPError, ApiException, OSError) as cause:
        raise errors.Unavailable(f"the cluster does not answer: {_why(cause)}") from cause


def _why(cause: BaseException) -> str:
    """The words of the system's own error below the libraries', which speak of their objects; else what kind of error it is."""
    kind = type(cause).__name__
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    words = cause.strerror if isinstance(cause, OSError) else ""
    return words or kind
