"""How a decision becomes a Change of a record: the transition table is held, system_logs stay within bounds and hold no credentials. Pure."""

from __future__ import annotations

import datetime

import msgspec

from tes_server import redaction
from tes_server.model.record import Change, Detail, Lane, Logs, Record, Status
from tes_server.model.run import Observation
from tes_server.model.states import State, may_follow

LONGEST_LOG = 200
"""Lines of system_logs that are kept; the last one then says that more were dropped."""

LONGEST_LINE = 4000
"""Characters of one line of system_logs."""


def change(
    record: Record,
    *,
    status: Status,
    lane: Lane | None,
    due: datetime.datetime | None,
    state: State | None = None,
    canceling: bool | None = None,
    logs: Logs | None = None,
    lines: tuple[str, ...] = (),
    streams: tuple[tuple[str, str], ...] | None = None,
) -> Change:
    """A Change of `record`; `lines` are added to its system_logs. Guards the transition table."""
    after = record.state if state is None else state
    if not may_follow(record.state, after):
        raise ValueError(f"{record.state} may not become {after}")
    detail = None
    if lines or streams is not None:
        before = record.detail or Detail()
        detail = Detail(bounded((*before.system_logs, *lines)), before.streams if streams is None else streams)
    return Change(
        id=record.id,
        revision=record.revision,
        state=after,
        canceling=record.canceling if canceling is None else canceling,
        lane=lane,
        due=due,
        status=status,
        logs=logs,
        detail=detail,
    )


def told(seen: Observation) -> Observation:
    """What a platform said, without credentials of urls: in libraries' words there may be any. Outputs and the commands' own words stay as they are."""
    where = {key: redaction.text(value) for key, value in seen.where.items()}
    report = seen.report
    if report is not None and report.notices:
        report = msgspec.structs.replace(report, notices=_shown(report.notices))
    return msgspec.structs.replace(seen, where=where, notices=_shown(seen.notices), report=report)


def _shown(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(redaction.text, lines))


def bounded(lines: tuple[str, ...]) -> tuple[str, ...]:
    """system_logs within their bounds; what was dropped is said."""
    cut = tuple(line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "..." for line in lines)
    if len(cut) <= LONGEST_LOG:
        return cut
    keep = LONGEST_LOG // 2
    return (*cut[: keep - 1], f"... {len(cut) - LONGEST_LOG + 1} lines left out ...", *cut[-keep:])
