"""Records to rows of the embedded store and back. Must never open a file or choose which rows to read."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from tes_server.model import record as model
from tes_server.model import run, states, task

PARTS = ("task", "contents", "logs", "detail")
"""The side tables, in the order of `record_of`'s last columns."""

BY_VIEW: Mapping[model.View, tuple[str, ...]] = {model.View.BASIC: ("task", "logs"), model.View.FULL: PARTS}
BY_LANE: Mapping[model.Lane, tuple[str, ...]] = {model.Lane.ACTIVE: ("detail",), model.Lane.WAITING: ("task", "contents", "detail")}

NAME_BYTES = 100
"""Bytes of a name that are indexed; what is longer is compared with the whole name in `long_names`."""

TERM_BYTES = 64
"""Tag keys and values up to this length are indexed as they are, longer ones by their head and hash."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_STATES = {state.value: state for state in states.State}
_LANES = {lane.value: lane for lane in model.Lane}

_status_decoder = msgspec.json.Decoder(model.Status)
_task_decoder = msgspec.json.Decoder(task.Task)
_contents_decoder = msgspec.json.Decoder(dict[int, str])
_logs_decoder = msgspec.json.Decoder(model.Logs)
_detail_decoder = msgspec.json.Decoder(model.Detail)
_tails_decoder = msgspec.json.Decoder(run.Tails)
encode = msgspec.json.Encoder().encode


def microseconds(moment: datetime.datetime) -> int:
    """Microseconds since 1970, exactly (a float of seconds would round)."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime.datetime:
    """The inverse of `microseconds`, in UTC."""
    return _EPOCH + datetime.timedelta(microseconds=value)


def raw(text: str) -> bytes:
    """A user's text as it is stored and compared. Takes lone surrogates in a query; they match nothing."""
    return text.encode("utf-8", "surrogatepass")


def term(text: str) -> bytes:
    """What stands for a tag key or value in the index: equal exactly where the texts are equal, and never long."""
    whole = raw(text)
    # A hashed term is longer than any plain one, so the two kinds cannot be mistaken for each other.
    return whole if len(whole) <= TERM_BYTES else whole[: TERM_BYTES // 2 + 1] + hashlib.sha256(whole).digest()


def terms(tags: Mapping[str, str]) -> set[tuple[bytes, bytes]]:
    """The index entries of a task's tags. Each key has one with an empty value too, so that "any value" is a look-up like any other."""
    known = {term(key): term(value) for key, value in tags.items()}
    return {*known.items(), *((key, b"") for key in known)}


def cut(whole: task.Task) -> tuple[task.Task, dict[int, str]]:
    """The task without `inputs[].content`, and the contents by the index of their input."""
    contents = {index: each.content for index, each in enumerate(whole.inputs or ()) if each.content is not None}
    if not contents:
        return whole, contents
    return msgspec.structs.replace(whole, inputs=tuple(msgspec.structs.replace(each, content=None) for each in whole.inputs or ())), contents


def joined(bare: task.Task, contents: Mapping[int, str]) -> task.Task:
    """The inverse of `cut`."""
    return msgspec.structs.replace(
        bare, inputs=tuple(msgspec.structs.replace(each, content=contents.get(index)) for index, each in enumerate(bare.inputs or ()))
    )


def select(parts: tuple[str, ...]) -> str:
    """The statement, up to its WHERE on `tasks t`, that reads rows for `record_of` with the named parts; other parts' tables are not touched."""
    bodies = ", ".join(f"{part}.body" if part in parts else "NULL" for part in PARTS)
    joins = " ".join(f"LEFT JOIN {part} ON {part}.seq = t.seq" for part in parts)
    return (
        "SELECT t.id, owners.owner, t.created, t.state, t.canceling, t.revision, t.lane, t.due, t.status, "  # noqa: S608 - names from PARTS
        f"{bodies} FROM tasks t CROSS JOIN owners ON owners.number = t.owner {joins}"
    )


def record_of(row: tuple[Any, ...]) -> model.Record:
    """A row of `select` as a record."""
    task_id, owner, created, state, canceling, revision, lane, due, status, bare, contents, logs, detail = row
    whole = None if bare is None else _task_decoder.decode(bare)
    if whole is not None and contents is not None:
        whole = joined(whole, _contents_decoder.decode(contents))
    return model.Record(
        id=task_id,
        state=_STATES[state],
        canceling=bool(canceling),
        owner=owner,
        created=moment(created),
        revision=revision,
        lane=None if lane is None else _LANES[lane],
        due=None if due is None else moment(due),
        status=_status_decoder.decode(status),
        task=whole,
        logs=None if logs is None else _logs_decoder.decode(logs),
        detail=None if detail is None else _detail_decoder.decode(detail),
    )


def brief_of(task_id: str, state: str, canceling: int) -> model.Brief:
    """The three columns of a MINIMAL view as a value."""
    return model.Brief(id=task_id, state=_STATES[state], canceling=canceling != 0)


def tails_of(body: bytes) -> run.Tails:
    """A stored tail as a value."""
    return _tails_decoder.decode(body)
