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
from tes_server.control import changes, clearance
from tes_server.control.clearance import UNSEEN, Cleared
from tes_server.model import record as model
from tes_server.model import run
from tes_server.model.record import Change, Detail, Lane, Logs, Record, Status
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report
from tes_server.model.states import ENDS, State
from tes_server.telemetry import Code

SKEW = datetime.timedelta(seconds=90)
"""Clocks of two machines may differ by a minute: how much later than by its own clock a process takes another's call for over."""


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
    lost_after: float = 900.0
    """a place that is silent for so long is lost, and what ran there is made again"""


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
    if record.canceling:
        return Need.DROP if status.unsure is None else Need.FIND
    return Need.SUBMIT


# -- from the API ---------------------------------------------------------------------------------------------------


def cancel(record: Record, now: datetime.datetime) -> Change | None:
    """The user asked to cancel: one fact, or the end at once if nothing was submitted. None if there is nothing to change."""
    if record.state in ENDS or record.canceling:
        return None
    status = msgspec.structs.replace(record.status, cancel=now)
    asked = msgspec.structs.replace(record, status=status, canceling=True)
    if need(asked) is Need.DROP:
        return drop(asked, now)
    return changes.change(record, status=status, canceling=True, lane=Lane.ACTIVE, due=now)


def drop(record: Record, now: datetime.datetime) -> Change:
    """Canceled, and nothing of it is on any platform."""
    return _end(record, now, State.CANCELED, lines=(telemetry.line(Code.CANCELED, "before it was started"),))


# -- submitting -----------------------------------------------------------------------------------------------------


def intend(record: Record, now: datetime.datetime, window: float, place: str = "", cleared: Cleared = UNSEEN) -> Change:
    """Save the intent before the effect: after `until` no call of this attempt can still be under way.

    A call takes up to `window` seconds and must begin within as many of `now`. What is known of its images is told with it.
    """
    until = now + datetime.timedelta(seconds=2 * window)
    metadata = {**record.status.metadata, **cleared.metadata}
    status = msgspec.structs.replace(record.status, submitting=until, place=place, not_before=None, metadata=metadata)
    told = (record.detail or Detail()).system_logs
    lines = tuple(line for line in cleared.lines if line not in told)
    return changes.change(record, status=status, lane=Lane.ACTIVE, due=until if place else until + SKEW, lines=lines)


def submitted(record: Record, outcome: Handle | Refusal | Later, now: datetime.datetime, rules: Rules, seen: Observation | None = None) -> Change:
    """The platform answered a submit. `seen`: a first look at once, where that costs nothing: both are one save."""
    if isinstance(outcome, Handle):
        adopted = _adopt(record, outcome, now)
        if seen is None or seen.phase not in (Phase.STAGING, Phase.RUNNING):
            return adopted
        return _progress(msgspec.structs.replace(record, status=adopted.status, lane=adopted.lane, due=adopted.due), changes.told(seen)) or adopted
    settled = _settled(record)
    if isinstance(outcome, Refusal):
        return _end(settled, now, State.SYSTEM_ERROR, lines=(telemetry.line(outcome.code, outcome.message),))
    if need(settled) is Need.DROP:
        return drop(settled, now)
    if record.canceling:
        return changes.change(settled, status=settled.status, lane=Lane.ACTIVE, due=now)
    later = now + datetime.timedelta(seconds=min(outcome.seconds, rules.longest_delay))
    return changes.change(settled, status=_waiting(settled.status, outcome.code, outcome.message), lane=Lane.WAITING, due=later)


def found(record: Record, handle: Handle | None, now: datetime.datetime, skew: datetime.timedelta = SKEW) -> Change | None:
    """The platform was asked for the name of an unresolved intent. None: it may still come, ask again when `until` is over.

    `until` is by the clock of whoever saved it, and `skew` how far that may be behind. Where the intent has a place, whoever asks
    is the only one who could submit it, and is not doing so: what is not there will not come.
    """
    if handle is not None:
        return _adopt(record, handle, now)
    until = record.status.submitting or record.status.unsure
    if until is not None and not record.status.place and now < until + skew:
        return None
    settled = _settled(record)
    settled = msgspec.structs.replace(settled, status=msgspec.structs.replace(settled.status, unsure=None))
    if record.canceling:
        return drop(settled, now)
    return changes.change(settled, status=settled.status, lane=Lane.WAITING, due=now)


