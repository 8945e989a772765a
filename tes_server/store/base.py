"""The protocol of a store. Implementations are held to `tests/contract/store_contract.py`.

A store decides nothing about tasks: it keeps what it is given and answers queries. It must never import control or api.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import datetime
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from tes_server.model.principal import Scope
from tes_server.model.record import Brief, Change, Lane, Page, Query, Record, View
from tes_server.model.run import Tails
from tes_server.model.states import State

asked: contextvars.ContextVar[float | None] = contextvars.ContextVar("asked", default=None)
"""When (`time.monotonic`) the caller of this context began to wait. A store that waits for its database counts its patience
from there, so that neither a queue for threads nor a call of several parts adds to it. None: from each call."""

FAR = datetime.timedelta(hours=2)
"""No delay is so long (settings: an hour at most): what is due later was put off under a clock that has been set back since."""


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
        """The shards (`record.shard_of`) that this reconciler owns now. Renews what it holds; call it at every tick."""

    def due(self, lane: Lane, shards: frozenset[int], now: datetime.datetime, limit: int) -> list[Record]:
        """A read: records of `lane` with `due <= now`. A clock may be set back, so a WAITING record that was never put off
        (`due` is `created`), or is put off for longer than `FAR`, is due as well.

        ACTIVE: by due time, with status and detail, without task and logs.
        WAITING: owner by owner (each owner's oldest first, then each owner's second, ...), with status, detail and the
        whole task, contents included.
        """

    def load(self, ids: Collection[str]) -> list[Record]:
        """Those of the records that exist, with the parts that `due(ACTIVE)` reads. Any lane."""

    def sweep(self, shards: frozenset[int], after: str, limit: int) -> list[Record]:
        """A walk over the ACTIVE lane in the order of ids, from behind `after`, with the parts that `due(ACTIVE)` reads."""

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

    def census(self) -> dict[State, int]:
        """How many tasks there are in each state that is not an end."""

    def check(self) -> None:
        """Raise `errors.Unavailable` if the store does not answer; for /readyz."""

    def close(self) -> None:
        """Give back files, threads and connections. Idempotent."""
