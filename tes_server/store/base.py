"""The protocol of a store. Implementations are held to `tests/contract/store_contract.py`.

A store decides nothing about tasks: it keeps what it is given and answers queries. It must never import control or api.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import datetime
import enum
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from tes_server.model.principal import ALL, Scope
from tes_server.model.record import Brief, Change, Lane, Page, Query, Record, View
from tes_server.model.run import Tails
from tes_server.model.states import State
from tes_server.model.verdict import ScanKey, Verdict

asked: contextvars.ContextVar[float | None] = contextvars.ContextVar("asked", default=None)
"""When (`time.monotonic`) the caller of this context began to wait. A store that waits for its database counts its patience
from there, so that neither a queue for threads nor a call of several parts adds to it. None: from each call."""

FAR = datetime.timedelta(hours=2)
"""No delay is so long (settings: an hour at most): what is due later was put off under a clock that has been set back since."""

VERDICTS_KEPT = datetime.timedelta(days=30)
"""Verdicts that expired so long ago may go."""


Shares = Callable[[Collection[str]], Mapping[str, int]]
"""From owners of whom tasks wait to how many of each one's are wanted at most. May ask the store."""


class Seen(NamedTuple):
    """What tells whether two stores have the same of a task."""

    id: str
    created: datetime.datetime
    revision: int


class Restored(enum.StrEnum):
    """What became of a record that came from another store."""

    MADE = "MADE"  #: there was none of its id
    CHANGED = "CHANGED"  #: an older revision of it was there
    THERE = "THERE"  #: it was there, or a newer revision of it
    OTHER = "OTHER"  #: another task has its id: left alone
    TOO_LARGE = "TOO_LARGE"  #: this store cannot hold it


