"""Calls of Azure Batch by its SDK, and what their errors mean. With `arm`, all that knows the SDK.

Tries are ours: the SDK's own wait as long as a Retry-After says, and its `create_tasks` asks again without end. A call that comes too often is held back
here until it may be made again, so that no crowd of callers asks for what was just refused. Every call that this server makes can
be made twice without harm, since all names are its own. No error of the SDK leaves this module.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import email.utils
import os
import random
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from tes_server import azure_identity, errors

CONNECT = 5.0
"""Seconds to connect."""

READ = 20.0
"""Seconds of silence."""

TRIES = 3
"""Times that a call is sent which fails on the way, or on their side."""

WAIT = 1.0
"""Seconds between two tries, at most doubled by chance."""

LONGEST = TRIES * (CONNECT + READ) + (TRIES - 1) * 2 * WAIT
"""Seconds after which a call has ended."""

PAGE = 1000
"""Items of one page: the most that Azure Batch gives."""

HELD = 60.0
"""Most seconds for which a call is held back that Azure Batch said comes too often."""

_THROTTLED = frozenset({"TooManyRequests", "ServerBusy", "TooManyEnableAutoScaleRequests"})
_FAULTY = frozenset(
    {"InvalidPropertyValue", "InvalidRequestBody", "MissingRequiredProperty", "OutOfRangeInput", "PropertyCannotBeUpdated", "RequestBodyTooLarge"}
)

T = TypeVar("T")


class Refused(errors.Unavailable):
    """Azure answered with an error. `code`: its own word; `status`: that of HTTP; `after`: seconds to wait, as it says."""

    def __init__(self, public: str, code: str, status: int, after: float = 0.0) -> None:
        super().__init__(public)
        self.code = code
        self.status = status
        self.after = after

    @property
    def throttled(self) -> bool:
        """Later it may be done."""
        return self.code in _THROTTLED or self.status in (429, 503)

    @property
    def doubtful(self) -> bool:
        """It failed on their side: nobody knows whether it was done."""
        return not self.throttled and (self.status >= 500 or self.status == 408)

    @property
    def denied(self) -> bool:
        """This server's credentials do not allow it, or are not good."""
        return self.status in (401, 403, 407)

    @property
    def faulty(self) -> bool:
        """Azure found fault with what the request asks for: it will at every try."""
        return self.code in _FAULTY or self.status == 413


class Silent(errors.Unavailable):
    """No answer: nobody knows whether it was done."""


class NotSent(errors.Unavailable):
    """Nothing was sent: no connection, or no credentials."""


class Account(NamedTuple):
    """A Batch account, and how to sign in there. `key`: its shared key, "" = Microsoft Entra ID."""

    url: str
    name: str = ""
    key: str = ""
    client_id: str = ""


class Listing(NamedTuple):
    """A whole list: its items, in how many pages they came, and when Azure (by its own clock) answered for the first of these."""

    items: list[dict[str, Any]]
    pages: int
    at: datetime.datetime


def account(url: str, name: str, key_variable: str, client_id: str) -> Account:
    """From the settings. Raises SettingsError where the variable of the key is not set."""
    key = os.environ.get(key_variable, "") if key_variable else ""
    if key_variable and not key:
        raise errors.SettingsError(f"the variable {key_variable} is not set", "azure_batch.key_variable")
    return Account(url.rstrip("/"), name or (urllib.parse.urlsplit(url).hostname or "").partition(".")[0], key, client_id)


