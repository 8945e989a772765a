"""The reconciler's reads of the embedded store: what is due, fairly between owners, and what is live. Knows no thread and no file."""

# ruff: noqa: S608 - every text is bound; what is pasted into statements are constants and numbers
from __future__ import annotations

import datetime
import itertools
import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping

from tes_server.model import record as model
from tes_server.model import states
from tes_server.store import base, parts
from tes_server.store import sqlite_rows as rows

_FAR = base.FAR // datetime.timedelta(microseconds=1)
_ENDS = ", ".join(f"'{state}'" for state in sorted(states.ENDS))
_LIVE = ", ".join(f"'{state}'" for state in sorted(states.LIVE))
_AHEAD = "SELECT 1 FROM tasks INDEXED BY waiting WHERE lane = 'WAITING' AND owner = ? AND created > ? LIMIT 1"

_Entry = tuple[int, str, int]
"""created, id, row number"""


def _shard_check(shards: Collection[int]) -> str:
    if len(shards) == model.SHARDS:
        return ""
    # No shard is -1. With an empty list SQLite would find INDEXED BY impossible to obey.
    return f"AND shard IN ({', '.join(map(str, sorted(shards) or [-1]))})"


def by_seq(connection: sqlite3.Connection, seqs: Collection[int], wanted: tuple[str, ...], most: float = math.inf) -> list[model.Record]:
    """The records with these row numbers, in this order; after `most` bytes of them no more are read."""
    return _each(connection, f"{rows.select(wanted)} WHERE t.seq = ?", seqs, most)


def by_id(connection: sqlite3.Connection, ids: Collection[str], wanted: tuple[str, ...]) -> list[model.Record]:
    """The records with these ids, as far as they exist."""
    return _each(connection, f"{rows.select(wanted)} WHERE t.id = ?", ids)


def _each(connection: sqlite3.Connection, statement: str, keys: Iterable[object], most: float = math.inf) -> list[model.Record]:
    # One prepared statement run for each key costs no more than a join with a list of them, and keeps the order.
    found: list[model.Record] = []
    size = 0
    for key in keys:
        if size > most:
            break
        row = connection.execute(statement, (key,)).fetchone()
        if row is not None:
            size += sum(len(part) for part in row if isinstance(part, bytes))
            found.append(rows.record_of(row))
    return found


def portions(connection: sqlite3.Connection, ids: Collection[str], most: int) -> Iterator[list[model.Record]]:
    """The records with these ids, as far as they exist, whole, in portions of about `most` bytes."""
    statement = f"{rows.select(parts.PARTS)} WHERE t.id = ?"
    portion: list[model.Record] = []
    size = 0
    for task_id in ids:
        row = connection.execute(statement, (task_id,)).fetchone()
        if row is not None:
            portion.append(rows.record_of(row))
            size += sum(len(part) for part in row if isinstance(part, bytes))
        if size > most:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def due_active(connection: sqlite3.Connection, shards: Collection[int], now: int, limit: int) -> list[int]:
    """Row numbers of the ACTIVE lane, by due time."""
    statement = f"SELECT seq FROM tasks INDEXED BY queue WHERE lane = 'ACTIVE' AND due <= ? {_shard_check(shards)} ORDER BY due LIMIT ?"
    return [seq for (seq,) in connection.execute(statement, (now, limit))]


def due_waiting(connection: sqlite3.Connection, shards: Collection[int], now: int, limit: int, shares: base.Shares | None = None) -> list[int]:
    """Row numbers of the WAITING lane: each owner's oldest (the oldest of them first), then each owner's second, ...

    Takes from each owner's end of the index only what its fair share may need, however much the owner has waiting; where few are due, only these,
    however many have been put off.
    """
    owners = list(_waiting_owners(connection))
    most = dict.fromkeys(owners, limit) if shares is None else _most(connection, owners, shares)
    few = _few(connection, owners, shards, now, limit)
    taken = _fair(connection, most, shards, now, limit) if few is None else {owner: due[: most.get(owner, limit)] for owner, due in few.items()}
    ranks = itertools.zip_longest(*taken.values())
    fair = (entry for rank in ranks for entry in sorted(entry for entry in rank if entry is not None))
    return [seq for _, _, seq in itertools.islice(fair, limit)]


def _few(connection: sqlite3.Connection, owners: Collection[int], shards: Collection[int], now: int, limit: int) -> dict[int, list[_Entry]] | None:
    """All that are due, by owner; None if these are more than `limit`, or the time alone does not tell which they are."""
    if any(connection.execute(_AHEAD, (owner, now)).fetchone() for owner in owners):
        return None  # created later than now, before the clock was set back: what was never put off is due as well
    taken: dict[int, list[_Entry]] = {owner: [] for owner in owners}
    left = limit
    for bound, time in (("due <= ?", now), ("due > ?", now + _FAR)):
        where = f"FROM tasks INDEXED BY queue WHERE lane = 'WAITING' AND {bound} {_shard_check(shards)} LIMIT ?"
        (count,) = connection.execute(f"SELECT count(*) FROM (SELECT 1 {where})", (time, left + 1)).fetchone()
        if count > left:
            return None
        for owner, *entry in connection.execute(f"SELECT owner, created, id, seq {where}", (time, left)):
            taken.setdefault(owner, []).append((entry[0], entry[1], entry[2]))
        left -= count
    return {owner: sorted(entries) for owner, entries in taken.items()}


