"""Lists of the embedded store: which index serves a query, and how far it is walked. Reads only; knows no thread and no file.

With at most one exact filter (state, a tag) its index holds the answer in order. For everything else nobody knows
beforehand which filter is the selective one, so all drivers that could serve the page are tried with a small budget of
index entries, then with a larger one, until one of them has the page: never dearer than a few times the best choice.
"""

# ruff: noqa: S608 - every value of a query is bound; what is pasted into statements are constants of this module
from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from tes_server.model import record as model
from tes_server.store import parts

FIRST_BUDGET = 1000
"""Index entries looked at in the first round: about half a millisecond."""

GROWTH = 4
"""Each further round looks at so many times more."""

_TOP = (2**63 - 1, "")
_BOTTOM = (-(2**63), "")
"""Positions newer and older than all tasks."""

# The plus signs keep the planner from deriving a range of `t.created` from _BETWEEN, which it would then scan for each row.
_JOIN_NEWEST = "CROSS JOIN tasks t INDEXED BY newest ON t.owner = {0}.owner AND t.created = +{0}.created AND t.id = +{0}.id"
_NAMED = "tasks n INDEXED BY by_name"
_IN_RANGE = "n.owner = :owner AND n.name >= :low AND n.name < :high"
_BETWEEN = "({0}.created, {0}.id) < (:created, :id) AND ({0}.created, {0}.id) >= (:floor, :floor_id)"


class Row(NamedTuple):
    """What an index knows of a task; sorts as lists do (the newest is the largest)."""

    created: int
    id: str
    state: str
    canceling: int
    seq: int


class _Source(NamedTuple):
    """An index that holds positions in order: what follows FROM, its alias, what it is bound by, and the join that finds `t`, if it is not `t`."""

    entries: str
    alias: str
    where: str
    join: str = ""


class _Filters:
    """A query's filters as SQL on `t`, and their parameters."""

    def __init__(self, owner: int, query: model.Query) -> None:
        self.parameters: dict[str, Any] = {"owner": owner}
        self.name: list[str] = []
        self.long_name: list[str] = []
        self.state: list[str] = []
        self.tags: list[str] = []
        self.arms: list[_Source] = []
        self.pairs: list[_Source] = []
        self._add_name(query.name_prefix)
        if query.state is not None:
            self._add_state(query.state)
        for number, (key, value) in enumerate(query.tags):
            self._add_tag(number, key, value)

    def _add_name(self, prefix: str) -> None:
        if not prefix:
            return
        whole = parts.raw(prefix)
        head = whole[: parts.NAME_BYTES]
        # No byte of UTF-8 is 0xFF, so the last one can be counted up.
        self.parameters |= {"low": head, "high": head[:-1] + bytes([head[-1] + 1])}
        self.name.append("t.name >= :low AND t.name < :high")
        if len(whole) > parts.NAME_BYTES:
            self.parameters |= {"prefix": whole, "length": len(whole)}
            self.long_name.append("(SELECT substr(name, 1, :length) FROM long_names WHERE seq = t.seq) = :prefix")

    def _add_state(self, wanted: model.StateFilter) -> None:
        for number, state in enumerate(sorted(wanted.states)):
            self.parameters[f"state{number}"] = state.value
            for canceling in (0, 1):
                if wanted.canceling in (None, bool(canceling)):
                    where = f"t.owner = :owner AND t.state = :state{number} AND t.canceling = {canceling}"
                    self.arms.append(_Source("tasks t INDEXED BY by_state", "t", where))
        self.state.append(f"t.state IN ({', '.join(f':state{number}' for number in range(len(wanted.states)))})")
        if wanted.canceling is not None:
            self.state.append(f"t.canceling = {int(wanted.canceling)}")

    def _add_tag(self, number: int, key: str, value: str) -> None:
        self.parameters |= {f"key{number}": parts.term(key), f"value{number}": parts.term(value)}
        where = f"g.owner = :owner AND g.key = :key{number} AND g.value = :value{number}"
        self.pairs.append(_Source("tags g", "g", where, _JOIN_NEWEST.format("g")))
        self.tags.append(f"EXISTS (SELECT 1 FROM tags g WHERE {where} AND g.created = t.created AND g.id = t.id)")


def owner_page(connection: sqlite3.Connection, owner: int, query: model.Query, after: tuple[int, str] | None, wanted: int) -> list[Row]:
    """The newest `wanted` tasks of one owner that are older than `after` and pass the query's filters, newest first."""
    if query.state is not None and not query.state.states:
        return []
    filters = _Filters(owner, query)
    drivers = list(_drivers(connection, filters, after or _TOP, wanted))
    budget: int | None = FIRST_BUDGET if len(drivers) > 1 or filters.name else None
    while True:
        for driver in drivers:
            if (found := driver.advance(budget)) is not None:
                return found
        assert budget is not None  # noqa: S101 - without a budget the only driver has the page
        budget *= GROWTH


