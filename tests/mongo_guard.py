"""Commands of the driver, held to what Cosmos DB for MongoDB (RU) takes (facts of its documentation; no server here refuses as it does).

Collects what it would refuse; a test that used it ends with `assert not guard.refused`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import bson
from pymongo import monitoring

from tes_server.store import mongo_schema
from tes_server.store.mongo_account import Product

DOCUMENT_BYTES = 2_000_000
COMMANDS = {"hello", "ismaster", "isMaster", "ping", "endSessions", "buildInfo", "insert", "update", "delete", "find", "getMore", "killCursors"} | {
    "aggregate", "count", "distinct", "findAndModify", "listCollections", "listIndexes", "createIndexes", "create", "drop", "dropDatabase"
}  # fmt: skip
QUERY = {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$and", "$or", "$nor", "$not", "$exists", "$all", "$elemMatch", "$size", "$type"}
UPDATE = {"$set", "$unset", "$inc", "$setOnInsert", "$push", "$pull", "$addToSet", "$min", "$max", "$currentDate", "$mul"}
STAGES = {"$match", "$project", "$sort", "$limit", "$skip", "$group", "$count", "$unwind", "$addFields"}
PLAIN = frozenset({"_id"})


class Guard(monitoring.CommandListener):
    """`refused`: what Cosmos DB would have refused, in words. `seen`: how often each command came."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.seen: dict[str, int] = {}
        self._indexed = {
            collection: PLAIN | {index.keys[0][0] for index in mongo_schema.indexes(Product.COSMOS_RU) if index.collection == collection}
            for collection in mongo_schema.COLLECTIONS
        }

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Look at a command before it goes out."""
        name, command = event.command_name, event.command
        self.seen[name] = self.seen.get(name, 0) + 1
        self.refused += [f"{name} {command.get(name)}: {why}" for why in self._faults(name, command)]

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to see."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to see: failures are the store's matter."""

    def _faults(self, name: str, command: Mapping[str, Any]) -> Iterator[str]:
        if name not in COMMANDS:
            yield "no such command"
        if "txnNumber" in command or "startTransaction" in command:
            yield "a transaction or a retryable write"
        for part in ("let", "collation", "hint", "readConcern"):
            if part in command:
                yield f"option {part}"
        if command.get("skip"):
            yield "skip costs what it skips"
        collection = str(command.get(name, ""))
        if name == "find":
            yield from self._query(command.get("filter", {}))
            yield from self._sort(collection, command.get("sort", {}))
            yield from self._filter(collection, command.get("filter", {}))
        elif name == "distinct":
            yield from self._query(command.get("query", {}))
            yield from self._filter(collection, {command["key"]: 1, **command.get("query", {})})
        elif name == "aggregate":
            for stage in command["pipeline"]:
                yield from (f"stage {operator}" for operator in stage if operator not in STAGES)
                yield from self._sort(collection, stage.get("$sort", {}))
                yield from self._filter(collection, stage.get("$match", {}))
        elif name == "insert":
            yield from self._documents(command.get("documents", ()))
        elif name == "update":
            for each in command.get("updates", ()):
                yield from self._update(each)
        elif name == "delete":
            for each in command.get("deletes", ()):
                yield from self._query(each["q"])

    def _query(self, query: Any) -> Iterator[str]:
        if isinstance(query, Mapping):
            for key, value in query.items():
                if key.startswith("$") and key not in QUERY:
                    yield f"operator {key}"
                yield from self._query(value)
        elif isinstance(query, list):
            for each in query:
                yield from self._query(each)
        elif isinstance(query, bson.regex.Regex | re.Pattern):
            yield "a regular expression: a range on an indexed field does what prefixes need"

    def _sort(self, collection: str, sort: Mapping[str, int]) -> Iterator[str]:
        if len(sort) > 1:
            yield f"order by {', '.join(sort)} needs a compound index in this order"
        for field in sort:
            if field not in self._indexed.get(collection, PLAIN):
                yield f"order by {field}, which has no index of its own"

    def _filter(self, collection: str, where: Mapping[str, Any]) -> Iterator[str]:
        """Each field of a filter has an index, or the documents are named: else a query costs what the collection holds."""
        named = where.get("_id")
        if named is not None and (not isinstance(named, Mapping) or "$in" in named):
            return
        for field, value in where.items():
            if field in ("$and", "$or"):
                for each in value:
                    yield from self._filter(collection, each)
            elif field not in self._indexed.get(collection, PLAIN):
                yield f"filter by {field}, which has no index"

    def _documents(self, documents: Any) -> Iterator[str]:
        for document in documents:
            if (size := len(bson.encode(document))) > DOCUMENT_BYTES:
                yield f"a document of {size} bytes"

    def _update(self, each: Mapping[str, Any]) -> Iterator[str]:
        if "arrayFilters" in each or isinstance(each["u"], list):
            yield "an update by pipeline or array filters"
            return
        yield from self._query(each["q"])
        if not each.get("multi") and "_id" not in each["q"]:
            yield "a single update without the shard key"
        operators = [key for key in each["u"] if key.startswith("$")]
        yield from (f"operator {key}" for key in operators if key not in UPDATE)
        if (size := len(bson.encode(each["u"]))) > DOCUMENT_BYTES:
            yield f"an update of {size} bytes"
