"""$filter, $select and pages of lists."""

from __future__ import annotations

import datetime
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.emulators.azure_batch.protocol import Json, bad_query, fields, model

Predicate = Callable[[Json], bool]

TEXT = ("startswith", "eq", "ne", "ge", "gt", "le", "lt")
STATE = ("eq", "ne")
ORDERED = ("eq", "ne", "ge", "gt", "le", "lt")
_COMMON = {"state": STATE, "stateTransitionTime": ORDERED, "creationTime": ORDERED, "lastModified": ORDERED}
_RUN = {"executionInfo/startTime": ORDERED, "executionInfo/endTime": ORDERED}
_START = {f"startTaskInfo/{name}": ORDERED for name in ("exitCode", "startTime", "endTime")} | {"startTaskInfo/state": ("eq",), "startTaskInfo/result": STATE}
FILTERS: dict[str, dict[str, tuple[str, ...]]] = {
    "BatchPool": {"id": TEXT, **_COMMON, "allocationState": STATE, "allocationStateTransitionTime": ORDERED, "enableAutoScale": STATE, "vmSize": STATE},
    "BatchJob": {"id": TEXT, **_COMMON, **_RUN, "executionInfo/poolId": TEXT, "priority": ORDERED},
    "BatchTask": {
        "id": TEXT,
        **_COMMON,
        **_RUN,
        "executionInfo/exitCode": ORDERED,
        "executionInfo/retryCount": ORDERED,
        "executionInfo/requeueCount": ORDERED,
        "executionInfo/result": STATE,
        "nodeInfo/nodeId": TEXT,
        "nodeInfo/poolId": TEXT,
    },
    "BatchNode": {"state": STATE, "stateTransitionTime": ORDERED, "lastBootTime": ORDERED, "allocationTime": ORDERED, **_START},
    "BatchPoolNodeCounts": {"poolId": ("eq",)},
    "BatchNodeFile": {"name": ("startswith",)},
    "BatchSupportedImage": {"osType": STATE, "verificationType": STATE, "nodeAgentSKUId": STATE},
    "BatchJobPreparationAndReleaseTaskStatus": {},
}
"""which properties of which lists can be asked for, and how"""

TOKEN = re.compile(
    r"\s*(?:(?P<punct>[(),])|DateTime'(?P<time>[^']*)'|'(?P<text>(?:[^']|'')*)'|(?P<number>-?\d+(?:\.\d+)?)|(?P<word>[A-Za-z_][\w/]*))", re.IGNORECASE
)
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
}


def predicate(text: str, kind: str) -> Predicate:
    """What $filter says of the models `kind`. BatchError 400: it cannot be asked."""
    return _Parser(text, FILTERS[kind]).parse()


class _Parser:
    """or < and < not < comparison."""

    def __init__(self, text: str, allowed: Mapping[str, tuple[str, ...]]) -> None:
        self._text = text
        self._allowed = allowed
        self._tokens = self._split()
        self._at = 0

    def _split(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        at = 0
        while self._text[at:].strip():
            token = TOKEN.match(self._text, at)
            if token is None:
                raise self._error(f"syntax error at position {at}")
            assert token.lastgroup is not None
            found.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()
        return found

    def _error(self, why: str) -> Exception:
        return bad_query("$filter", self._text, why)

    def parse(self) -> Predicate:
        found = self._or()
        if self._at < len(self._tokens):
            raise self._error(f"unexpected {self._tokens[self._at][1]}")
        return found

    def _next(self, kind: str = "", *values: str) -> str:
        if self._at >= len(self._tokens):
            raise self._error("unexpected end")
        found, value = self._tokens[self._at]
        if (kind and found != kind) or (values and value not in values):
            raise self._error(f"unexpected {value}")
        self._at += 1
        return value

    def _sees(self, value: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] in (("word", value), ("punct", value))

    def _or(self) -> Predicate:
        parts = [self._and()]
        while self._sees("or"):
            self._at += 1
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda item: any(part(item) for part in parts)

    def _and(self) -> Predicate:
        parts = [self._not()]
        while self._sees("and"):
            self._at += 1
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda item: all(part(item) for part in parts)

    def _not(self) -> Predicate:
        if self._sees("not"):
            self._at += 1
            part = self._not()
            return lambda item: not part(item)
        if self._sees("("):
            self._at += 1
            part = self._or()
            self._next("punct", ")")
            return part
        return self._comparison()

    def _comparison(self) -> Predicate:
        name = self._next("word")
        if name == "startswith":
            self._next("punct", "(")
            name = self._next("word")
            self._allow(name, "startswith")
            self._next("punct", ",")
            start = self._next("text").replace("''", "'")
            self._next("punct", ")")
            return lambda item: str(_value(item, name) or "").startswith(start)
        how = self._next("word", *COMPARE)
        self._allow(name, how)
        wanted = self._literal()
        if name.endswith("Time") != isinstance(wanted, datetime.datetime):
            raise self._error(f"{name} is compared with something of another type")
        compare = COMPARE[how]

        def holds(item: Json) -> bool:
            value = _value(item, name)
            if isinstance(wanted, datetime.datetime) and value is not None:
                value = datetime.datetime.fromisoformat(value)
            try:
                return how == "ne" if value is None else compare(value, wanted)
            except TypeError as error:
                raise self._error(f"{name} is compared with something of another type") from error

        return holds

    def _allow(self, name: str, how: str) -> None:
        if how not in self._allowed.get(name, ()):
            raise self._error(f"{how} of the property {name} is not supported")

    def _literal(self) -> Any:
        if self._at >= len(self._tokens):
            raise self._error("unexpected end")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "text":
            return text.replace("''", "'")
        if kind == "number":
            return float(text)
        if kind == "word" and text in ("true", "false"):
            return text == "true"
        if kind == "time":
            try:
                found = datetime.datetime.fromisoformat(text)
            except ValueError as error:
                raise self._error(f"{text} is no time") from error
            return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
        raise self._error(f"unexpected {text}")


def _value(item: Json, path: str) -> Any:
    found: Any = item
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def select(item: Json, names: str, kind: str) -> Json:
    """The properties that $select names, of one `kind`; all of them if it names none."""
    if not names:
        return dict(item)
    wanted = [name.strip().partition("/")[0] for name in names.split(",")]
    for name in wanted:
        if name not in fields(model(kind)):
            raise bad_query("$select", names, f"there is no property {name}")
    return {name: item[name] for name in wanted if name in item}


def page(items: Iterable[Json], query: Mapping[str, str], kind: str, *, key: str = "id", most: int = 1000) -> tuple[list[Json], str]:
    """One page of a list in the order of `key`, and the skip token of the next, or nothing."""
    size = query.get("maxresults", str(most))
    if not size.isdecimal() or not 1 <= int(size) <= most:
        raise bad_query("maxresults", size, f"must be between 1 and {most}")
    holds = predicate(query["$filter"], kind) if query.get("$filter") else lambda _: True
    after = query.get("$skiptoken", "")
    found = [item for item in sorted(items, key=lambda item: str(item[key])) if str(item[key]) > after and holds(item)]
    shown = found[: int(size)]
    token = str(shown[-1][key]) if len(found) > len(shown) else ""
    return [select(item, query.get("$select", ""), kind) for item in shown], token
