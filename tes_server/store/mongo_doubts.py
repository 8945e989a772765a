"""Creates of which nobody knows whether they were stored: their callers were told 503, so they are taken back as soon as the store answers.

In memory only: a process that ends in the midst of an outage leaves what was stored, and says so. Must never touch a task
that has moved.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable

from tes_server import errors, telemetry
from tes_server.store import mongo_changes
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_connection import Connection

_log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two looks whether the store answers; each look waits by itself too."""

LATE = 60.0
"""Seconds after which each is looked for once more: a write may have lain in a server that stood still, behind the one that took it back."""


class Doubts:
    """The creates in doubt of this process, and the thread that waits for the store; there is one only while there is a doubt."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._gate = threading.Lock()
        self._first: list[documents.New] = []
        self._second: list[tuple[float, documents.New]] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def add(self, news: Iterable[documents.New]) -> None:
        """Take these back when that can be done. Returns at once."""
        with self._gate:
            self._first += news
            if self._first and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="store-doubts", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Try once more, then say what is left."""
        self._stopping.set()
        if (thread := self._thread) is not None:
            thread.join()
        for new in self._first:
            telemetry.log(_log, logging.ERROR, "create.not_taken_back", task=new.document["_id"], why="the process ended while the store was away")
        self._first = []

    def _run(self) -> None:
        while (new := self._next()) is not None:
            try:
                gone = mongo_changes.take_back(self._connection, new)
            except errors.TesServerError:
                with self._gate:
                    self._first.append(new)
                if self._stopping.wait(PAUSE):
                    return
                continue
            if gone:
                telemetry.log(_log, logging.WARNING, "create.taken_back", task=new.document["_id"])
            else:
                telemetry.log(_log, logging.ERROR, "create.not_taken_back", task=new.document["_id"], why="it runs already")

    def _next(self) -> documents.New | None:
        """The next one to take back, when it is time; None if there is none left."""
        while True:
            with self._gate:
                if self._first:
                    new = self._first.pop(0)
                    self._second.append((time.monotonic() + LATE, new))
                    return new
                if not self._second or self._stopping.is_set():
                    self._thread = None
                    return None
                wait = self._second[0][0] - time.monotonic()
            if wait <= 0:
                self._look_again(self._second.pop(0)[1])
            else:
                self._stopping.wait(min(wait, PAUSE))

    def _look_again(self, new: documents.New) -> None:
        with contextlib.suppress(errors.TesServerError):
            mongo_changes.take_back(self._connection, new)
