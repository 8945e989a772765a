"""Records to rows of the embedded store and back. Must never open a file or choose which rows to read."""

from __future__ import annotations

from typing import Any

from tes_server.model import record as model
from tes_server.model import states
from tes_server.store import parts

_STATES = {state.value: state for state in states.State}
_LANES = {lane.value: lane for lane in model.Lane}


def select(wanted: tuple[str, ...]) -> str:
    """The statement, up to its WHERE on `tasks t`, that reads rows for `record_of` with the named parts; other parts' tables are not touched."""
    bodies = ", ".join(f"{part}.body" if part in wanted else "NULL" for part in parts.PARTS)
    joins = " ".join(f"LEFT JOIN {part} ON {part}.seq = t.seq" for part in wanted)
    return (
        "SELECT t.id, owners.owner, t.created, t.state, t.canceling, t.revision, t.lane, t.due, t.status, "  # noqa: S608 - names from PARTS
        f"{bodies} FROM tasks t CROSS JOIN owners ON owners.number = t.owner {joins}"
    )


def record_of(row: tuple[Any, ...]) -> model.Record:
    """A row of `select` as a record."""
    task_id, owner, created, state, canceling, revision, lane, due, status, bare, contents, logs, detail = row
    whole = None if bare is None else parts.task_of(bare)
    if whole is not None and contents is not None:
        whole = parts.joined(whole, parts.contents_of(contents))
    return model.Record(
        id=task_id,
        state=_STATES[state],
        canceling=bool(canceling),
        owner=owner,
        created=parts.moment(created),
        revision=revision,
        lane=None if lane is None else _LANES[lane],
        due=None if due is None else parts.moment(due),
        status=parts.status_of(status),
        task=whole,
        logs=None if logs is None else parts.logs_of(logs),
        detail=None if detail is None else parts.detail_of(detail),
    )


def brief_of(task_id: str, state: str, canceling: int) -> model.Brief:
    """The three columns of a MINIMAL view as a value."""
    return model.Brief(id=task_id, state=_STATES[state], canceling=canceling != 0)
