"""How many tasks of one owner may be under way at a time: who may start more, and how much of whose queue is worth reading.

What is under way is counted in the store at each look, so that nothing is lost with this process. Several reconcilers may meet: each
counts again between its intents and the submit, and takes back what was too much (`over`). Must never refuse a task, nor write to one that
waits: that owners are bounded is told to each task when it is created (`words`).
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence

from tes_server.model.principal import SCANS
from tes_server.model.record import Record
from tes_server.store.base import Store

AHEAD = 20
"""Tasks that are read beyond those that may start: some of these wait for an image or for more room, and let others pass."""

ANY = 10**9


def words(most: int) -> str:
    """The bound, for people; "" if there is none."""
    return f"of one owner's tasks {most} are under way at a time" if most else ""


class Running:
    """The bound `most` (0 = any) for one reconciler, whose thread alone calls it."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._left: dict[str, int] = {}
        self.full = False
        """at the last look somebody had as many under way as may be"""

    def begin(self) -> None:
        """A new look: what was counted is forgotten."""
        self._left.clear()
        self.full = False

    def shares(self, owners: Collection[str]) -> Mapping[str, int]:
        """`store.base.Shares`: of whoever may start none, none is read."""
        left = self.left(owners)
        self.full = self.full or 0 in left.values()
        return {owner: left.get(owner, ANY) and left.get(owner, ANY) + AHEAD for owner in owners}

    def left(self, owners: Iterable[str]) -> Mapping[str, int]:
        """How many more of each owner may start; who is not named has no bound."""
        if not self._most:
            return {}
        bounded = {owner for owner in owners if owner != SCANS.owner}
        if unknown := bounded - self._left.keys():
            self._left |= {owner: max(0, self._most - count) for owner, count in self._store.under_way(unknown).items()}
        return {owner: self._left[owner] for owner in bounded}

    def started(self, records: Iterable[Record]) -> None:
        """These are under way from now on."""
        for record in records:
            if record.owner in self._left:
                self._left[record.owner] -= 1

    def over(self, intended: Sequence[Record]) -> set[str]:
        """Of these, whose intents are saved and which nobody has submitted yet, by id the ones that are too many: each owner's newest.

        Whoever of several reconcilers counts last sees the intents of all that went on before: together they never go on with too many.
        """
        by_owner: dict[str, list[Record]] = collections.defaultdict(list)
        for record in intended:
            if record.owner != SCANS.owner:
                by_owner[record.owner].append(record)
        counts = self._store.under_way(by_owner) if self._most and by_owner else {}
        taken_back: set[str] = set()
        for owner, count in counts.items():
            newest = sorted(by_owner[owner], key=lambda record: (record.created, record.id), reverse=True)
            taken_back.update(record.id for record in newest[: max(0, count - self._most)])
        return taken_back
