"""What operations are priced at: the vendor's table at its points, and between them."""

from __future__ import annotations

import pytest

from benchmarks import request_units
from benchmarks.operations import Operation, counted, updated
from tes_server.store import mongo_documents


@pytest.mark.parametrize(("kilobytes", "read", "write"), request_units.TABLE)
def test_the_table_is_met(kilobytes: int, read: float, write: float) -> None:
    assert request_units.read(kilobytes * 1024) == pytest.approx(read)
    assert request_units.write(kilobytes * 1024) == pytest.approx(write)


def test_between_its_points_it_is_straight_and_below_the_first_flat() -> None:
    assert request_units.write(3 * 1024) == pytest.approx((6.29 + 6.67) / 2)
    assert request_units.write(1) == request_units.write(1024) == 4.95
    with pytest.raises(ValueError, match="more than a document may have"):
        request_units.write(3 * 1024 * 1024)


def test_reads_and_writes_of_a_life_are_summed() -> None:
    insert, update = (Operation(kind, "tasks", 1024) for kind in ("insert", "update"))
    by_id = Operation("find", "tasks", 1024, 1, named=True)
    query = Operation("find", "tasks", 10 * 1024, 10)
    empty = Operation("find", "tasks", 0, 0)
    assert request_units.total([insert, update, by_id]) == pytest.approx(4.95 + 4.95 + 1)
    assert request_units.total([insert, update], request_units.REPLACED) == pytest.approx(4.95 + 9.9)
    assert request_units.cost(query) == pytest.approx(request_units.QUERY + 9)
    assert request_units.cost(empty) == request_units.QUERY
    assert counted([insert, update, by_id, query, empty]) == (2, 3)


def test_an_update_is_followed_into_parts_and_leaves_the_old_document_alone() -> None:
    before = {"_id": "a", "state": "QUEUED", "lane": "WAITING", "parts": {"task": "{}"}}
    after = updated(before, {"$set": {"state": "RUNNING", "parts.detail": "x"}, "$unset": {"lane": ""}})
    assert after == {"_id": "a", "state": "RUNNING", "parts": {"task": "{}", "detail": "x"}}
    assert before == {"_id": "a", "state": "QUEUED", "lane": "WAITING", "parts": {"task": "{}"}}


SMALL = 800
"""Bytes of a task's document without its parts."""


def inline(part: int, updates: float) -> float:
    """What a part adds to the insert and the five updates of the document that it lies in."""
    return (1 + 5 * updates) * (request_units.write(SMALL + part) - request_units.write(SMALL))


def apart(part: int) -> float:
    """What it costs in a document of its own: its insert, a query when the task starts and one for a look, its removal."""
    return 2 * request_units.write(part) + 2 * request_units.QUERY


def test_parts_lie_in_the_document_as_long_as_that_is_not_dearer() -> None:
    """`mongo_documents.INLINE_BYTES`, as docs/scaling.md argues for it."""
    limit = mongo_documents.INLINE_BYTES
    assert inline(limit, 1.0) < 0.6 * apart(limit)
    assert inline(limit, request_units.REPLACED) == pytest.approx(apart(limit), rel=0.1)
    assert inline(2 * limit, request_units.REPLACED) > 1.1 * apart(2 * limit)