class Calls:
    """A client of one account. Thread-safe. Requests and answers are as in REST: names in camelCase."""

    def __init__(self, where: Account) -> None:
        """Raises SettingsError where the SDK is missing, or the key is no key."""
        try:
            import azure.batch
            import azure.core.credentials
        except ModuleNotFoundError as cause:
            raise errors.SettingsError("Azure Batch needs more: pip install 'tes-server[azure]'", "azure_batch.url") from cause
        self.account = where
        self._told: tuple[datetime.datetime, float] | None = None
        self._held: dict[str, tuple[float, Refused]] = {}
        credential = azure.core.credentials.AzureNamedKeyCredential(where.name, where.key) if where.key else azure_identity.identity(where.client_id)
        try:
            base64.b64decode(where.key, validate=True)
            self._client = azure.batch.BatchClient(where.url, credential, retry_total=0, connection_timeout=CONNECT, read_timeout=READ, user_agent="tes-server")
        except binascii.Error as cause:
            raise errors.SettingsError("the value of the variable that it names is no key of a Batch account", "azure_batch.key_variable") from cause
        except ValueError as cause:
            raise errors.SettingsError(str(cause), "azure_batch.url") from cause

    def now(self) -> datetime.datetime | None:
        """The time by the clock of Azure Batch, as its last list told; None before that."""
        if self._told is None:
            return None
        at, since = self._told
        return at + datetime.timedelta(seconds=time.monotonic() - since)

    def ask(self, operation: str, *arguments: Any, **more: Any) -> Any:
        """One call, by the name of its method (`create_job`). Raises Refused, Silent or NotSent."""
        return self._unhurried(operation, lambda: getattr(self._client, operation)(*arguments, **more))

    def read(self, operation: str, *arguments: Any, **more: Any) -> dict[str, Any]:
        """One call that answers with an object."""
        answer: dict[str, Any] = self.ask(operation, *arguments, **more).as_dict()
        return answer

    def listed(self, operation: str, *arguments: Any, **more: Any) -> Listing:
        """A list, with all its pages. `max_results`: items of one page, where Azure Batch gives fewer than usually."""
        answered: list[datetime.datetime] = []

        def note(response: Any) -> None:
            answered.append(_time(response.http_response.headers.get("Date", "")))
            self._told = answered[-1], time.monotonic()

        def whole() -> Listing:
            answered.clear()
            pages = getattr(self._client, operation)(*arguments, raw_response_hook=note, **{"max_results": PAGE, **more}).by_page()
            items = [item.as_dict() for page in pages for item in page]
            return Listing(items, len(answered), answered[0])

        return self._unhurried(operation, whole)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _unhurried(self, operation: str, call: Callable[[], T]) -> T:
        """Whatever Azure Batch wants to be asked later is not sent before, whoever asks: the answer is the one that it gave."""
        until, said = self._held.get(operation, (0.0, None))
        left = until - time.monotonic()
        if said is not None and left > 0:
            raise Refused(said.public, said.code, said.status, left)
        try:
            return tried(f"Azure Batch {operation}", call)
        except Refused as cause:
            if cause.throttled:
                self._held[operation] = (time.monotonic() + min(cause.after or WAIT, HELD), cause)
            raise


def tried(what: str, call: Callable[[], T]) -> T:
    """What `call` of the SDK gives, after a few tries; `what` is how its errors begin. Raises Refused, Silent or NotSent.

    Silent also where the last try was turned away, and nobody knows what became of one before it.
    """
    doubt: errors.Unavailable | None = None
    for last in (False,) * (TRIES - 1) + (True,):
        try:
            with told(what):
                return call()
        except (Silent, NotSent) as cause:
            doubt = cause if isinstance(cause, Silent) else doubt
            if last:
                raise doubt or cause from None
        except Refused as cause:
            if doubt is not None and (cause.throttled or cause.denied):
                raise Silent(cause.public) from cause
            if last or not cause.doubtful:
                raise
            doubt = Silent(cause.public)
        time.sleep(WAIT * (1 + random.random()))  # noqa: S311 - jitter, not a secret
    raise AssertionError("a last try returns or raises")


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """The SDK's errors as ours. Its words name no secret."""
    from azure.core import exceptions

    try:
        yield
    except exceptions.HttpResponseError as cause:
        if cause.response is None:  # azure-identity: no token
            raise NotSent(f"{what}: {_line(cause.message)}") from cause
        raise refused(what, cause) from cause
    except exceptions.ServiceRequestError as cause:
        raise NotSent(f"{what}: {cause.message}") from cause
    except exceptions.AzureError as cause:
        raise Silent(f"{what}: {cause.message}") from cause


def _line(text: str) -> str:
    """Text of several lines as one."""
    return " ".join(text.split())


def refused(what: str, cause: Any) -> Refused:
    """An answer that is an error; `cause` is an HttpResponseError."""
    status = int(cause.status_code or 0)
    error = getattr(cause, "error", None)
    code = str(getattr(error, "code", "") or "")
    message = getattr(error, "message", None)
    words = str(getattr(message, "value", None) or message or cause.reason or status)
    # `values` of the answer: the SDK names their keys codes, and their values messages.
    details = "; ".join(f"{part.code}: {part.message}" for part in getattr(error, "details", None) or () if part.code != "BatchErrorDetail")
    after = cause.response.headers.get("Retry-After", "")
    text = words.partition("\nRequestId:")[0]
    return Refused(f"{what}: {text}{f' ({details})' if details else ''}", code, status, float(after) if after.isdigit() else 0.0)


def _time(header: str) -> datetime.datetime:
    """The Date of an answer; our own clock's where there is none."""
    try:
        return email.utils.parsedate_to_datetime(header).astimezone(datetime.UTC)
    except (TypeError, ValueError):
        return datetime.datetime.now(datetime.UTC)
