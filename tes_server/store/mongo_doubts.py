"""Creates of which nobody knows whether they were stored: their callers were told 503, so they are taken back as soon as the store answers.

In memory only: a process that ends in the midst of an outage leaves what was stored, and says so. Must never touch a task
that has moved: its caller knows how to undo that one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from tes_server import errors, telemetry
from tes_server.store import mongo_changes
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_connection import Connection

_log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between two looks whether the store answers; each look waits by itself too."""

LATE = 60.0
"""Seconds after which each is looked for once more: a write may have lain in a server that stood still, behind the one that took it back."""


Doubt: TypeAlias = tuple[documents.New, Callable[[str], None]]
"""What may have been stored (`documents.traces`), and how to undo it where it has moved."""


class Doubts:
    """The creates in doubt of this process, and the thread that waits for the store; there is one only while there is a doubt."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._gate = threading.Lock()
        self._first: list[Doubt] = []
        self._second: list[tuple[float, Doubt]] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def add(self, doubts: Iterable[Doubt]) -> None:
        """Take these back when that can be done. Returns at once."""
        with self._gate:
            # Thousands in a long outage, and their contents may be megabytes.
            self._first += ((documents.traces(new), undo) for new, undo in doubts)
            if self._first and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="store-doubts", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Try once more, then say what is left."""
        self._stopping.set()
        if (thread := self._thread) is not None:
            thread.join()
        for new, _ in self._first:
            telemetry.log(_log, logging.ERROR, "create.not_taken_back", task=new.document["_id"], why="the process ended while the store was away")
        self._first = []

    def _run(self) -> None:
        while (doubt := self._next()) is not None:
            new, undo = doubt
            try:
                gone = mongo_changes.take_back(self._connection, new)
                if not gone:
                    undo(new.document["_id"])
            except errors.TesServerError:
                with self._gate:
                    self._first.append(doubt)
                if self._stopping.wait(PAUSE):
                    return
                continue
            except Exception:  # noqa: BLE001 - a fault of ours with one must not leave the others
                _log.exception("create.not_taken_back", extra={"fields": {"task": new.document["_id"]}})
                continue
            telemetry.log(_log, logging.WARNING, "create.taken_back", task=new.document["_id"], moved=not gone)

    def _next(self) -> Doubt | None:
        """The next one to take back, when it is time; None if there is none left."""
        while True:
            with self._gate:
                if self._first:
                    doubt = self._first.pop(0)
                    self._second.append((time.monotonic() + LATE, doubt))
                    return doubt
                if not self._second or self._stopping.is_set():
                    self._thread = None
                    return None
                wait = self._second[0][0] - time.monotonic()
            if wait <= 0:
                self._look_again(self._second.pop(0)[1])
            else:
                self._stopping.wait(min(wait, PAUSE))

    def _look_again(self, doubt: Doubt) -> None:
        new, undo = doubt
        with contextlib.suppress(errors.TesServerError):
            if not mongo_changes.take_back(self._connection, new):
                undo(new.document["_id"])
