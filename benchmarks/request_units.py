"""What operations cost on Azure Cosmos DB for MongoDB (RU), by the vendor's published rule of thumb. Pure.

Nobody but the service knows: the table is for documents by their size, with session consistency; what indexes, several
regions and queries that read many documents add is not in it. An estimate, for choosing limits and a first throughput.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from benchmarks.operations import WRITES, Operation

TABLE = (
    # KB, one read, one write
    (1, 1.00, 4.95),
    (2, 1.04, 6.29),
    (4, 1.14, 6.67),
    (8, 1.33, 7.04),
    (16, 1.67, 9.52),
    (32, 2.19, 11.23),
    (64, 4.76, 22.67),
    (128, 9.95, 48.19),
    (256, 20.28, 98.29),
    (512, 40.95, 184.57),
    (1024, 145.90, 625.00),
    (2048, 291.80, 1250.00),
)
"""https://learn.microsoft.com/azure/cosmos-db/understand-request-unit-consumption (November 2026)"""

REPLACED = 2.0
"""A replace is said to cost up to twice an insert (https://learn.microsoft.com/azure/cosmos-db/optimize-cost-reads-writes): the high estimate."""

QUERY = 3.0
"""A query of one partition for one small document, by an index (https://learn.microsoft.com/training, "Monitor and scale Cosmos DB")."""


def read(size: int) -> float:
    """One document of `size` bytes, by its id."""
    return _between(size, 1)


def write(size: int) -> float:
    """One document of `size` bytes, inserted."""
    return _between(size, 2)


def _between(size: int, column: int) -> float:
    kilobytes = max(1.0, size / 1024)
    for low, high in itertools.pairwise(TABLE):
        if kilobytes <= high[0]:
            return low[column] + (high[column] - low[column]) * (kilobytes - low[0]) / (high[0] - low[0])
    raise ValueError(f"{size} bytes are more than a document may have")


def cost(operation: Operation, updates: float = 1.0) -> float:
    """One operation; `updates`: an update by an insert of the same document.

    A query of several documents is charged for each as if it were read by its id: a page that an index covers costs less.
    """
    if operation.kind in WRITES:
        return write(operation.size) * (updates if operation.kind == "update" else 1.0)
    if operation.named:
        return read(operation.size)
    return QUERY + sum(read(operation.size // operation.documents) for _ in range(operation.documents - 1))


def total(operations: Iterable[Operation], updates: float = 1.0) -> float:
    """All of them."""
    return sum(cost(each, updates) for each in operations)