def merged_page(connection: sqlite3.Connection, query: model.Query, after: tuple[int, str] | None, wanted: int) -> list[Row]:
    """As `owner_page` over all owners. An owner whose newest task is older than the page is not asked."""
    heads = connection.execute(
        "SELECT number, (SELECT created FROM tasks INDEXED BY newest WHERE owner = number AND (created, id) < (?, ?) "
        "ORDER BY created DESC LIMIT 1) AS head FROM owners WHERE head IS NOT NULL ORDER BY head DESC",
        after or _TOP,
    ).fetchall()
    found: list[Row] = []
    for owner, head in heads:
        if len(found) == wanted and head < found[-1].created:
            break
        found += owner_page(connection, owner, query, after, wanted)
        found.sort(reverse=True)
        del found[wanted:]
    return found


class _Driver(Protocol):
    def advance(self, budget: int | None) -> list[Row] | None:
        """Look at `budget` more index entries (None: as many as it takes); the whole page if it is known then."""


def _drivers(connection: sqlite3.Connection, filters: _Filters, after: tuple[int, str], wanted: int) -> Iterator[_Driver]:
    """Every way to find the page, the one that is probably the cheapest first."""
    bound = filters.parameters
    name = [*filters.name, *filters.long_name]
    if filters.name:
        yield _Range(connection, bound, [*filters.long_name, *filters.state, *filters.tags], after, wanted)
    for number, pair in enumerate(filters.pairs):
        others = [tag for other, tag in enumerate(filters.tags) if other != number]
        yield _Walk(connection, bound, [pair], [*name, *filters.state, *others], after, wanted)
    if filters.arms:
        yield _Walk(connection, bound, filters.arms, [*name, *filters.tags], after, wanted)
    if not filters.pairs and not filters.arms:
        yield _Walk(connection, bound, [_Source("tasks t INDEXED BY newest", "t", "t.owner = :owner")], name, after, wanted)


class _Walk:
    """Newest first through one or several indexes; the other filters are checked entry by entry."""

    def __init__(
        self, connection: sqlite3.Connection, parameters: Mapping[str, Any], sources: list[_Source], checks: list[str], after: tuple[int, str], wanted: int
    ) -> None:
        self._connection = connection
        self._parameters = parameters
        self._sources = sources
        self._checks = checks
        self._after = after
        self._wanted = wanted
        self._found: list[Row] = []

    def advance(self, budget: int | None) -> list[Row] | None:
        floor = _BOTTOM
        if budget is not None:
            floor = self._select("{0}.created, {0}.id", "{0.entries} WHERE {1}", "LIMIT 1 OFFSET :count", budget, _BOTTOM).fetchone() or _BOTTOM
        checked = " AND ".join(["{0.entries} {0.join} WHERE {1}", *self._checks])
        self._found += map(
            Row._make, self._select("{0}.created, {0}.id, t.state, t.canceling, t.seq", checked, "LIMIT :count", self._wanted - len(self._found), floor)
        )
        self._after = floor
        return self._found if floor == _BOTTOM or len(self._found) == self._wanted else None

    def _select(self, columns: str, rest: str, limit: str, count: int, floor: tuple[int, str]) -> sqlite3.Cursor:
        arms = [
            f"SELECT {columns.format(source.alias)} FROM {rest.format(source, f'{source.where} AND {_BETWEEN.format(source.alias)}')}"
            for source in self._sources
        ]
        return self._connection.execute(
            f"{' UNION ALL '.join(arms)} ORDER BY 1 DESC, 2 DESC {limit}",
            {**self._parameters, "count": count, "created": self._after[0], "id": self._after[1], "floor": floor[0], "floor_id": floor[1]},
        )


class _Range:
    """All tasks of a range of names, sorted: right for a prefix that few tasks have."""

    def __init__(self, connection: sqlite3.Connection, parameters: Mapping[str, Any], checks: list[str], after: tuple[int, str], wanted: int) -> None:
        self._connection = connection
        self._parameters = {**parameters, "created": after[0], "id": after[1], "floor": _BOTTOM[0], "floor_id": _BOTTOM[1], "wanted": wanted}
        self._checks = checks

    def advance(self, budget: int | None) -> list[Row] | None:
        probe = f"SELECT count(*) FROM (SELECT 1 FROM {_NAMED} WHERE {_IN_RANGE} LIMIT :budget)"
        (entries,) = self._connection.execute(probe, {**self._parameters, "budget": budget}).fetchone()
        if entries == budget:
            return None
        cursor = self._connection.execute(
            "SELECT n.created, n.id, t.state, t.canceling, t.seq "
            f"FROM {_NAMED} {_JOIN_NEWEST.format('n')} WHERE {' AND '.join([_IN_RANGE, _BETWEEN.format('n'), *self._checks])} "
            "ORDER BY 1 DESC, 2 DESC LIMIT :wanted",
            self._parameters,
        )
        return list(map(Row._make, cursor))
