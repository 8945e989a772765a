"""Records to documents and back: one small document a task, and the large ones of its parts in documents of their own. Pure.

A document of `tasks` is what lists and the reconciler read and each save rewrites. A part (`parts.PARTS`) is JSON: it lies in
that document while it is small, else in pieces in the collection `parts`. Pieces are never rewritten: new ones get a key of
their own and the task's document then points to them, so that neither a crash between two writes nor a lost race leaves a
task with half of something. Must never read or write.
"""

from __future__ import annotations

import datetime
import secrets
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec

from tes_server import errors
from tes_server.model import record as model
from tes_server.model import states
from tes_server.store import parts

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")

VERSION = 1
"""Field `v` of a task's document. What is newer is left alone; what is older is upgraded when it is read (`UPGRADES`)."""

UPGRADES: dict[int, Callable[[Document], Document]] = {}
"""From a version to the next one."""

PIECE_BYTES = 1_500_000
"""Cosmos DB takes documents up to 2 MB."""

MOST_PIECES = 32
"""Pieces of one part: more than a body that the server takes by default can fill."""

INLINE_BYTES = 4096
"""Task and contents together, logs, and detail up to this lie in the task's document: most tasks are one document, made by one
write and read by one. Each save is charged for the whole document, so what is larger lies apart (docs/scaling.md has the sum)."""

MOST_TERMS = 1_000_000
"""Bytes of a task's tags as they are indexed, together: they lie in the small document."""

_STATES = {state.value: state for state in states.State}
_LANES = {lane.value: lane for lane in model.Lane}
_DIGITS = 17  # of microseconds since 1970, until the year 5138


class Unreadable(Exception):
    """A stored document that this program does not understand: written by a newer one, or by hand."""

    def __init__(self, task_id: object, why: str) -> None:
        super().__init__(f"{task_id}: {why}")
        self.task_id = task_id
        self.why = why


class New(msgspec.Struct, frozen=True):
    """A new record as documents. `document["token"]` tells this insert from any other of the same id."""

    document: Document
    pieces: tuple[Document, ...]


def token() -> str:
    """Tells one write from any other."""
    return secrets.token_hex(8)


def position(created: datetime.datetime, task_id: str) -> str:
    """Field `at`: sorts as (created, id) does, so that one field, and one index, orders lists everywhere."""
    return f"{parts.microseconds(created):0{_DIGITS}d}/{task_id}"


def place(at: str) -> tuple[datetime.datetime, str]:
    """The inverse of `position`."""
    return parts.moment(int(at[:_DIGITS])), at[_DIGITS + 1 :]


def quoted(raw: bytes) -> str:
    """Bytes as ASCII text without a character that some database treats as special; a prefix stays a prefix."""
    return urllib.parse.quote_from_bytes(raw, safe=" ")


def term(key: bytes, value: bytes) -> str:
    """An entry of `tags`: free of dots and dollars, which mean something in field names and nothing in values."""
    return f"{quoted(key)}={quoted(value)}"


def new(record: model.Record) -> New:
    """A record as it is inserted. Raises `errors.TooLarge` for one that the store cannot hold."""
    if record.task is None:
        raise ValueError("a new record needs its task")
    bare, contents = parts.cut(record.task)
    mark = token()
    values = {"task": bare, "contents": contents or None, "logs": record.logs, "detail": record.detail}
    bodies = {part: parts.encode(value) for part, value in values.items() if value is not None}
    stored: Document = {}
    pieces: list[Document] = []
    for part, body in bodies.items():
        room = INLINE_BYTES - len(bodies["task"]) if part == "contents" else INLINE_BYTES
        stored[part], more = _part(record.id, mark, part, body, room)
        pieces += more
    document = {
        "_id": record.id,
        "v": VERSION,
        "token": mark,
        "write": mark,
        "owner": record.owner,
        "at": position(record.created, record.id),
        "parts": stored,
        **moving(record),
        "revision": record.revision,
        "shard": model.shard_of(record.id),
    }
    if record.task.name:
        document["name"] = quoted(parts.raw(record.task.name)[: parts.NAME_BYTES])
    if record.task.tags:
        document["tags"] = sorted(term(*each) for each in parts.terms(record.task.tags))
        if sum(map(len, document["tags"])) > MOST_TERMS:
            raise errors.TooLarge("are too many to be searched for", "/tags")
    return New({name: value for name, value in document.items() if value is not None}, tuple(pieces))


def traces(new: New) -> New:
    """What is needed to find `new` in the store: its key, mark and revision, and the keys of its pieces."""
    return New({name: new.document[name] for name in ("_id", "token", "revision")}, tuple({"_id": piece["_id"]} for piece in new.pieces))


def moving(change: model.Change | model.Record) -> Document:
    """The fields that each save sets; None: absent."""
    return {
        "state": change.state.value,
        "canceling": change.canceling,
        "lane": None if change.lane is None else change.lane.value,
        "due": None if change.due is None else parts.microseconds(change.due),
        "place": model.place_of(change.status) or None,
        "status": parts.encode(change.status).decode(),
    }


