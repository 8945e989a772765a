"""One process's way to a MongoDB database: its collections, and calls that outlast throttling, elections and cut connections.

Every call handed to `run` may be repeated, also where nobody knows whether the last try took effect: whoever writes one
sees to it that a repeat changes nothing. Errors of the driver never leave this package.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import pymongo
from pymongo import ReadPreference, WriteConcern, monitoring
from pymongo import errors as driver
from pymongo.collection import Collection

from tes_server import errors, telemetry
from tes_server.store import base
from tes_server.store.mongo_account import Account

_log = logging.getLogger(__name__)

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")

PATIENCE = 8.0
"""Seconds that a call waits for the store in all: longer than an election takes, shorter than clients' own patience."""

TRY = 4.0
"""Seconds for one try, so that a connection into the void costs one try and not all of them."""

LEAST = 0.5
"""Seconds for the one try of a caller whose patience went in a queue of ours: the store is slow, or we are, but not away."""

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between tries, doubled each time, with jitter; a throttled server names its own."""

AWAY = "the store does not answer; try again"

REMIND = 60.0
"""Seconds after which the log has the same refusal again: a wrong password is met by every call."""

DUPLICATE = 11000
THROTTLED = 16500
PASSING = frozenset(
    {
        6, 7, 9001,  # host unreachable, host not found, socket exception
        24, 112,  # lock timeout, write conflict
        50, 262,  # the time of one try is over; Cosmos DB: it was throttled for a minute
        64, 89, 91, 189,  # write concern not reached yet, network time-out, shutdown, primary stepped down
        10107, 11600, 11602, 13435, 13436,  # elections
        THROTTLED,
    }
)  # fmt: skip
"""Error codes that go away by themselves."""

REFUSED = frozenset({13, 18, 8000})
"""Error codes of a wrong or missing login."""

_RETRY_AFTER = re.compile(r"RetryAfterMs=(\d+)")


class Connection:
    """The collections of one database. Safe for many threads; not to be shared with a forked process."""

    def __init__(self, account: Account, *, patience: float = PATIENCE, listeners: Sequence[monitoring._EventListener] = ()) -> None:
        self.account = account
        self._patience = patience
        self._closed = threading.Event()
        self._lost = False
        self._refused = ("", float("-inf"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # an option that the driver does not know
                warnings.filterwarnings("ignore", message="You appear to be connected to")  # an advertisement
                self._client: pymongo.MongoClient[Document] = pymongo.MongoClient(
                    account.url, connect=False, event_listeners=list(listeners), **account.options
                )
            # Whatever the url wishes: what is read back tells what became of a write, so both are the primary's.
            self.database = self._client.get_database(account.database, read_preference=ReadPreference.PRIMARY, write_concern=WriteConcern("majority"))
        except (driver.PyMongoError, ValueError, TypeError, OSError, UserWarning) as cause:  # OSError: a file that the url names
            raise errors.SettingsError(account.hide(str(cause)), "store.url") from None
        self.tasks: Collection[Document] = self.database["tasks"]
        self.parts: Collection[Document] = self.database["parts"]
        self.live: Collection[Document] = self.database["live"]
        self.meta: Collection[Document] = self.database["meta"]

    def run(self, call: Callable[[], T], patience: float | None = None) -> T:
        """What `call` returns. Repeats it while its errors are passing ones; raises `errors.Unavailable` when patience is over.

        Patience counts from `base.asked`. With a `patience` (seconds) of its own it counts from now, and one try may last as long.
        """
        until = self.until(base.asked.get()) if patience is None else time.monotonic() + patience
        longest = TRY if patience is None else patience
        pause = FIRST_PAUSE
        while True:
            if self._closed.is_set():
                raise errors.Unavailable("the store is closed")
            left = until - time.monotonic()
            if left <= 0 and self._lost:
                raise errors.Unavailable(AWAY, retry_after=1.0)
            try:
                with pymongo.timeout(max(LEAST, min(left, longest))):
                    answer = call()
            except driver.PyMongoError as cause:
                wanted = passing(cause)
                if wanted is None:
                    raise self._refusal(cause) from None
                wanted = max(wanted, pause) * (0.75 + random.random() / 2)  # noqa: S311 - jitter
                if time.monotonic() + wanted >= until:
                    why = self._words(cause)
                    self._note(why)
                    raise errors.Unavailable(AWAY, max(1.0, wanted), why) from None
                self._closed.wait(wanted)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._found()
                return answer

    def until(self, asked: float | None) -> float:
        """The moment (`time.monotonic`) at which the patience of one who asked then is over."""
        return (time.monotonic() if asked is None else asked) + self._patience

    def hurry(self, patience: float) -> None:
        """From now on calls wait no longer than so many seconds: this process is asked to end."""
        self._patience = min(self._patience, patience)

    def close(self) -> None:
        """Give the connections back; calls that wait for another try end. Idempotent."""
        self._closed.set()
        self._client.close()

    def _note(self, why: str) -> None:
        # Once, not for each of the thousands of calls that an outage fails.
        if not self._lost:
            self._lost = True
            telemetry.log(_log, logging.ERROR, "store.lost", error=why)

    def _found(self) -> None:
        if self._lost:
            self._lost = False
            telemetry.log(_log, logging.WARNING, "store.found")

    def _refusal(self, cause: driver.PyMongoError) -> errors.TesServerError:
        if isinstance(cause, driver.DocumentTooLarge):
            return errors.TooLarge("the task is larger than the store takes")
        if isinstance(cause, driver.InvalidOperation) and self._closed.is_set():
            return errors.Unavailable("the store is closed")
        words, now = self._words(cause), time.monotonic()
        if words != self._refused[0] or now > self._refused[1] + REMIND:
            self._refused = (words, now)
            telemetry.log(_log, logging.ERROR, "store.call_refused", error=words)
        if isinstance(cause, driver.ConfigurationError) or code_of(cause) in REFUSED:
            return errors.Unavailable("the store cannot be reached with the address and login that this server has", 30.0, words)
        return errors.Unavailable("the store refused a call; the server's log has its words", 5.0, words)

    def _words(self, cause: Exception) -> str:
        # The cause's own text may quote what it was given. Of a host that is not there the driver tells again and again, once for each way to look at it.
        words = str(cause).partition(" (configured timeouts")[0].partition(", Timeout: ")[0]
        return self.account.hide(f"{type(cause).__name__}: {words}")[:1000]


def code_of(cause: Exception) -> int | None:
    """The server's error code."""
    return cause.code if isinstance(cause, driver.OperationFailure) else None


def passing(cause: driver.PyMongoError) -> float | None:
    """Seconds to wait before the next try (0: no wish), or None where another try would meet the same error."""
    asked = max((int(milliseconds) / 1000 for milliseconds in _RETRY_AFTER.findall(str(cause))), default=0.0)
    if isinstance(cause, driver.BulkWriteError):
        codes = {failure.get("code") for failure in cause.details.get("writeErrors", ())} - {DUPLICATE}
        concerns = cause.details.get("writeConcernErrors", ())
        return asked if codes <= PASSING and (codes or concerns) else None
    if isinstance(cause, driver.ConnectionFailure) or cause.timeout:
        return asked
    return asked if code_of(cause) in PASSING else None