def _fair(connection: sqlite3.Connection, most: Mapping[int, int], shards: Collection[int], now: int, limit: int) -> dict[int, list[_Entry]]:
    """The oldest that are due, by owner, as many as a fair share of `limit` may need, and no more than `most` of each."""
    statement = (
        "SELECT created, id, seq FROM tasks INDEXED BY waiting WHERE lane = 'WAITING' AND owner = ? "
        f"AND (created, id) > (?, ?) AND (due <= ? OR due = created OR due > ?) {_shard_check(shards)} ORDER BY created, id LIMIT ?"
    )
    taken: dict[int, list[_Entry]] = {owner: [] for owner in most}
    more = [owner for owner in most if most[owner] > 0]
    # All owners in `more` have been asked for equally many, so the ranks that the result needs are complete.
    while more and (missing := limit - sum(map(len, taken.values()))) > 0:
        share = -(-missing // len(more))
        for owner in tuple(more):
            after = taken[owner][-1][:2] if taken[owner] else (-(2**63), "")
            wanted = min(share, most[owner] - len(taken[owner]))
            found = connection.execute(statement, (owner, *after, now, now + _FAR, wanted)).fetchall()
            taken[owner] += found
            if len(found) < wanted or len(taken[owner]) >= most[owner]:
                more.remove(owner)
    return taken


def _most(connection: sqlite3.Connection, owners: Collection[int], shares: base.Shares) -> dict[int, int]:
    names = {owner: str(connection.execute("SELECT owner FROM owners WHERE number = ?", (owner,)).fetchone()[0]) for owner in owners}
    wanted = shares(names.values())
    return {owner: wanted[name] for owner, name in names.items()}


def under_way(connection: sqlite3.Connection, owners: Collection[str]) -> dict[str, int]:
    """`Store.under_way`, from an index that holds nothing else."""
    statement = (
        f"SELECT count(*) FROM tasks INDEXED BY under_way WHERE lane = 'ACTIVE' AND state IN ({_LIVE}) AND owner = (SELECT number FROM owners WHERE owner = ?)"
    )
    return {owner: int(connection.execute(statement, (owner,)).fetchone()[0]) for owner in owners}


def _waiting_owners(connection: sqlite3.Connection) -> Iterator[int]:
    # From owner to owner through the index, not through each owner's tasks.
    statement = "SELECT min(owner) FROM tasks INDEXED BY waiting WHERE lane = 'WAITING' AND owner > ?"
    (owner,) = connection.execute(statement, (-1,)).fetchone()
    while owner is not None:
        yield owner
        (owner,) = connection.execute(statement, (owner,)).fetchone()


def sweep(connection: sqlite3.Connection, shards: Collection[int], after: str, limit: int) -> list[int]:
    """Row numbers of the ACTIVE lane behind the id `after`, by id."""
    statement = f"SELECT seq FROM tasks INDEXED BY active WHERE lane = 'ACTIVE' AND id > ? {_shard_check(shards)} ORDER BY id LIMIT ?"
    return [seq for (seq,) in connection.execute(statement, (after, limit))]


def at_rest(connection: sqlite3.Connection, shards: Collection[int], before: int, after: str, limit: int) -> tuple[list[int], str]:
    """Row numbers of ended tasks in no lane that were created before `before`, owner by owner, and where to go on.

    `newest` serves it: beside them it looks at the entries of tasks as old that have not ended, of which there are few.
    """
    last, created, task_id = after.split("/", 2) if after else ("-1", "0", "")
    statement = (
        "SELECT created, id, seq FROM tasks INDEXED BY newest WHERE owner = ? AND (created, id) > (?, ?) AND created < ? "
        f"AND state IN ({_ENDS}) AND lane IS NULL {_shard_check(shards)} ORDER BY created, id LIMIT ?"
    )
    found: list[int] = []
    for (owner,) in connection.execute("SELECT number FROM owners WHERE number >= ? ORDER BY number", (int(last),)).fetchall():
        behind = (int(created), task_id) if owner == int(last) else (-(2**63), "")
        entries = connection.execute(statement, (owner, *behind, before, limit - len(found))).fetchall()
        found += [seq for _, _, seq in entries]
        if len(found) == limit:
            return found, f"{owner}/{entries[-1][0]}/{entries[-1][1]}"
    return found, ""


def census(connection: sqlite3.Connection, owner: str | None) -> dict[states.State, int]:
    """Tasks that have not ended, by state, of one owner or of all; reads the index entries of these only."""
    statement = (
        f"SELECT t.state, count(*) FROM owners CROSS JOIN tasks t INDEXED BY by_state "
        f"WHERE t.owner = owners.number AND t.state IN ({_LIVE}) {'' if owner is None else 'AND owners.owner = ?'} GROUP BY t.state"
    )
    counts = dict(connection.execute(statement, () if owner is None else (owner,)).fetchall())
    return {state: counts.get(state.value, 0) for state in sorted(states.LIVE)}
