"""Verdicts of image scans in the embedded store: a table by their keys. Must never judge one."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator

import msgspec

from tes_server import telemetry
from tes_server.model.verdict import ScanKey, Verdict
from tes_server.store import base, parts

_log = logging.getLogger(__name__)


class Keep(msgspec.Struct, frozen=True):
    """One verdict, encoded; those that expired before `old` (microseconds) go."""

    key: str
    scanned: int
    expires: int
    body: bytes
    old: int
    wakes: bool = True

    def apply(self, connection: sqlite3.Connection) -> None:
        """Keep it, unless a newer one is there."""
        connection.execute("DELETE FROM verdicts WHERE expires < ?", (self.old,))
        connection.execute(
            "INSERT INTO verdicts VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET scanned = excluded.scanned, expires = excluded.expires, body = excluded.body WHERE excluded.scanned >= scanned",
            (self.key, self.scanned, self.expires, self.body),
        )


def keep(verdict: Verdict) -> Keep:
    """The change that keeps `verdict`."""
    scanned = parts.microseconds(verdict.scanned_at)
    old = parts.microseconds(verdict.scanned_at - base.VERDICTS_KEPT)
    return Keep(parts.verdict_key(verdict.key), scanned, parts.microseconds(verdict.expires_at), parts.encode(verdict), old)


def by_key(connection: sqlite3.Connection, keys: Collection[ScanKey]) -> Iterator[Verdict]:
    """Those that are there and can be read."""
    wanted = parts.encode([parts.verdict_key(key) for key in keys]).decode()
    yield from _readable(connection.execute("SELECT key, body FROM verdicts WHERE key IN (SELECT value FROM json_each(?))", (wanted,)))


def page(connection: sqlite3.Connection, after: ScanKey | None, limit: int) -> list[Verdict]:
    """`Store.all_verdicts`."""
    found: list[Verdict] = []
    behind = "" if after is None else parts.verdict_key(after)
    while missing := limit - len(found):
        rows = connection.execute("SELECT key, body FROM verdicts WHERE key > ? ORDER BY key LIMIT ?", (behind, missing)).fetchall()
        found += _readable(rows)
        if len(rows) < missing:
            break
        behind = rows[-1][0]
    return found


def _readable(rows: Iterable[tuple[str, bytes]]) -> Iterator[Verdict]:
    for key, body in rows:
        try:
            yield parts.verdict_of(body)
        except ValueError as cause:  # another version's, or written by hand
            telemetry.log(_log, logging.ERROR, "store.verdict_unreadable", verdict=key, why=str(cause))