class Store(Protocol):
    """Durable, shared between processes, safe to call from any thread."""

    blocking: bool
    """True if reads wait for a network: the API then calls `get` and `page` in a thread; otherwise on its event loop."""

    def insert(self, records: Sequence[Record], *, undo: Callable[[str], None] | None = None) -> concurrent.futures.Future[None]:
        """Keep new records, all or none. Durable once the future is done; it fails with `errors.Conflict` if an id is taken.

        Where it fails with `errors.Unavailable` and nobody knows whether they were stored, they are left as they are; with
        `undo` they are taken back as soon as the store answers, and `undo` is called with the id of each that has moved by
        then, in a thread of the store's and again after a `TesServerError`.
        Raises `errors.TooLarge` at once for what the store cannot hold.
        """

    def get(self, scope: Scope, task_id: str, view: View) -> Brief | None:
        """One task, or None if there is none in `scope`. Reads no more than the view needs; a `Record` for BASIC and FULL."""

    def page(self, query: Query) -> Page:
        """A page, newest first (created, then id, both descending), stable under inserts.

        BASIC and FULL pages may end before `size` tasks, so that large tasks do not make an answer without bound.
        """

    def hold(self, who: str, now: datetime.datetime) -> frozenset[int]:
        """The shards (`record.shard_of`) that this reconciler owns now. Renews what it holds; call it at every tick.

        `who` is a name that no other living process has: what a dead one of this name held is taken over at once. Raises
        `errors.NameTaken` where another living one has it all the same, as far as that can be told.
        """

    def alive(self) -> frozenset[str]:
        """The reconcilers (`who`) that were alive when this process last held its shards, itself among them."""

    def due(self, lane: Lane, shards: frozenset[int], now: datetime.datetime, limit: int, here: str = "", shares: Shares | None = None) -> list[Record]:
        """A read: records of `lane` with `due <= now`. A clock may be set back, so a WAITING record that was never put off
        (`due` is `created`), or is put off for longer than `FAR`, is due as well.

        ACTIVE: by due time, with status and detail, without task and logs. Of those that can be reached from one place only
        (`record.place_of`) a store of several reconcilers gives the ones of the place `here`, whatever their shard.
        WAITING: owner by owner (each owner's oldest first, then each owner's second, ...), with status, detail and the
        whole task, contents included. With `shares` no more of each owner than that says, and no more of its queue is read.
        """

    def load(self, ids: Collection[str]) -> list[Record]:
        """Those of the records that exist, with the parts that `due(ACTIVE)` reads. Any lane."""

    def sweep(self, shards: frozenset[int], after: str, limit: int, here: str = "") -> list[Record]:
        """A walk over the ACTIVE lane in the order of ids, from behind `after`, with the parts that `due(ACTIVE)` reads.

        All of the shards, those of other places too, and what is `here`, whatever its shard.
        """

    def save(self, changes: Sequence[Change]) -> set[str]:
        """Compare-and-swap on the revision, each change by itself. Durable when it returns; returns the ids that LOST."""

    def wait(self, seconds: float) -> bool:
        """Return after `seconds`, or earlier, with True, after a write of any process that may need work: a hint, never relied on."""

    def watch(self, task_id: str, until: datetime.datetime) -> None:
        """Somebody is reading this task's output: the reconciler should keep its `tail` fresh until then.

        Returns at once; may be lost. Each call costs a write: the caller renews sparingly."""

    def watched(self, now: datetime.datetime) -> set[str]:
        """Tasks whose watch has not run out."""

    def tail(self, task_id: str, tails: Tails | None = None) -> Tails | None:
        """Live output beside the record, without a revision: kept if `tails` is given, else read. Gone after the end."""

    def census(self, scope: Scope = ALL) -> dict[State, int]:
        """How many tasks of `scope` there are in each state that is not an end."""

    def under_way(self, owners: Collection[str]) -> dict[str, int]:
        """How many tasks of each of these owners are in the ACTIVE lane and have not ended: that are being submitted, run, or begin again.

        What was saved before the call, by whomever, is counted. The work grows with what is under way, not with what waits.
        """

    def verdicts(self, keys: Collection[ScanKey]) -> dict[ScanKey, Verdict]:
        """Those of the verdicts that are there, whatever they say and however old they are. One small read for a few keys.

        One that this program cannot read is not there: it is told in the log, and the next one takes its place.
        """

    def keep(self, verdict: Verdict) -> None:
        """Keep a verdict in the place of an older one about the same key; a newer one stays (`Verdict.supersedes`).

        Durable when it returns; a repeat changes nothing. Others that had expired `VERDICTS_KEPT` before it was made go with it, soon or later.
        """

    def all_verdicts(self, after: ScanKey | None, limit: int) -> list[Verdict]:
        """Verdicts in the order of their keys, from behind `after`; fewer than `limit` at the end."""

    def at_rest(self, shards: frozenset[int], before: datetime.datetime, after: str, limit: int) -> tuple[list[Record], str]:
        """Tasks that have ended, with nothing left to release, and were created before `before`: a page of a walk that looks at
        few others, without task, logs and detail. `after` is "" at its start; returned beside the page, "" at its end."""

    def expire(self, records: Sequence[Record]) -> int:
        """Remove these records, which are at rest, with all that is kept of them, each only if its revision is still the same.

        Returns how many went; they do not come back once it has returned. Makes no other write wait for long.
        """

    def walk(self, after: str, limit: int) -> list[Seen]:
        """All records, in the order of ids, from behind `after`; empty at the end."""

    def whole(self, ids: Collection[str]) -> Iterator[list[Record]]:
        """Those of the records that exist (and can be read), whole, in this order, in portions of some MB or of one record."""

    def restore(self, records: Sequence[Record]) -> dict[str, Restored]:
        """Keep whole records of another store, each once, whatever their state and revision; what became of each. Durable when it returns.

        Idempotent. A record that is there is brought to the newer one's state, never to an older one's.
        """

    def count(self) -> int:
        """About how many records there are, without a look at each of them."""

    def at_work(self) -> str:
        """Who moves tasks of this store, in words; "" if nobody, as far as can be told. Takes up to a lease's length.

        Not for a process that calls `hold`.
        """

    def check(self) -> None:
        """Raise `errors.Unavailable` if the store does not answer; for /readyz."""

    def close(self) -> None:
        """Give back files, threads and connections. Idempotent."""
