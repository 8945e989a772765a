"""The waiting tasks: who may start now, the intent that is saved before the effect, and the submit.

Every rule is in `decide` and `admission`. Must never call a platform for an attempt whose intent is not saved, nor so late that
others may by then take the call for over.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.base import Backend, Job
from tes_server.control import admission, congestion, decide, running, saves
from tes_server.control.clearance import UNSEEN, Cleared, Held, Refused
from tes_server.control.decide import Need, Rules
from tes_server.control.desk import Desk
from tes_server.control.upkeep import Upkeep
from tes_server.model import record as model
from tes_server.model import run
from tes_server.model.principal import SCANS
from tes_server.model.record import Change, Lane, Record
from tes_server.model.run import Handle
from tes_server.plan import compiler, parameters, scans
from tes_server.plan.policy import Target
from tes_server.plan.steps import Gate, Plan
from tes_server.store.base import Store
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)


MEETING = 0.5
"""Seconds after which a task is tried again that was one too many: as often as the reconciler's place among those alive, so that they meet no more."""


class Site(msgspec.Struct, frozen=True):
    """What a reconciler works with: its store, its backends by name, what tasks are checked against, the rules, and its clocks."""

    store: Store
    backends: Mapping[str, Backend]
    targets: Mapping[str, Target]
    rules: Rules
    who: str
    clock: Callable[[], datetime.datetime]
    monotonic: Callable[[], float]
    desk: Desk | None = None
    """where images are looked at first; None: nobody wants that"""
    running: int = 0
    """tasks of one owner that may be under way at a time; 0 = any"""


