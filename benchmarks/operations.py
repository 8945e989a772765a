"""What a store asks of MongoDB, as the driver's listener sees it: documents written, queries read, and how large they are."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import bson
import msgspec
from pymongo import monitoring

WRITES = frozenset({"insert", "update", "delete"})
READS = frozenset({"find", "getMore", "aggregate", "distinct"})


class Operation(msgspec.Struct, frozen=True):
    """One document written, or one query.

    `size`: bytes of the document as it is after an insert or an update (0 for one whose insert was not seen), and of all that a
    query was answered; `documents`: how many those were. `named`: a read of one document by its id.
    """

    kind: str
    collection: str
    size: int
    documents: int = 1
    named: bool = False


class Operations(monitoring.CommandListener):
    """Collects them in `seen`, in order. With `sizes` it follows each document through its updates: for few documents."""

    def __init__(self, *, sizes: bool = False) -> None:
        self.seen: list[Operation] = []
        self._sizes = sizes
        self._named: set[int] = set()
        self._kept: dict[tuple[str, object], dict[str, Any]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Writes count when they are sent, one by one, whatever becomes of them."""
        name, command = event.command_name, event.command
        collection = str(command.get(name, ""))
        if name == "insert":
            for document in command["documents"]:
                self._wrote(name, collection, dict(document) if self._sizes else None)
        elif name == "update":
            for each in command["updates"]:
                known = self._kept.get((collection, each["q"].get("_id")))
                self._wrote(name, collection, None if known is None else updated(known, each["u"]))
        elif name == "find" and isinstance(command.get("filter", {}).get("_id"), str):
            self._named.add(event.request_id)
        elif name == "delete":
            self.seen += [Operation(name, collection, 0)] * len(command["deletes"])

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Reads count when they are answered."""
        if event.command_name in READS:
            cursor = event.reply.get("cursor", {})
            found = [*cursor.get("firstBatch", ()), *cursor.get("nextBatch", ())]
            collection = str(cursor.get("ns", "")).partition(".")[2]
            size = sum(len(bson.encode(each)) for each in found) if self._sizes else 0
            named = event.request_id in self._named
            self._named.discard(event.request_id)
            self.seen.append(Operation(event.command_name, collection, size, len(found), named))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to count."""

    def take(self) -> list[Operation]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, []
        return seen

    def _wrote(self, kind: str, collection: str, document: dict[str, Any] | None) -> None:
        if document is None:
            self.seen.append(Operation(kind, collection, 0))
            return
        self._kept[collection, document["_id"]] = document
        self.seen.append(Operation(kind, collection, len(bson.encode(document))))


LEASES = "meta"
"""The collection of the reconcilers' leases: they are renewed by the clock, whatever the tasks do."""


def of_tasks(seen: Sequence[Operation]) -> list[Operation]:
    """Without the leases."""
    return [each for each in seen if each.collection != LEASES]


def counted(seen: Sequence[Operation]) -> tuple[int, int]:
    """How many documents were written, and how many queries read."""
    kinds = collections.Counter(each.kind for each in seen)
    return sum(kinds[kind] for kind in WRITES), sum(kinds[kind] for kind in READS)


def updated(document: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """A document after an update with `$set` and `$unset`."""
    changed = dict(document)
    for path, value in update.get("$set", {}).items():
        *outer, last = path.split(".")
        inner = changed
        for name in outer:
            inner[name] = dict(inner.get(name, {}))
            inner = inner[name]
        inner[last] = value
    for path in update.get("$unset", {}):
        changed.pop(path, None)
    return changed