def update(change: model.Change, mark: str) -> tuple[Document, list[Document]]:
    """The update that makes `change`, and the pieces that must be there before. `mark` tells this write from any other."""
    fields = moving(change)
    pieces: list[Document] = []
    for part, value in (("logs", change.logs), ("detail", change.detail)):
        if value is not None:
            fields[f"parts.{part}"], more = _part(change.id, mark, part, parts.encode(value), INLINE_BYTES)
            pieces += more
    gone = {name: "" for name, value in fields.items() if value is None}
    kept = {name: value for name, value in fields.items() if value is not None}
    done: Document = {"$set": {**kept, "write": mark, "revision": change.revision + 1}}
    return {**done, "$unset": gone} if gone else done, pieces


def _part(task_id: str, mark: str, part: str, body: bytes, room: int) -> tuple[str | list[Any], list[Document]]:
    """What stands for a part in the task's document, which has `room` bytes for it, and its pieces."""
    if len(body) <= room:
        return body.decode(), []
    count = -(-len(body) // PIECE_BYTES)
    if count > MOST_PIECES:
        where = {"contents": ("contents of inputs", "/inputs"), "task": ("the task", "")}.get(part, (f"its {part}", ""))
        raise errors.TooLarge(f"{where[0]}: {len(body)} bytes, and the store takes {MOST_PIECES * PIECE_BYTES}", where[1])
    pointer = [mark, count, len(body)]
    return pointer, [
        {"_id": key, "body": body[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]} for number, key in enumerate(_keys_of(task_id, part, pointer))
    ]


def _keys_of(task_id: str, part: str, pointer: Sequence[Any]) -> Iterator[str]:
    mark, count, _ = pointer
    return (f"{task_id}/{mark}/{part}/{number}" for number in range(count))


def keys(document: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Keys of the pieces that hold the wanted parts of a task."""
    stored = _stored(document)
    return [key for part in wanted if isinstance(stored.get(part), list) for key in _keys_of(document["_id"], part, stored[part])]


def size(document: Mapping[str, Any], wanted: Sequence[str]) -> int:
    """Bytes of the wanted parts of a task, without a look at the pieces."""
    stored = _stored(document)
    return sum(body[2] if isinstance(body, list) else len(body) for part in wanted if (body := stored.get(part)) is not None)


def _stored(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands for each part; nothing for one that makes no sense (`current` refuses those)."""
    stored = document.get("parts")
    return {part: each for part, each in stored.items() if _is_part(each)} if isinstance(stored, Mapping) else {}


def _is_part(stored: object) -> bool:
    match stored:
        case str():
            return True
        case [str(), int(count), int()]:
            return 0 < count <= MOST_PIECES
    return False


def current(document: Document) -> Document:
    """The document as this version writes it. Raises `Unreadable` for a newer one, and for one whose parts are nowhere."""
    version = document.get("v")
    while version != VERSION:
        if not isinstance(version, int) or version not in UPGRADES:
            newer = isinstance(version, int) and version > VERSION
            raise Unreadable(document.get("_id"), f"it was written by a newer tes-server (version {version})" if newer else f"it has version {version!r}")
        document = UPGRADES[version](document)
        version = document.get("v")
    stored = document.get("parts")
    if not isinstance(stored, Mapping) or not all(map(_is_part, stored.values())):
        raise Unreadable(document.get("_id"), "its parts make no sense")
    return document


def record_of(document: Document, wanted: Sequence[str], bodies: Mapping[str, bytes]) -> model.Record:
    """A document (`current`) with the wanted parts; `bodies` has their pieces by key. Raises `Unreadable`."""
    try:
        found = {part: _body(document, part, bodies) for part in wanted}
        bare = None if found.get("task") is None else parts.task_of(found["task"] or b"")
        if bare is not None and (contents := found.get("contents")) is not None:
            bare = parts.joined(bare, parts.contents_of(contents))
        lane, due = document.get("lane"), document.get("due")
        return model.Record(
            id=_typed(document, "_id", str),
            state=_STATES[document["state"]],
            canceling=_typed(document, "canceling", bool),
            owner=_typed(document, "owner", str),
            created=place(document["at"])[0],
            revision=_typed(document, "revision", int),
            lane=None if lane is None else _LANES[lane],
            due=None if due is None else parts.moment(due),
            status=parts.status_of(document["status"]),
            task=bare,
            logs=None if (logs := found.get("logs")) is None else parts.logs_of(logs),
            detail=None if (detail := found.get("detail")) is None else parts.detail_of(detail),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as cause:  # msgspec's errors are ValueErrors
        raise Unreadable(document.get("_id"), f"{type(cause).__name__}: {cause}") from cause


def _typed(document: Mapping[str, Any], name: str, kind: type[T]) -> T:
    if not isinstance(value := document[name], kind):
        raise TypeError(f"{name} is {value!r}")
    return value


def brief_of(document: Mapping[str, Any]) -> model.Brief:
    """What a MINIMAL view needs, from `at`, `state` and `canceling` alone. Raises `Unreadable`."""
    try:
        return model.Brief(id=place(document["at"])[1], state=_STATES[document["state"]], canceling=document["canceling"] is True)
    except (KeyError, TypeError, ValueError) as cause:
        raise Unreadable(document.get("_id"), f"{type(cause).__name__}: {cause}") from cause


def _body(document: Mapping[str, Any], part: str, bodies: Mapping[str, bytes]) -> bytes | None:
    stored = _stored(document).get(part)
    if stored is None:
        return None
    if isinstance(stored, str):
        return stored.encode()
    return b"".join(bodies[key] for key in _keys_of(document["_id"], part, stored))