class Starts:
    """Starts what waits. `hear` is told which tasks to look at next."""

    def __init__(self, site: Site, saved: saves.Saves, upkeep: Upkeep, hear: Callable[[Collection[str]], None], batch: int) -> None:
        self._site = site
        self._saves = saved
        self._upkeep = upkeep
        self._hear = hear
        self._batch = batch
        self._served: dict[str, int] = {}
        self._starts = 0
        self._congestion = congestion.Congestion()
        self._running = running.Running(site.store, site.running)
        self._waited = False
        self._intents: set[str] = set()

    def sleep(self, longest: float) -> float:
        """Seconds until the next look at what waits is due, `longest` at most."""
        return self._congestion.sleep(longest, self._site.clock())

    def intended(self, name: str) -> bool:
        """True if nobody but this process can be submitting this attempt: its time is told by our own clock."""
        return name in self._intents

    def settled(self, names: Collection[str]) -> None:
        """The outcome of these intents is known."""
        self._intents.difference_update(names)

    def start(self, shards: frozenset[int], now: datetime.datetime, *, whole: bool = True) -> bool:
        """Admit and submit; True if more may start at once. Not `whole`: only if somebody waited at the last look, for what has ended since."""
        rooms = self._rooms()
        desk = self._site.desk
        came = desk is not None and desk.poll(now)
        if not came and (self._congestion.lasts(rooms, now) or not (whole or self._waited)):
            return False
        self._running.begin()
        due = self._site.store.due(Lane.WAITING, shards, now, self._batch, shares=self._running.shares if self._site.running else None)
        if desk is not None:
            due = desk.joined(due, shards, now, self._batch)
        cleared, put_off = self._cleared(self._here(due), shards, now)
        waiting: dict[str, list[Record]] = collections.defaultdict(list)
        for record, _ in cleared.values():
            waiting[record.status.backend].append(record)
        started = 0
        for name, records in waiting.items():
            started += self._start_on(self._site.backends[name], records, {record.id: cleared[record.id][1] for record in records}, now)
        # Those that were put off wait for no room, and do not come again at once: others may be behind them.
        waiting_still = len(due) - put_off + self._running.full
        self._congestion.looked(rooms, started, waiting_still, now)
        self._waited = waiting_still > started
        return started >= self._batch or (started > 0 and desk is not None and desk.more) or (put_off > 0 and len(due) >= self._batch)

    def _here(self, due: Sequence[Record]) -> list[Record]:
        """Those whose backend there is. A scan begun for another would never run, and whoever else has that image would wait for it."""
        missing = collections.Counter(record.status.backend for record in due if record.status.backend not in self._site.backends)
        for name, tasks in missing.items():
            telemetry.log(logger, logging.ERROR, "backend.missing", backend=name, tasks=tasks)
        return [record for record in due if record.status.backend not in missing]

    def _cleared(self, due: Sequence[Record], shards: frozenset[int], now: datetime.datetime) -> tuple[dict[str, tuple[Record, Cleared]], int]:
        """Those that may start as far as their images go, and as what; the others are told why they may not. Scans begun for them come along.

        And how many were put off.
        """
        desk = self._site.desk
        if desk is None:
            return {record.id: (record, UNSEEN) for record in due}, 0
        looked = desk.look(due, now)
        held: list[Change] = []
        refused: list[tuple[Record, tuple[str, ...]]] = []
        cleared = {record.id: (record, UNSEEN) for record in looked.begun if model.shard_of(record.id) in shards}
        for record in due:
            match looked.decisions[record.id]:
                case Cleared() as decision:
                    cleared[record.id] = (record, decision)
                case Held(code, message, until) if message and (change := decide.held_back(record, code, message, until)) is not None:
                    held.append(change)
                case Refused(lines):
                    refused.append((record, lines))
        self._saves.once(held)
        self._refuse(refused, now)
        return cleared, len(held)

    def _rooms(self) -> congestion.Rooms:
        rooms: dict[str, run.Room | None] = {}
        for name, backend in self._site.backends.items():
            with contextlib.suppress(errors.TesServerError):  # told to the tasks that wait for it when they are looked at
                rooms[name] = backend.room()
        return rooms

    def _start_on(self, backend: Backend, records: Sequence[Record], cleared: Mapping[str, Cleared], now: datetime.datetime) -> int:
        candidates = [candidate for record in records if (candidate := self._candidate(record, now)) is not None]
        try:
            room = backend.room()
        except errors.TesServerError as cause:
            self._hold_back([(candidate.record, cause.public) for candidate in candidates], Code.WAITING_BACKEND)
            return 0
        left = self._running.left({candidate.record.owner for candidate in candidates})
        admitted = admission.admit(admission.in_turn(candidates, self._served), room, now, left)
        self._hold_back([(candidate.record, reason) for candidate, reason in admitted.wait], Code.WAITING_CAPACITY)
        jobs: dict[str, Job] = {}
        for candidate in admitted.start:
            plan = self._plan(candidate.record, cleared[candidate.record.id], now)
            if plan is not None:
                jobs[candidate.record.id] = backend.render(plan)
                telemetry.SCAN_HITS.inc(cleared[candidate.record.id].verdicts)
                self._starts += 1
                self._served[candidate.record.owner] = self._starts
                self._running.started([candidate.record])
        self._submit(backend, [candidate.record for candidate in admitted.start if candidate.record.id in jobs], jobs, cleared)
        return len(jobs)

    def _candidate(self, record: Record, now: datetime.datetime) -> admission.Candidate | None:
        """What the record reserves; one that can never run any more (the site's settings changed) is ended here."""
        target = self._site.targets[record.status.backend]
        resources = record.task.resources if record.task else None
        try:
            given = parameters.read(resources, target.capabilities.parameters)
            return admission.Candidate(record, compiler.reserve(resources, given, target.policy, target.capabilities))
        except errors.Invalid as cause:
            self._refuse([(record, _rejected(cause))], now)
            return None

    def _plan(self, record: Record, cleared: Cleared, now: datetime.datetime) -> Plan | None:
        target = self._site.targets[record.status.backend]
        if record.task is None:
            raise TypeError("records of the WAITING lane come with their task")
        findings = None
        if record.owner == SCANS.owner:
            if self._site.desk is None:
                self._refuse([(record, (telemetry.line(Code.REJECTED, "images are not scanned here any more"),))], now)
                return None
            findings = self._site.desk.scanning.findings
        try:
            return compiler.compile_task(
                record.task,
                record.id,
                record.status.attempt,
                record.owner,
                target.policy,
                target.capabilities,
                images=cleared.images,
                findings=findings,
                gate=self._gate(cleared, target),
            ).plan
        except (errors.Invalid, errors.TooLarge) as cause:
            self._refuse([(record, _rejected(cause))], now)
            return None

    def _gate(self, cleared: Cleared, target: Target) -> Gate | None:
        """The second lock, where the site wants one (`scan.place = "task"`). Raises Invalid where the backend can run no such scan."""
        if not cleared.again or self._site.desk is None or not self._site.desk.scanning.again:
            return None
        wanted = self._site.desk.scanning
        images = [scans.Image(one.name, one.digest, wanted.task(one)) for one in cleared.again]
        return scans.gate(images, wanted.findings, wanted.policy, wanted.on_error, wanted.again, target.capabilities)

    def _refuse(self, pairs: Sequence[tuple[Record, tuple[str, ...]]], now: datetime.datetime) -> None:
        self._saves.commit([(record, functools.partial(_refused, lines, now)) for record, lines in pairs])

    def _hold_back(self, pairs: Sequence[tuple[Record, str]], code: Code) -> None:
        self._saves.once([change for record, reason in pairs if (change := decide.held_back(record, code, reason)) is not None])

    # -- the submit -------------------------------------------------------------------------------------------------

    def _submit(self, backend: Backend, records: Sequence[Record], jobs: Mapping[str, Job], cleared: Mapping[str, Cleared]) -> None:
        """Intent before effect: only records whose intent was saved are submitted, and only while that and the verdicts on their images are fresh."""
        if not records:
            return
        now, began = self._site.clock(), self._site.monotonic()
        window = backend.capabilities.submit_window
        intents = {record.id: decide.intend(record, now, window, backend.place, cleared[record.id]) for record in records}
        lost = self._saves.once(list(intents.values()))
        intended = {record.id: saves.after(record, intents[record.id]) for record in records if record.id not in lost}
        self._intents.update(_name(record) for record in intended.values())
        # The save took its time, or this process was stopped meanwhile: is it still ours to submit, and in time?
        held = self._site.store.hold(self._site.who, self._site.clock()) if intended else frozenset()
        ours = {task_id: record for task_id, record in intended.items() if model.shard_of(task_id) in held}
        fresh = self._within_bounds(backend, self._still_cleared(backend, ours, cleared))
        late = len(intended) - len(ours)
        if self._site.monotonic() - began > window:
            late, fresh = late + len(fresh), {}
        if late:
            telemetry.log(logger, logging.WARNING, "submit.late", backend=backend.name, tasks=late)
        if not fresh or self._call(backend, fresh, jobs, now):
            # An attempt may have ended before its handle was saved: its news found nothing to look at. And what came late is found absent.
            self._hear(list(intended))

    def _still_cleared(self, backend: Backend, intended: Mapping[str, Record], cleared: Mapping[str, Cleared]) -> dict[str, Record]:
        """Those whose verdicts hold at this moment. The others go back: of them it is known that nothing was sent."""
        desk = self._site.desk
        lapsed = desk.lapsed({task_id: cleared[task_id] for task_id in intended}, self._site.clock) if desk is not None else set()
        return self._without(backend, intended, lapsed, run.Later(Code.WAITING_SCAN, "the verdict on one of its images has just expired", 0.0))

    def _within_bounds(self, backend: Backend, intended: Mapping[str, Record]) -> dict[str, Record]:
        """Those that go on where several reconcilers start tasks of one owner. Each that meets others comes back at a time of its own."""
        alive = sorted(self._site.store.alive())
        over = self._running.over(list(intended.values())) if len(alive) > 1 else set()
        pause = MEETING * (1 + alive.index(self._site.who)) if self._site.who in alive else MEETING
        return self._without(backend, intended, over, run.Later(Code.WAITING_TURN, running.words(self._site.running), pause))

    def _without(self, backend: Backend, intended: Mapping[str, Record], back: Collection[str], later: run.Later) -> dict[str, Record]:
        """All but those that go back to the queue."""
        if back:
            self._saves.commit([(intended[each], functools.partial(self._submitted, _name(intended[each]), backend.place, later, None)) for each in back])
            self.settled([_name(intended[each]) for each in back])
        return {task_id: record for task_id, record in intended.items() if task_id not in back}

    def _call(self, backend: Backend, intended: Mapping[str, Record], jobs: Mapping[str, Job], now: datetime.datetime) -> bool:
        """False if nobody knows what came of it."""
        try:
            answers = backend.submit([jobs[task_id] for task_id in intended])
            # Where a look costs nothing, one save tells both that it is there and how far it is.
            handles = [answer for answer in answers.values() if isinstance(answer, Handle)]
            seen = backend.observe(handles) if backend.place and handles else {}
        except errors.TesServerError as cause:
            # Outcome unknown: the intent stays, and FIND asks for the names when `until` is over.
            telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=backend.name, call="submit", tasks=len(intended), error=str(cause))
            telemetry.BACKEND_CALLS.labels(backend.name, "submit", "failed").inc()
            return False
        telemetry.BACKEND_CALLS.labels(backend.name, "submit", "ok").inc()
        pairs: list[tuple[Record, saves.Settle]] = []
        for record in intended.values():
            name = _name(record)
            if name in answers:
                answer = answers[name]
                look = seen.get(answer) if isinstance(answer, Handle) else None
                pairs.append((record, functools.partial(self._submitted, name, backend.place, answer, look)))
                scan = record.owner == SCANS.owner
                (telemetry.SCAN_ATTEMPTS if scan else telemetry.ATTEMPTS).labels(backend.name).inc()
                if record.status.attempt == 1 and not scan:
                    telemetry.QUEUE_SECONDS.observe(max(0.0, (now - record.created).total_seconds()))
        changed = self._saves.commit(pairs)
        self.settled(answers.keys())
        # Given up by others while this process was stopped in the midst of the call: nobody waits for it.
        self._upkeep.end_orphans(backend, [handle for handle in handles if run.task_of(handle.name) not in changed])
        return True

    def _submitted(self, name: str, place: str, outcome: run.Handle | run.Refusal | run.Later, seen: run.Observation | None, record: Record) -> Change | None:
        if record.status.submitting is None or (_name(record), record.status.place) != (name, place):
            return None
        return decide.submitted(record, outcome, self._site.clock(), self._site.rules, seen)


def _refused(lines: tuple[str, ...], now: datetime.datetime, record: Record) -> Change | None:
    return decide.refused(record, lines, now) if decide.need(record) is Need.SUBMIT else None


def _rejected(cause: errors.Invalid | errors.TooLarge) -> tuple[str, ...]:
    return (telemetry.line(Code.REJECTED, str(cause)),)


def _name(record: Record) -> str:
    return run.job_name(record.id, record.status.attempt)
