"""Invariants of `decide` over the product of states, facts and answers."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tes_server.control import changes, decide
from tes_server.control.decide import Need, Rules
from tes_server.model import record as model
from tes_server.model.record import Change, Detail, Lane, Record, Status
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report, job_name
from tes_server.model.states import ENDS, LIVE, State, may_follow
from tes_server.model.task import ExecutorLog, OutputFileLog
from tes_server.telemetry import Code
from tests.scripted import T0

RULES = Rules(budgets={Reason.LOST: 2, Reason.PREEMPTED: 1, Reason.STAGING: 1, Reason.BACKEND: 1})
NOW = T0 + datetime.timedelta(hours=1)


@st.composite
def records(draw: st.DrawFn, facts: tuple[str, ...] = ("none", "intent", "handle"), *, clean: bool = False) -> Record:
    """Any record that can be in a store: handle and intent exclude each other, ends have neither. `clean`: live, nothing to release."""
    state = draw(st.sampled_from(sorted(LIVE if clean else LIVE | ENDS)))
    attempt = draw(st.integers(1, 4))
    fact = "none" if state in ENDS else draw(st.sampled_from(facts))
    canceling = draw(st.booleans())
    old = tuple(Handle("local", job_name("t", number)) for number in range(1, attempt) if not clean and draw(st.booleans()))
    if state in ENDS and draw(st.booleans()):
        old = (*old, Handle("local", job_name("t", attempt)))
    until = NOW + datetime.timedelta(seconds=draw(st.integers(-20, 20)))
    status = Status(
        backend="local",
        rule="r",
        attempt=attempt,
        submitting=until if fact == "intent" else None,
        unsure=until if not clean and fact != "handle" and state not in ENDS and draw(st.booleans()) else None,
        handle=Handle("local", job_name("t", attempt)) if fact == "handle" else None,
        release=old,
        cancel=NOW if canceling else None,
        cancel_sent=canceling and draw(st.booleans()),
        failures=draw(st.dictionaries(st.sampled_from(sorted(Reason)), st.integers(0, 3), max_size=3)),
        start_time=draw(st.sampled_from([None, T0])),
    )
    record = Record(id="t", owner="o", created=T0, state=state, canceling=canceling, revision=draw(st.integers(0, 9)), status=status, detail=Detail(("a",)))
    need = decide.need(record)
    lane = {Need.REST: None, Need.SUBMIT: Lane.WAITING}.get(need, Lane.ACTIVE)
    return msgspec.structs.replace(record, lane=lane, due=NOW if lane else None)


REPORTS = st.builds(
    Report,
    executors=st.lists(st.builds(ExecutorLog, exit_code=st.integers(0, 255), stdout=st.just("o")), max_size=2).map(tuple),
    reason=st.sampled_from([None, *Reason]),
    transient=st.booleans(),
    code=st.sampled_from(["", "OOM", "LOST", "OWN_CODE"]),
    notices=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
OBSERVATIONS = st.builds(
    Observation,
    phase=st.sampled_from(Phase),
    reason=st.sampled_from([None, *Reason]),
    transient=st.booleans(),
    report=st.none() | REPORTS,
    start_time=st.sampled_from([None, T0]),
    notices=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
OUTCOMES = st.sampled_from([Handle("local", "t-1", "ref"), Refusal(Reason.REJECTED, "REJECTED", "no"), Later("WAITING_CAPACITY", "full", 3.0)])


def applied(record: Record, change: Change) -> Record:
    return msgspec.structs.replace(
        record, state=change.state, canceling=change.canceling, lane=change.lane, due=change.due, status=change.status, detail=change.detail or record.detail
    )


def check(before: Record, change: Change | None) -> None:
    """What holds for every change whatever caused it."""
    if change is None:
        return
    after = applied(before, change)
    assert change.revision == before.revision
    assert may_follow(before.state, after.state)
    need = decide.need(after)
    assert after.lane == {Need.REST: None, Need.SUBMIT: Lane.WAITING}.get(need, Lane.ACTIVE), (need, after.lane)
    if need not in (Need.REST, Need.OBSERVE):
        assert after.due is not None, f"{need} would never be looked at"
    known = {before.status.handle, *before.status.release} - {None}
    kept = {after.status.handle, *after.status.release}
    if after.status.release != before.status.release or need is not Need.RELEASE:
        assert known <= kept or decide.need(before) is Need.RELEASE, "an attempt on the platform was forgotten"
    assert after.status.attempt - before.status.attempt in (0, 1)
    if after.status.attempt > before.status.attempt:
        assert after.state is State.QUEUED
        assert after.status.handle is None
        assert after.status.submitting is None
    if before.canceling:
        assert after.canceling
        assert after.state not in ENDS - {before.state} or after.state in (State.CANCELED, State.SYSTEM_ERROR)
    if after.state in ENDS:
        assert after.status.end_time is not None or before.state in ENDS
        assert after.status.submitting is None
        assert after.status.handle is None
    if change.detail is not None:
        assert len(change.detail.system_logs) <= changes.LONGEST_LOG


@given(records())
def test_every_record_has_one_need_and_ends_absorb(record: Record) -> None:
    need = decide.need(record)
    if record.state in ENDS:
        assert need in (Need.REST, Need.RELEASE)
        assert decide.cancel(record, NOW) is None
    if record.status.submitting is not None and not record.status.release:
        assert need is Need.FIND, "an unresolved intent counts as compute"


@given(records())
def test_cancel(record: Record) -> None:
    change = decide.cancel(record, NOW)
    check(record, change)
    if change is not None:
        status = record.status
        nothing = status.handle is None and status.submitting is None and status.unsure is None and not status.release
        assert (change.state is State.CANCELED) == nothing, "CANCELED only when no compute can be left"


@given(records(("handle",), clean=True), OBSERVATIONS, st.floats(0, 0.99))
def test_observed(record: Record, seen: Observation, jitter: float) -> None:
    change = decide.observed(record, seen, NOW, RULES, jitter)
    check(record, change)
    if seen.phase is Phase.UNKNOWN:
        assert change is None, "no news is no conclusion"
    if change is None:
        return
    if change.state is State.EXECUTOR_ERROR:
        assert seen.report is not None
        assert seen.report.reason in (Reason.EXIT, Reason.OOM), "only the user's own command makes EXECUTOR_ERROR"
    if change.state is State.COMPLETE:
        assert seen.report is not None
        assert seen.report.reason is None
    if change.state in ENDS:
        assert change.logs is not None
        assert change.detail is not None
        assert len(change.logs.executors) == len(change.detail.streams)
    else:
        assert seen.phase not in (Phase.ENDED, Phase.GONE) or change.status.attempt == record.status.attempt + 1
    for reason, spent in change.status.failures.items():
        assert spent <= max(RULES.budgets.get(Reason(reason), 0), record.status.failures.get(reason, 0)), "a budget was overdrawn"


@given(records(("intent",), clean=True), OUTCOMES)
def test_submitted(record: Record, outcome: Handle | Refusal | Later) -> None:
    change = decide.submitted(record, outcome, NOW, RULES)
    check(record, change)
    if isinstance(outcome, Handle):
        assert change.status.handle == outcome, "a handle must never be dropped"


@given(records(("intent",), clean=True))
def test_found_nothing_waits_until_the_window_is_over(record: Record) -> None:
    change = decide.found(record, None, NOW)
    check(record, change)
    assert record.status.submitting is not None
    assert (change is None) == (record.status.submitting + decide.SKEW > NOW), "by whatever clock it was saved"
    own = decide.found(record, None, NOW, datetime.timedelta())
    assert (own is None) == (record.status.submitting > NOW)


@given(records(("intent",), clean=True).filter(lambda record: not record.canceling))
def test_sent_again_it_may_still_come_from_before(record: Record) -> None:
    """Where names last it is not waited for; but whoever cancels it then must not hear that nothing is there."""
    again = applied(record, decide.sent_again(record, NOW, RULES, 0.5))
    assert decide.need(again) is Need.SUBMIT
    assert (again.status.unsure, again.status.misses) == (record.status.submitting, record.status.misses + 1)
    assert "sent again" in again.status.waiting
    change = decide.cancel(again, NOW)
    assert change is not None
    asked = applied(again, change)
    assert decide.need(asked) is Need.FIND
    assert again.status.unsure is not None
    over = again.status.unsure + decide.SKEW
    assert decide.found(asked, None, over - datetime.timedelta(seconds=1)) is None
    gone = decide.found(asked, None, over)
    check(asked, gone)
    assert gone is not None
    assert gone.state is State.CANCELED
    there = applied(asked, decide.found(asked, Handle("local", "t-1"), NOW) or change)
    assert (decide.need(there), there.status.unsure) == (Need.CANCEL, None)


@given(records(("intent",), clean=True), st.booleans())
def test_why_it_is_out_of_reach_is_said_once(record: Record, late: bool) -> None:
    words = "the cluster cannot be reached"
    change = decide.postponed(record, NOW, RULES, 0.5, words) if late else decide.out_of_reach(record, words)
    assert change is not None
    told = applied(record, change)
    assert told.status.waiting.startswith(f"{Code.WAITING_BACKEND}: {words}")
    assert decide.need(told) is Need.FIND
    assert decide.out_of_reach(told, words) is None


@given(records().filter(lambda record: decide.need(record) is Need.RELEASE), st.data())
def test_released(record: Record, data: st.DataObject) -> None:
    done = tuple(handle for handle in record.status.release if data.draw(st.booleans()))
    change = decide.released(record, NOW, done)
    check(record, change)
    assert (change is None) == (not done)
    if change is not None:
        assert change.state is record.state


@st.composite
def elsewhere(draw: st.DrawFn) -> Record:
    """A record whose next step can be done at the place `p/1` only."""
    record = draw(records().filter(lambda record: decide.need(record) in (Need.FIND, Need.OBSERVE, Need.CANCEL, Need.RELEASE)))
    assume(decide.need(record) is not Need.FIND or record.status.submitting is not None)
    status = record.status
    status = msgspec.structs.replace(
        status,
        handle=status.handle and msgspec.structs.replace(status.handle, place="p/1"),
        release=tuple(msgspec.structs.replace(handle, place="p/1") for handle in status.release),
        place="p/1" if status.submitting else "",
        unsure=None,  # of platforms that are reached from everywhere
    )
    return msgspec.structs.replace(record, status=status)


@given(elsewhere(), st.floats(0, 0.99))
def test_a_place_is_told_to_be_silent_once_and_lost_only_after_that(record: Record, jitter: float) -> None:
    assert decide.silent(record, "q/2") is None
    assert decide.lost(record, "q/2", NOW, RULES, jitter) is None
    told = decide.silent(record, "p/1")
    assert told is not None
    assert told == decide.lost(record, "p/1", NOW, RULES, jitter), "never without a word before"
    assert (told.state, told.lane, told.due) == (record.state, record.lane, None)
    assert told.status.waiting.startswith("MACHINE_SILENT: nothing is heard of p,")
    silent = applied(record, told)
    assert decide.silent(silent, "p/1") is None
    change = decide.lost(silent, "p/1", NOW, RULES, jitter)
    assert change is not None
    after = applied(silent, change)
    assert not after.status.waiting
    assert after.status.release == ()
    need = decide.need(after)
    assert after.lane == {Need.REST: None, Need.SUBMIT: Lane.WAITING}.get(need, Lane.ACTIVE)
    if decide.need(record) is Need.RELEASE:
        assert (after.state, after.status.attempt) == (record.state, record.status.attempt), "its results are saved"
        return
    assert model.place_of(after.status) == "", "nothing of it waits for the place any more"
    if record.canceling:
        assert after.state is State.CANCELED
    else:
        assert after.status.attempt == record.status.attempt + 1 or after.state is State.SYSTEM_ERROR, "the name is not used again elsewhere"


def unresolved(record: Record) -> Record:
    """The record with an intent at the place `p/1`, whose outcome is not known."""
    status = msgspec.structs.replace(record.status, handle=None, release=(), submitting=record.status.submitting or NOW, place="p/1")
    return msgspec.structs.replace(record, state=State.QUEUED if record.state in ENDS else record.state, status=status)


@given(records().map(unresolved))  # few of `elsewhere` are: Hypothesis would refuse to look for them
def test_what_is_not_at_its_own_place_will_not_come(record: Record) -> None:
    change = decide.found(record, None, NOW)
    assert change is not None
    check(record, change)


@pytest.mark.parametrize(
    ("phase", "state"), [(Phase.STAGING, State.INITIALIZING), (Phase.RUNNING, State.RUNNING), (Phase.GONE, State.QUEUED), (None, State.QUEUED)]
)
def test_a_handle_and_the_first_look_are_one_save(phase: Phase | None, state: State) -> None:
    record = Record(id="t", state=State.QUEUED, owner="o", created=T0, status=Status(backend="b", rule="", submitting=NOW, place="p/1"))
    handle = Handle("b", "t-1", place="p/1")
    change = decide.submitted(record, handle, NOW, RULES, Observation(phase=phase, where={"host": "p"}) if phase else None)
    assert (change.state, change.status.handle, change.status.submitting, change.lane) == (state, handle, None, Lane.ACTIVE)
    assert change.status.metadata == ({"host": "p"} if state is not State.QUEUED else {})


@given(records(("none",), clean=True).filter(lambda record: not record.canceling))
def test_intend(record: Record) -> None:
    change = decide.intend(record, NOW, 10.0)
    check(record, change)
    assert decide.need(applied(record, change)) is Need.FIND


@given(records().filter(lambda record: decide.need(record) not in (Need.REST, Need.SUBMIT)), st.floats(0, 0.99))
def test_postponed_is_never_in_the_past(record: Record, jitter: float) -> None:
    change = decide.postponed(record, NOW, RULES, jitter)
    check(record, change)
    assert change.due is not None
    assert change.due > NOW


@pytest.mark.parametrize("reason", [None, Reason.EXIT, Reason.OOM])
def test_without_a_report_no_command_is_blamed(reason: Reason | None) -> None:
    status = Status(backend="b", rule="", handle=Handle("b", "t-1"))
    record = Record(id="t", state=State.RUNNING, owner="o", created=T0, lane=Lane.ACTIVE, status=status)
    change = decide.observed(record, Observation(phase=Phase.ENDED, reason=reason), NOW, RULES, 0.0)
    assert change is not None
    assert change.state is State.QUEUED
    assert change.status.attempt == 2


def test_what_a_platform_says_is_kept_without_credentials_of_urls() -> None:
    """In libraries' words there may be any. Said again it is nothing new."""
    url, shown = "https://u:CANARY@h/x?sig=CANARY", "https://***@h/x?sig=***"
    handle = Handle("b", "t-1")
    record = Record(id="t", state=State.RUNNING, owner="o", created=T0, lane=Lane.ACTIVE, status=Status(backend="b", rule="", handle=handle))
    running = Observation(phase=Phase.RUNNING, where={"node": url}, notices=(f"TRANSFER: {url}",), code="TRANSFER", message=url)
    change = decide.observed(record, running, NOW, RULES, 0.0)
    assert change is not None
    assert change.detail is not None
    assert (change.status.metadata, change.detail.system_logs) == ({"node": shown}, (f"TRANSFER: {shown}",))
    assert change.status.waiting.startswith(f"TRANSFER: {shown}")
    after = msgspec.structs.replace(record, status=change.status, detail=change.detail)
    assert decide.observed(after, running, NOW, RULES, 0.0) is None

    output = OutputFileLog(url=url, path="/x", size_bytes="1")
    report = Report(reason=Reason.STAGING, code="INPUT_ERROR", message=f"GET {url}", notices=(f"OUTPUT_MISSING: {url}",), outputs=(output,))
    end = decide.observed(record, Observation(phase=Phase.ENDED, report=report), NOW, RULES, 0.0)
    assert end is not None
    assert end.detail is not None
    assert "CANARY" not in msgspec.json.encode((end.status, end.detail)).decode()
    assert end.logs is not None
    assert end.logs.outputs == (output,), "what the task named is the owner's"

    waits = msgspec.structs.replace(record, state=State.QUEUED, status=Status(backend="b", rule="", submitting=NOW))
    for outcome in (Refusal(Reason.REJECTED, "REJECTED", url), Later("WAITING_BACKEND", url)):
        change = decide.submitted(waits, outcome, NOW, RULES)
        assert "CANARY" not in msgspec.json.encode((change.status, change.detail)).decode()
    change = decide.submitted(waits, handle, NOW, RULES, running)
    assert (change.status.metadata, "CANARY" in msgspec.json.encode((change.status, change.detail)).decode()) == ({"node": shown}, False)
    held = decide.held_back(waits, Code.WAITING_IMAGE, url)
    assert held is not None
    assert decide.held_back(msgspec.structs.replace(waits, status=held.status), Code.WAITING_IMAGE, url) is None
