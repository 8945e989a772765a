"""A stored task: the spec as submitted, never rewritten, and the parts that change, apart by who reads them.

Stores keep the parts apart so that a MINIMAL list touches none of them and a status update rewrites none of the spec:

| part | read by | rewritten |
|---|---|---|
| id, state, canceling | every view | with each step |
| task without inputs[].content | BASIC, FULL, the reconciler's WAITING lane | never |
| contents | FULL, the reconciler's WAITING lane | never |
| status | BASIC, FULL, the reconciler | with each step; small |
| logs | BASIC, FULL | at the end of an attempt |
| detail | FULL, the reconciler | when a system log line is added, and at the end |
"""

from __future__ import annotations

import datetime
import enum
import zlib

import msgspec

from tes_server.model.principal import Scope
from tes_server.model.run import Handle
from tes_server.model.states import State
from tes_server.model.task import ExecutorLog, OutputFileLog, Task

SHARDS = 64
"""Work is owned by shards: enough to spread over a dozen reconcilers, few enough to lease in a few documents."""

ALL_SHARDS = frozenset(range(SHARDS))


def shard_of(task_id: str) -> int:
    """The shard of a task: a hash of its id that every process computes alike."""
    return zlib.crc32(task_id.encode()) % SHARDS


def place_of(status: Status) -> str:
    """The one place from which the next step of a record can be done (`Backend.place`); "" = any."""
    for handle in (*status.release, status.handle):
        if handle is not None and handle.place:
            return handle.place
    return status.place if status.submitting is not None else ""


class View(enum.StrEnum):
    """View of TES 1.1 (parameters/view)."""

    MINIMAL = "MINIMAL"
    BASIC = "BASIC"
    FULL = "FULL"


class Lane(enum.StrEnum):
    """Which of the reconciler's two queues a record waits in; a record at rest is in none."""

    WAITING = "WAITING"  #: nothing submitted yet for the current attempt: admitted owner by owner
    ACTIVE = "ACTIVE"  #: an attempt is being submitted, runs, or has to be cleaned up: looked at when due


class Status(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The facts that needs are derived from (`control.decide.need`). Small: no output, no log text."""

    backend: str
    rule: str
    """the routing rule that chose the backend, in words"""
    attempt: int = 1
    submitting: datetime.datetime | None = None
    """an intent to submit `attempt` was saved and its outcome is not known; no platform call of it can end after this"""
    unsure: datetime.datetime | None = None
    """until then an earlier submit of `attempt` may still be under way, though it was sent again"""
    place: str = ""
    """of that intent: where the attempt is to be (`Handle.place`)"""
    handle: Handle | None = None
    """the live attempt on the platform; its results are still to be taken"""
    release: tuple[Handle, ...] = ()
    """attempts whose results are saved and that are still to be cleaned up on the platform"""
    cancel: datetime.datetime | None = None
    """when the user asked to cancel"""
    cancel_sent: bool = False
    failures: dict[str, int] = {}
    """Reason -> attempts that it has cost so far, for its retry budget"""
    not_before: datetime.datetime | None = None
    """the next attempt waits until then (back-off)"""
    misses: int = 0
    """failed calls in a row for this record, for the back-off"""
    waiting: str = ""
    """why nothing runs yet: a code and one sentence"""
    start_time: datetime.datetime | None = None
    end_time: datetime.datetime | None = None
    metadata: dict[str, str] = {}


class Logs(msgspec.Struct, frozen=True, omit_defaults=True):
    """The BASIC part of tesTaskLog: executor logs without stdout and stderr, and the outputs."""

    executors: tuple[ExecutorLog, ...] = ()
    outputs: tuple[OutputFileLog, ...] = ()


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """The FULL part of tesTaskLog: system_logs, and stdout and stderr by executor (same order as Logs.executors)."""

    system_logs: tuple[str, ...] = ()
    streams: tuple[tuple[str, str], ...] = ()


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What a MINIMAL view needs."""

    id: str
    state: State
    canceling: bool = False


class Record(Brief, frozen=True, kw_only=True):
    """One task. A part that was not read is None; `revision` counts the saves."""

    owner: str
    created: datetime.datetime
    revision: int = 0
    lane: Lane | None = None
    due: datetime.datetime | None = None
    status: Status
    task: Task | None = None
    logs: Logs | None = None
    detail: Detail | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A save: applied only where the stored revision is still `revision`. `logs` and `detail`: None leaves them as they are."""

    id: str
    revision: int
    state: State
    canceling: bool
    lane: Lane | None
    due: datetime.datetime | None
    status: Status
    logs: Logs | None = None
    detail: Detail | None = None


class StateFilter(msgspec.Struct, frozen=True):
    """Which tasks a list by state means: any of `states`; `canceling` None = either. No states match nothing."""

    states: frozenset[State]
    canceling: bool | None = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A list request (TES 1.1, ListTasks), newest first. `after` = (created, id) of the last task of the page before."""

    scope: Scope
    view: View = View.MINIMAL
    size: int = 256
    after: tuple[datetime.datetime, str] | None = None
    name_prefix: str = ""
    state: StateFilter | None = None
    tags: tuple[tuple[str, str], ...] = ()
    """(key, value) pairs that must all hold; an empty value matches any value"""


class Page(msgspec.Struct, frozen=True):
    """One page. `after` is the position to go on from, None on the last page (a last page is never empty but for an empty list)."""

    tasks: list[Brief]
    """Records where the query's view is BASIC or FULL"""
    after: tuple[datetime.datetime, str] | None
