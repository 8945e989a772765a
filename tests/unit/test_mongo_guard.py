"""The guard itself is held by commands that Cosmos DB (RU) would refuse: a checker that never fails checks nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests import mongo_guard


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ({"find": "tasks", "filter": {}, "sort": {"revision": 1}}, "order by revision"),
        ({"find": "tasks", "filter": {}, "sort": {"owner": 1, "at": -1}}, "compound index"),
        ({"find": "tasks", "filter": {"status": "x"}}, "filter by status"),
        ({"find": "tasks", "filter": {"$or": [{"at": 1}, {"status": "x"}]}}, "filter by status"),
        ({"find": "tasks", "filter": {"_id": {"$gt": "a"}, "status": "x"}}, "filter by status"),
        ({"find": "tasks", "filter": {"name": re.compile("^a")}}, "regular expression"),
        ({"find": "tasks", "filter": {"at": {"$gt": 1}}, "skip": 5}, "skip"),
        ({"find": "tasks", "filter": {"$expr": {}}}, "operator $expr"),
        ({"find": "tasks", "filter": {"$and": [{"$where": "1"}]}}, "operator $where"),
        ({"find": "tasks", "filter": {}, "collation": {}}, "collation"),
        ({"aggregate": "tasks", "pipeline": [{"$graphLookup": {}}]}, "stage $graphLookup"),
        ({"aggregate": "tasks", "pipeline": [{"$match": {"status": 1}}]}, "filter by status"),
        ({"insert": "tasks", "documents": [{"_id": 1, "x": "x" * 2_000_001}]}, "document of"),
        ({"insert": "tasks", "documents": [], "txnNumber": 1}, "transaction"),
        ({"insert": "tasks", "documents": [], "startTransaction": True}, "transaction"),
        ({"update": "tasks", "updates": [{"q": {"_id": 1}, "u": [{"$set": {}}]}]}, "pipeline"),
        ({"update": "tasks", "updates": [{"q": {"_id": 1}, "u": {"$rename": {}}}]}, "operator $rename"),
        ({"update": "tasks", "updates": [{"q": {"owner": 1}, "u": {"$set": {}}}]}, "shard key"),
        ({"update": "tasks", "updates": [{"q": {"_id": 1}, "u": {"$set": {"x": "x" * 2_000_001}}}]}, "update of"),
        ({"renameCollection": "tasks"}, "no such command"),
        ({"distinct": "tasks", "key": "status", "query": {}}, "filter by status"),
    ],
    ids=str,
)
def test_what_would_be_refused_is_found(command: dict[str, Any], why: str) -> None:
    found = list(mongo_guard.Guard()._faults(next(iter(command)), command))
    assert len(found) >= 1
    assert why in " ".join(found)


def test_what_is_allowed_passes() -> None:
    for command in (
        {"find": "tasks", "filter": {"owner": "a", "at": {"$lt": "x"}, "tags": {"$all": ["a"]}}, "sort": {"at": -1}},
        {"update": "tasks", "updates": [{"q": {"_id": 1, "revision": 2}, "u": {"$set": {"a": 1}, "$unset": {"b": ""}}}]},
        {"insert": "tasks", "documents": [{"_id": 1}]},
        {"find": "tasks", "filter": {"_id": "a", "status": "x"}},
    ):
        assert list(mongo_guard.Guard()._faults(next(iter(command)), command)) == []
