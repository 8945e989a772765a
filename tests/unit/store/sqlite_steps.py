"""How much of a database SQLite looks at for an answer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from tes_server.store import sqlite


class Count(NamedTuple):
    """So many times `every` steps of SQLite's machine, once the block has ended."""

    ticks: list[None]

    @property
    def so_far(self) -> int:
        return len(self.ticks)


@contextlib.contextmanager
def counted(store: sqlite.SqliteStore, every: int) -> Iterator[Count]:
    """Those of reads of the store, which must have one reader by now."""
    connection: sqlite3.Connection
    (connection,) = store._readers
    count = Count([])
    connection.set_progress_handler(lambda: count.ticks.append(None), every)
    try:
        yield count
    finally:
        connection.set_progress_handler(None, 0)