def sent_again(record: Record, now: datetime.datetime, rules: Rules, jitter: float) -> Change:
    """The platform does not have an intent's name, and takes each name once (`Capabilities.names_last`): a submit that is still under way will find it
    taken. Later, the more often it happened: what fails without a word fails again."""
    settled = _settled(record)
    misses = record.status.misses + 1
    status = _waiting(settled.status, Code.WAITING_BACKEND, "the platform did not say whether it took the task, and does not have it: it is sent again")
    due = now + _delay(misses, rules, jitter)
    status = msgspec.structs.replace(status, misses=misses, unsure=record.status.submitting)
    return changes.change(settled, status=status, lane=Lane.WAITING, due=due)


def held_back(record: Record, code: Code, message: str, due: datetime.datetime | None = None) -> Change | None:
    """Not admitted now: keep the reason where clients see it. None if it is the same as before. `due`: not looked at before then."""
    status = _waiting(record.status, code, message)
    if status == record.status and due is None:
        return None
    return changes.change(record, status=status, lane=Lane.WAITING, due=due or record.due)


def refused(record: Record, lines: tuple[str, ...], now: datetime.datetime) -> Change:
    """The task is not started (any more), for what the lines say: an image that the policy forbids, settings that changed since it was created."""
    return _end(record, now, State.SYSTEM_ERROR, lines=lines)


# -- observing ------------------------------------------------------------------------------------------------------


def observed(record: Record, seen: Observation, now: datetime.datetime, rules: Rules, jitter: float) -> Change | None:
    """One look at the live attempt. `jitter` in [0, 1) spreads repeats. None if nothing changed."""
    if seen.phase is Phase.UNKNOWN:
        return None
    seen = changes.told(seen)
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
    status = msgspec.structs.replace(_heard(record.status), cancel_sent=True)
    return changes.change(record, status=status, lane=Lane.ACTIVE, due=now + datetime.timedelta(seconds=rules.recancel))


def recancel(record: Record) -> bool:
    """True if a cancel was sent and its time is over: send it again (drivers' `cancel` is idempotent)."""
    return record.canceling and record.status.cancel_sent


def released(record: Record, now: datetime.datetime, handles: tuple[Handle, ...]) -> Change | None:
    """Those attempts are cleaned up. None if that is known."""
    left = tuple(handle for handle in record.status.release if handle not in handles)
    if left == record.status.release:
        return None
    status = msgspec.structs.replace(_heard(record.status), release=left)
    if record.state in ENDS:
        lane: Lane | None = Lane.ACTIVE if left else None
        return changes.change(record, status=status, lane=lane, due=now if left else None)
    if need(msgspec.structs.replace(record, status=status)) is Need.SUBMIT:
        return changes.change(record, status=status, lane=Lane.WAITING, due=status.not_before or now)
    return changes.change(record, status=status, lane=Lane.ACTIVE, due=now)


# -- places that are silent -----------------------------------------------------------------------------------------


def silent(record: Record, place: str) -> Change | None:
    """Nothing was heard of the place for a while: say so where clients see it, once. None if it is said, or the record is elsewhere by now."""
    if model.place_of(record.status) != place or _told(record.status):
        return None
    status = _waiting(record.status, Code.MACHINE_SILENT, f"nothing is heard of {run.host_of(place)}, where the task is; what runs there goes on")
    # It is looked at when the place is there again, or given up: until then it is due to nobody.
    return changes.change(record, status=msgspec.structs.replace(status, cancel_sent=False), lane=record.lane, due=None)


def lost(record: Record, place: str, now: datetime.datetime, rules: Rules, jitter: float) -> Change | None:
    """The place was silent for too long: its attempt is made again elsewhere. If it comes back, its own survey ends what is there.

    Only on top of the revision that says that it is silent: a place that is back at work has saved another one.
    """
    status = record.status
    if model.place_of(status) != place:
        return None
    if not _told(status):
        return silent(record, place)
    if status.release:
        return released(record, now, tuple(handle for handle in status.release if handle.place == place))
    gone = msgspec.structs.replace(record, status=msgspec.structs.replace(status, handle=None, submitting=None, unsure=None, place=""))
    if record.canceling:
        return _end(gone, now, State.CANCELED, lines=(telemetry.line(Code.CANCELED, "while it ran"),))
    message = f"nothing was heard of {run.host_of(place)} for {rules.lost_after / 60:.3g} minutes"
    return _again(gone, Report(reason=Reason.LOST, code=Code.LOST, message=message), now, rules, jitter)


