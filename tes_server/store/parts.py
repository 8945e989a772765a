"""The parts of a record as every store keeps them: times, tag terms, contents apart from the task, JSON bytes. Pure.

Must never know a database; `sqlite_rows` and `mongo_documents` do.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping

import msgspec

from tes_server.model import record as model
from tes_server.model import run, task
from tes_server.model import verdict as scans

PARTS = ("task", "contents", "logs", "detail")
"""What is kept apart from the record's small columns, each read only where it is needed."""

BY_VIEW: Mapping[model.View, tuple[str, ...]] = {model.View.BASIC: ("task", "logs"), model.View.FULL: PARTS}
BY_LANE: Mapping[model.Lane, tuple[str, ...]] = {model.Lane.ACTIVE: ("detail",), model.Lane.WAITING: ("task", "contents", "detail")}

NAME_BYTES = 100
"""Bytes of a name that are indexed; what is longer is compared with the whole name."""

TERM_BYTES = 64
"""Tag keys and values up to this length are indexed as they are, longer ones by their head and hash."""

PORTION_BYTES = 4 * 1024 * 1024
"""Whole records are read so many bytes at a time, where many are (archive, copy)."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

status_of = msgspec.json.Decoder(model.Status).decode
task_of = msgspec.json.Decoder(task.Task).decode
contents_of = msgspec.json.Decoder(dict[int, str]).decode
logs_of = msgspec.json.Decoder(model.Logs).decode
detail_of = msgspec.json.Decoder(model.Detail).decode
tails_of = msgspec.json.Decoder(run.Tails).decode
verdict_of = msgspec.json.Decoder(scans.Verdict).decode
encode = msgspec.json.Encoder().encode


def microseconds(moment: datetime.datetime) -> int:
    """Microseconds since 1970, exactly (a float of seconds would round)."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime.datetime:
    """The inverse of `microseconds`, in UTC."""
    return _EPOCH + datetime.timedelta(microseconds=value)


def verdict_key(key: scans.ScanKey) -> str:
    """The key of a verdict as text; sorts as the keys do."""
    return f"{key.digest}/{key.policy}"


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


def arrival(record: model.Record) -> model.Change:
    """The save that leads to `record` from an older revision of it. What never changes is not in it."""
    return model.Change(
        id=record.id,
        revision=record.revision - 1,
        state=record.state,
        canceling=record.canceling,
        lane=record.lane,
        due=record.due,
        status=record.status,
        logs=record.logs,
        detail=record.detail,
    )
