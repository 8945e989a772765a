"""The spool: a directory or an object prefix through which plans go to attempts, and live output and reports come back.

`<task>/<attempt>/{plan,started,tail,report}.json`. Where a platform may start one attempt twice (AWS Batch has no unique job names,
Azure Batch reruns by itself), a run first takes the attempt: `started` is made by a write that succeeds for one of many, and
the others end without having done anything. This module must never decide anything by a time: clocks differ.
"""

from __future__ import annotations

import concurrent.futures
import logging
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from tes_server import errors, telemetry
from tes_server.model.run import Report, Tails
from tes_server.plan.steps import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST = 256 * 1024 * 1024
"""Bytes of one object that are read: far above any plan or report, and what a process may hold in memory."""

TAKES = 3
"""Tries to take an attempt that is told to be taken, and is not: its taker was refused for a conflict, or it is being swept."""

RIVALS = 8
"""Writers that try at once to make the same object when a spool is checked."""

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_ATTEMPT = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,127})/([1-9][0-9]{0,8})/[a-z]+\.json")


class Attempt(NamedTuple):
    """One attempt of a task."""

    task: str
    number: int

    def name_of(self, what: str) -> str:
        """The name of one of its objects. ValueError for a task whose id could lead elsewhere."""
        if not _TASK.fullmatch(self.task) or self.number < 1:
            raise ValueError(f"no attempt has the name {self.task!r}, {self.number}")
        return f"{self.task}/{self.number}/{what}.json"


class Started(msgspec.Struct, frozen=True):
    """Who runs an attempt. `run` names one start of one job and nothing else in the world."""

    run: str


class Shelf(Protocol):
    """Named objects, whole or not there at all. Thread-safe. Names are relative, `/` between parts, and were checked.

    Every method raises `errors.Unavailable` if the place does not answer or refuses.
    """

    def read(self, name: str, limit: int) -> bytes | None:
        """All bytes; None if there is no such object, or it is larger than `limit`."""

    def write(self, name: str, data: bytes) -> None:
        """Put an object there, in place of one of that name; durable when it returns."""

    def create(self, name: str, data: bytes) -> bool:
        """Put an object there if there is none: of many at once exactly one is told True, and may then be told False.

        The latter if its answer is lost on the way: what is there must be read to be sure. Durable when it returns.
        """

    def names(self, prefix: str) -> Iterator[str]:
        """Names that begin with `prefix` (of whole parts), in no order."""

    def remove(self, names: Collection[str]) -> None:
        """Delete objects, in this order; one that is missing is fine."""


class Spool:
    """The plans, starts, live output and reports of attempts on a shelf. Thread-safe."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def check(self) -> None:
        """Try what a spool must be able to do, at start. Raises SettingsError if it cannot, Unavailable if it does not answer.

        Stores that speak S3 and do not know conditional writes let every writer win: such a spool would run tasks twice.
        """
        name = f"check/1/{''.join(secrets.choice('abcdefghijklmnop') for _ in range(16))}.json"
        try:
            with concurrent.futures.ThreadPoolExecutor(RIVALS, thread_name_prefix="tes-spool") as pool:
                wins = list(pool.map(lambda number: self._shelf.create(name, b"%d" % number), range(RIVALS)))
            if sum(wins) > 1 or self._shelf.create(name, b"late"):
                raise errors.SettingsError("several writers can make the same object there: conditional writes (If-None-Match) are needed", "spool.url")
            seen = self._shelf.read(name, LARGEST)
            if seen is None or not seen.isdigit() or (any(wins) and not wins[int(seen)]) or name not in self._shelf.names("check/1"):
                raise errors.SettingsError("what is written there cannot be read at once", "spool.url")
        finally:
            self._shelf.remove([name])

    # -- the server's side ------------------------------------------------------------------------------------------

    def put_plan(self, attempt: Attempt, plan: Plan) -> None:
        """Keep the plan of an attempt before its job is submitted. Idempotent."""
        self._shelf.write(attempt.name_of("plan"), msgspec.json.encode(plan))

    def withdraw(self, attempt: Attempt) -> None:
        """No run that has not taken the attempt yet will do anything any more: look at `started` after this to know of one that has. Idempotent."""
        self._shelf.remove([attempt.name_of("plan")])

    def started(self, attempt: Attempt) -> Started | None:
        """Who took the attempt."""
        return self._get(attempt, "started", lambda data: msgspec.json.decode(data, type=Started))

    def report(self, attempt: Attempt) -> Report | None:
        """The report of an attempt that has ended."""
        return self._get(attempt, "report", lambda data: msgspec.json.decode(data, type=Report))

    def tail(self, attempt: Attempt) -> Tails | None:
        """The output up to now of an attempt, as it was told last."""
        return self._get(attempt, "tail", lambda data: msgspec.json.decode(data, type=Tails))

    def attempts(self, task: str = "") -> set[Attempt]:
        """Attempts, of one task or of all, that have left anything."""
        found = (_ATTEMPT.fullmatch(name) for name in self._shelf.names(task))
        return {Attempt(match[1], int(match[2])) for match in found if match and match[1] != "check"}

    def sweep(self, attempt: Attempt) -> None:
        """Delete all of an attempt that has ended and whose report is saved elsewhere. Idempotent."""
        # The plan before the mark: a run that comes late and finds the attempt free finds nothing to do.
        self._shelf.remove([attempt.name_of(what) for what in ("plan", "report", "tail", "started")])

    # -- the attempt's side -----------------------------------------------------------------------------------------

    def take(self, attempt: Attempt, run: str) -> bool:
        """True for exactly one `run` of all that try, however often it tries; the others must end without an effect.

        If this raises Unavailable the attempt may have been taken; ask again with the same `run`.
        """
        name, mine = attempt.name_of("started"), msgspec.json.encode(Started(run))
        for _ in range(TAKES):
            if self._shelf.create(name, mine):
                return True
            # Perhaps by us: the answer to our own write may have been lost, and the write repeated below us.
            taken = self._shelf.read(name, LARGEST)
            if taken is not None:
                return taken == mine
        return False

    def plan(self, attempt: Attempt) -> Plan | None:
        """The plan; None also for an attempt that was swept: there is nothing to do any more."""
        return self._get(attempt, "plan", lambda data: msgspec.json.decode(data, type=Plan))

    def put_report(self, attempt: Attempt, report: Report) -> None:
        """Keep the report: whole and durable when this returns. Only who took the attempt may call it."""
        self._shelf.write(attempt.name_of("report"), msgspec.json.encode(report))

    def put_tail(self, attempt: Attempt, tails: Tails) -> None:
        """Show the output up to now, in place of what was told before. Only who took the attempt may call it, and not after its report."""
        self._shelf.write(attempt.name_of("tail"), msgspec.json.encode(tails))

    def _get(self, attempt: Attempt, what: str, decoded: Callable[[bytes], T]) -> T | None:
        """An object of an attempt; None if there is none. One that is no such thing counts as missing, and the log has it."""
        name = attempt.name_of(what)
        data = self._shelf.read(name, LARGEST)
        if data is None:
            return None
        try:
            return decoded(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            telemetry.log(logger, logging.ERROR, "spool.spoiled", name=name, error=str(cause))
            return None