def _told(status: Status) -> bool:
    return status.waiting.startswith(f"{Code.MACHINE_SILENT}:")


def _heard(status: Status) -> Status:
    """Without the word that its place is silent: it is that place that saves this, or nothing is there any more."""
    return msgspec.structs.replace(status, waiting="") if _told(status) else status


def out_of_reach(record: Record, message: str) -> Change | None:
    """Its platform does not answer, and the task waits for that: say so where clients see it. None if it is said."""
    status = _waiting(record.status, Code.WAITING_BACKEND, message)
    return None if status == record.status else changes.change(record, status=status, lane=record.lane, due=record.due)


def postponed(record: Record, now: datetime.datetime, rules: Rules, jitter: float, message: str = "") -> Change:
    """A call for this record failed: try again later, exponentially. `message`: why, where the task waits for it."""
    misses = record.status.misses + 1
    status = _waiting(record.status, Code.WAITING_BACKEND, message) if message else record.status
    status = msgspec.structs.replace(status, misses=misses)
    return changes.change(record, status=status, lane=record.lane, due=now + _delay(misses, rules, jitter))


# -- the parts ------------------------------------------------------------------------------------------------------


def _settled(record: Record) -> Record:
    """The intent came to nothing."""
    return msgspec.structs.replace(record, status=msgspec.structs.replace(_heard(record.status), submitting=None, place=""))


def _waiting(status: Status, code: str, message: str) -> Status:
    return msgspec.structs.replace(status, waiting=telemetry.line(code, message))


def _adopt(record: Record, handle: Handle, now: datetime.datetime) -> Change:
    status = msgspec.structs.replace(record.status, submitting=None, unsure=None, place="", handle=handle, waiting="", misses=0)
    # A cancel that came in between is due at once; otherwise news or the sweep tell.
    return changes.change(record, status=status, lane=Lane.ACTIVE, due=now if record.canceling else None)


def _progress(record: Record, seen: Observation) -> Change | None:
    state = {Phase.STAGING: State.INITIALIZING, Phase.RUNNING: State.RUNNING}.get(seen.phase, record.state)
    if record.state is State.RUNNING:
        state = State.RUNNING  # a late look must not turn the clock back
    status = msgspec.structs.replace(
        record.status,
        # Before, it is not worth a save of its own.
        start_time=record.status.start_time or (seen.start_time if state is State.RUNNING else None),
        metadata={**record.status.metadata, **seen.where},
        waiting=telemetry.line(seen.code, seen.message) if seen.code else "",
    )
    known = set((record.detail or Detail()).system_logs)
    lines = tuple(line for line in seen.notices if line not in known)
    if state == record.state and status == record.status and not lines:
        return None
    return changes.change(record, status=status, lane=Lane.ACTIVE, due=record.due, state=state, lines=lines)


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
            metadata={**record.status.metadata, **seen.where, **clearance.ran(report.images, record.status.metadata)},
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
        unsure=None,
        release=(*status.release, status.handle) if status.handle else status.release,
        failures={**status.failures, reason: spent + 1},
        not_before=now + _delay(spent + 1, rules, jitter),
        waiting="",
    )
    message = f"attempt {record.status.attempt} ended with {reason}; attempt {status.attempt} follows"
    lines = (*report.notices, *_said(report), telemetry.line(Code.RETRY, message))
    # With something to clean up the record stays ACTIVE; `released` then queues it for `not_before`.
    lane, due = (Lane.ACTIVE, now) if status.release else (Lane.WAITING, status.not_before)
    return changes.change(record, status=status, lane=lane, due=due, state=State.QUEUED, lines=lines)


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
        unsure=None,
        handle=None,
        release=(*status.release, status.handle) if status.handle else status.release,
        waiting="",
        end_time=report.end_time or now,
    )
    return changes.change(
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
