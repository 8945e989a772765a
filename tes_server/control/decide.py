"""What a record needs next, and what becomes of it after an answer: every rule about the life of a task, pure.

`need` derives the next step from the facts of a record (nothing is stored as "to do"); the other functions turn an
answer into a `Change`. They may be called again with the same answer on a newer revision of the same attempt: that is
how the result of an effect survives a lost save.
"""

from __future__ import annotations

import datetime
import enum

import msgspec

from tes_server import telemetry
from tes_server.model.record import Change, Detail, Lane, Logs, Record, Status
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report
from tes_server.model.states import ENDS, State, may_follow
from tes_server.telemetry import Code

LONGEST_LOG = 200
"""Lines of system_logs that are kept; the last one then says that more were dropped."""

LONGEST_LINE = 4000
"""Characters of one line of system_logs."""


class Need(enum.StrEnum):
    """The next step of a record."""

    REST = "REST"  #: nothing to do
    SUBMIT = "SUBMIT"  #: no attempt on a platform, none intended
    FIND = "FIND"  #: an intent whose outcome is not known
    OBSERVE = "OBSERVE"  #: an attempt is on the platform
    CANCEL = "CANCEL"  #: the attempt is to be stopped
    DROP = "DROP"  #: canceled before anything was submitted
    RELEASE = "RELEASE"  #: an attempt whose results are saved is to be cleaned up


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Retry budgets (attempts made again, by reason) and delays in seconds."""

    budgets: dict[Reason, int] = {}
    first_delay: float = 2.0
    longest_delay: float = 300.0
    recancel: float = 30.0
    """a cancel that showed no effect is sent again after this"""


def need(record: Record) -> Need:
    """The next step, from the facts alone."""
    status = record.status
    if status.release:
        return Need.RELEASE
    if record.state in ENDS:
        return Need.REST
    if status.handle is not None:
        return Need.CANCEL if record.canceling and not status.cancel_sent else Need.OBSERVE
    if status.submitting is not None:
        return Need.FIND
    return Need.DROP if record.canceling else Need.SUBMIT


# -- from the API ---------------------------------------------------------------------------------------------------


def cancel(record: Record, now: datetime.datetime) -> Change | None:
    """The user asked to cancel: one fact, or the end at once if nothing was submitted. None if there is nothing to change."""
    if record.state in ENDS or record.canceling:
        return None
    status = msgspec.structs.replace(record.status, cancel=now)
    asked = msgspec.structs.replace(record, status=status, canceling=True)
    if need(asked) is Need.DROP:
        return drop(asked, now)
    return change(record, status=status, canceling=True, lane=Lane.ACTIVE, due=now)


def drop(record: Record, now: datetime.datetime) -> Change:
    """Canceled, and nothing of it is on any platform."""
    return _end(record, now, State.CANCELED, lines=(telemetry.line(Code.CANCELED, "before it was started"),))


# -- submitting -----------------------------------------------------------------------------------------------------


def intend(record: Record, now: datetime.datetime, window: float) -> Change:
    """Save the intent before the effect: after `until` no call of this attempt can still be under way."""
    until = now + datetime.timedelta(seconds=window)
    status = msgspec.structs.replace(record.status, submitting=until, not_before=None)
    return change(record, status=status, lane=Lane.ACTIVE, due=until)


def submitted(record: Record, outcome: Handle | Refusal | Later, now: datetime.datetime, rules: Rules) -> Change:
    """The platform answered a submit."""
    if isinstance(outcome, Handle):
        return _adopt(record, outcome, now)
    settled = _with(record, submitting=None)
    if isinstance(outcome, Refusal):
        return _end(settled, now, State.SYSTEM_ERROR, lines=(telemetry.line(outcome.code, outcome.message),))
    if record.canceling:
        return drop(settled, now)
    later = now + datetime.timedelta(seconds=min(outcome.seconds, rules.longest_delay))
    return change(settled, status=_waiting(settled.status, outcome.code, outcome.message), lane=Lane.WAITING, due=later)


def found(record: Record, handle: Handle | None, now: datetime.datetime) -> Change | None:
    """The platform was asked for the name of an unresolved intent. None: it may still come, ask again when `until` is over."""
    if handle is not None:
        return _adopt(record, handle, now)
    if record.status.submitting is not None and now < record.status.submitting:
        return None
    settled = _with(record, submitting=None)
    if record.canceling:
        return drop(settled, now)
    return change(settled, status=settled.status, lane=Lane.WAITING, due=now)


def held_back(record: Record, code: Code, message: str) -> Change | None:
    """Not admitted now: keep the reason where clients see it. None if it is the same as before."""
    status = _waiting(record.status, code, message)
    if status == record.status:
        return None
    return change(record, status=status, lane=Lane.WAITING, due=record.due)


def refused(record: Record, message: str, now: datetime.datetime) -> Change:
    """The task cannot be planned any more (the site's settings changed since it was created)."""
    return _end(record, now, State.SYSTEM_ERROR, lines=(telemetry.line(Code.REJECTED, message),))


# -- observing ------------------------------------------------------------------------------------------------------


def observed(record: Record, seen: Observation, now: datetime.datetime, rules: Rules, jitter: float) -> Change | None:
    """One look at the live attempt. `jitter` in [0, 1) spreads repeats. None if nothing changed."""
    if seen.phase is Phase.UNKNOWN:
        return None
    if seen.phase is Phase.GONE:
        if record.canceling:
            return _end(record, now, State.CANCELED, lines=(telemetry.line(Code.CANCELED, "while it ran"),))
        return _again(
            record, Report(reason=Reason.LOST, code=Code.LOST, message=seen.message or "the platform does not know the attempt any more"), now, rules, jitter
        )
    if seen.phase is Phase.ENDED:
        return _ended(record, seen, now, rules, jitter)
    return _progress(record, seen)


def cancel_sent(record: Record, now: datetime.datetime, rules: Rules) -> Change:
    """The platform was told to stop the attempt; look again in a while, in case it did not listen."""
    status = msgspec.structs.replace(record.status, cancel_sent=True)
    return change(record, status=status, lane=Lane.ACTIVE, due=now + datetime.timedelta(seconds=rules.recancel))


def recancel(record: Record) -> bool:
    """True if a cancel was sent and its time is over: send it again (drivers' `cancel` is idempotent)."""
    return record.canceling and record.status.cancel_sent


def released(record: Record, now: datetime.datetime, handles: tuple[Handle, ...]) -> Change:
    """Those attempts are cleaned up."""
    left = tuple(handle for handle in record.status.release if handle not in handles)
    status = msgspec.structs.replace(record.status, release=left)
    if record.state in ENDS:
        lane: Lane | None = Lane.ACTIVE if left else None
        return change(record, status=status, lane=lane, due=now if left else None)
    if need(msgspec.structs.replace(record, status=status)) is Need.SUBMIT:
        return change(record, status=status, lane=Lane.WAITING, due=status.not_before or now)
    return change(record, status=status, lane=Lane.ACTIVE, due=now)


def postponed(record: Record, now: datetime.datetime, rules: Rules, jitter: float) -> Change:
    """A call for this record failed: try again later, exponentially."""
    misses = record.status.misses + 1
    status = msgspec.structs.replace(record.status, misses=misses)
    return change(record, status=status, lane=record.lane, due=now + _delay(misses, rules, jitter))


# -- the parts ------------------------------------------------------------------------------------------------------


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


def bounded(lines: tuple[str, ...]) -> tuple[str, ...]:
    """system_logs within their bounds; what was dropped is said."""
    cut = tuple(line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "..." for line in lines)
    if len(cut) <= LONGEST_LOG:
        return cut
    keep = LONGEST_LOG // 2
    return (*cut[: keep - 1], f"... {len(cut) - LONGEST_LOG + 1} lines left out ...", *cut[-keep:])


def _with(record: Record, *, submitting: datetime.datetime | None) -> Record:
    return msgspec.structs.replace(record, status=msgspec.structs.replace(record.status, submitting=submitting))


def _waiting(status: Status, code: str, message: str) -> Status:
    return msgspec.structs.replace(status, waiting=telemetry.line(code, message))


def _adopt(record: Record, handle: Handle, now: datetime.datetime) -> Change:
    status = msgspec.structs.replace(record.status, submitting=None, handle=handle, waiting="", misses=0)
    # A cancel that came in between is due at once; otherwise news or the sweep tell.
    return change(record, status=status, lane=Lane.ACTIVE, due=now if record.canceling else None)


def _progress(record: Record, seen: Observation) -> Change | None:
    state = {Phase.STAGING: State.INITIALIZING, Phase.RUNNING: State.RUNNING}.get(seen.phase, record.state)
    if record.state is State.RUNNING:
        state = State.RUNNING  # a late look must not turn the clock back
    status = msgspec.structs.replace(
        record.status,
        start_time=record.status.start_time or seen.start_time,
        metadata={**record.status.metadata, **seen.where},
        waiting=telemetry.line(seen.code, seen.message) if seen.code else "",
    )
    known = set((record.detail or Detail()).system_logs)
    lines = tuple(line for line in seen.notices if line not in known)
    if state == record.state and status == record.status and not lines:
        return None
    return change(record, status=status, lane=Lane.ACTIVE, due=record.due, state=state, lines=lines)


def _ended(record: Record, seen: Observation, now: datetime.datetime, rules: Rules, jitter: float) -> Change:
    # How a command ended is known from a report alone: without its exit code the command is not blamed.
    unproven = seen.reason in (None, Reason.EXIT, Reason.OOM)
    report = seen.report or Report(
        reason=Reason.LOST if unproven else seen.reason,
        transient=seen.transient,
        code=seen.code or Code.LOST,
        message=seen.message or "the attempt ended without a report",
        start_time=seen.start_time,
    )
    record = msgspec.structs.replace(
        record,
        status=msgspec.structs.replace(
            record.status,
            start_time=report.start_time or record.status.start_time,
            metadata={**record.status.metadata, **seen.where, **{f"image_{name}": digest for name, digest in report.images.items()}},
        ),
    )
    if record.canceling:
        return _end(record, now, State.CANCELED, report, (telemetry.line(Code.CANCELED, "while it ran"),))
    match report.reason:
        case None:
            return _end(record, now, State.COMPLETE, report)
        case Reason.EXIT | Reason.OOM:
            return _end(record, now, State.EXECUTOR_ERROR, report, _said(report))
        case Reason.LOST | Reason.PREEMPTED:
            return _again(record, report, now, rules, jitter)
        case Reason.STAGING | Reason.BACKEND | Reason.IMAGE | Reason.CAPACITY if report.transient:
            return _again(record, report, now, rules, jitter)
        case _:
            return _end(record, now, State.SYSTEM_ERROR, report, _said(report))


def _said(report: Report) -> tuple[str, ...]:
    return (telemetry.line(report.code, report.message),) if report.code else ()


def _again(record: Record, report: Report, now: datetime.datetime, rules: Rules, jitter: float) -> Change:
    """A new attempt, or the end if the budget of the reason is used up."""
    reason = report.reason or Reason.LOST
    spent = record.status.failures.get(reason, 0)
    if spent >= rules.budgets.get(reason, 0):
        return _end(record, now, State.SYSTEM_ERROR, report, _said(report))
    status = record.status
    status = msgspec.structs.replace(
        status,
        attempt=status.attempt + 1,
        handle=None,
        submitting=None,
        release=(*status.release, status.handle) if status.handle else status.release,
        failures={**status.failures, reason: spent + 1},
        not_before=now + _delay(spent + 1, rules, jitter),
        waiting="",
    )
    message = f"attempt {record.status.attempt} ended with {reason}; attempt {status.attempt} follows"
    lines = (*report.notices, *_said(report), telemetry.line(Code.RETRY, message))
    # With something to clean up the record stays ACTIVE; `released` then queues it for `not_before`.
    lane, due = (Lane.ACTIVE, now) if status.release else (Lane.WAITING, status.not_before)
    return change(record, status=status, lane=lane, due=due, state=State.QUEUED, lines=lines)


def _delay(times: int, rules: Rules, jitter: float) -> datetime.timedelta:
    seconds = min(rules.first_delay * 2 ** min(times - 1, 30), rules.longest_delay)
    return datetime.timedelta(seconds=seconds * (0.5 + jitter / 2))


def _end(record: Record, now: datetime.datetime, state: State, report: Report | None = None, lines: tuple[str, ...] = ()) -> Change:
    """A terminal state, with everything that the report holds; what is on the platform is released next."""
    report = report or Report()
    status = record.status
    status = msgspec.structs.replace(
        status,
        submitting=None,
        handle=None,
        release=(*status.release, status.handle) if status.handle else status.release,
        waiting="",
        end_time=report.end_time or now,
    )
    return change(
        record,
        status=status,
        lane=Lane.ACTIVE if status.release else None,
        due=now if status.release else None,
        state=state,
        logs=Logs(
            tuple(msgspec.structs.replace(log, stdout=None, stderr=None) for log in report.executors),
            report.outputs,
        ),
        lines=(*report.notices, *lines),
        streams=tuple((log.stdout or "", log.stderr or "") for log in report.executors),
    )
