"""The loop that moves tasks: reads what is due, makes one platform call per group, settles each answer, saves.

Every rule is in `decide` and `admission`; here is only the order of effects. Nothing waits in memory: all that is kept
between two passes (news, the sweep's position) may be lost at any time without harm.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.base import Backend, Job
from tes_server.control import admission, congestion, decide, upkeep
from tes_server.control.decide import Need, Rules
from tes_server.control.retention import Retention
from tes_server.control.service import Target
from tes_server.model import run
from tes_server.model.record import Change, Lane, Record
from tes_server.model.run import Handle
from tes_server.model.states import ENDS
from tes_server.plan import compiler, parameters
from tes_server.plan.steps import Plan
from tes_server.store.base import Store
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

Settle = Callable[[Record], Change | None]
"""Turns an answer into a Change of a record; called again on a newer revision if the save loses."""

Step = Callable[[Backend, Sequence[Record], datetime.datetime], None]
"""One platform call for a group of records with the same need, and what becomes of its answers."""


WATCHED_PAUSE = 0.25
"""Longest sleep in seconds while somebody reads live output: `tes logs -f` should feel live."""

IDLE_POLLS = 4
"""So many polls pass without a look while no task lives: a new one wakes us, and a shared store may charge for looks."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how much: `interval` seconds between two sweeps, `batch` records at once, `poll` longest sleep."""

    interval: float = 15.0
    batch: int = 200
    poll: float = 1.0


class Reconciler:
    """One reconciler process. `random` gives jitter in [0, 1); `who` names this process to the store."""

    def __init__(
        self,
        store: Store,
        backends: Mapping[str, Backend],
        targets: Mapping[str, Target],
        rules: Rules,
        pace: Pace,
        who: str,
        clock: Callable[[], datetime.datetime],
        random: Callable[[], float],
        retention: Retention | None = None,
    ) -> None:
        self._store = store
        self._backends = backends
        self._targets = targets
        self._rules = rules
        self._pace = pace
        self._who = who
        self._clock = clock
        self._random = random
        self._news: set[str] = set()
        self._news_lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._sweep_from: str | None = None
        self._served: dict[str, int] = {}
        self._starts = 0
        self._congestion = congestion.Congestion()
        self._swept = upkeep.EPOCH
        self._upkeep = upkeep.Upkeep(store, backends, retention)
        for backend in backends.values():
            backend.listen(self.hear)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def hear(self, task_ids: Collection[str]) -> None:
        """News from a platform: look at these tasks in the next pass. Called from any thread."""
        with self._news_lock:
            self._news.update(task_ids)
        self._upkeep.told()
        self._wake.set()

    def stop(self) -> None:
        """End the loop after the current pass. What runs goes on running."""
        self._stopped.set()
        self._wake.set()

    def loop(self) -> None:
        """Run until `stop`. An error of one pass is logged and the next one tries again."""
        threading.Thread(target=self._listen, name="store-listener", daemon=True).start()
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                with telemetry.TICK_SECONDS.time():
                    busy = self.tick()
            except errors.Unavailable as cause:  # the store is away: no fault of ours, and no news a second later
                telemetry.log(logger, logging.WARNING, "reconciler.pass.failed", error=str(cause))
                busy = False
            except Exception:
                logger.exception("reconciler.pass.failed")
                busy = False
            if not busy:
                self._rest()
        self._upkeep.close()

    def _rest(self) -> None:
        longest = WATCHED_PAUSE if self._upkeep.watching else self._pace.poll
        woken = self._wake.wait(self._congestion.sleep(longest, self._clock()))
        for _ in range(IDLE_POLLS):
            if woken or not self._upkeep.idle:
                return
            with contextlib.suppress(errors.Unavailable):  # the next pass tells
                self._store.hold(self._who, self._clock())
            woken = self._wake.wait(self._pace.poll)

    def _listen(self) -> None:
        while not self._stopped.is_set():
            if self._store.wait(self._pace.poll):
                self._upkeep.told()
                self._wake.set()

    # -- one pass ---------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One pass; True if more is due at once."""
        now = self._clock()
        shards = self._store.hold(self._who, now)
        if not shards:
            return False
        with self._news_lock:
            heard, self._news = self._news, set()
        due = self._store.due(Lane.ACTIVE, shards, now, self._pace.batch)
        records = {record.id: record for record in (*due, *self._store.load(heard), *self._swept_records(shards, now))}
        self._handle(records.values(), now)
        moved = self._start_waiting(shards, now)
        self._upkeep.turn(shards, now)
        return moved or len(due) == self._pace.batch or self._sweep_from is not None

    def _swept_records(self, shards: frozenset[int], now: datetime.datetime) -> list[Record]:
        """A page of the walk over all active records, begun every `interval`: keeps everything right without news."""
        if self._sweep_from is None:
            if abs(now - self._swept) < datetime.timedelta(seconds=self._pace.interval):  # the clock may be set back
                return []
            self._swept, self._sweep_from = now, ""
        page = self._store.sweep(shards, self._sweep_from, self._pace.batch)
        self._sweep_from = page[-1].id if len(page) == self._pace.batch else None
        return page

    def _handle(self, records: Iterable[Record], now: datetime.datetime) -> None:
        groups: dict[tuple[Need, str], list[Record]] = collections.defaultdict(list)
        for record in records:
            groups[decide.need(record), record.status.backend].append(record)
        steps = {Need.RELEASE: self._release, Need.FIND: self._find, Need.CANCEL: self._cancel, Need.OBSERVE: self._observe}
        for (need, name), group in groups.items():
            if need is Need.DROP:
                self._commit([(record, lambda record: decide.drop(record, now)) for record in group])
            step = steps.get(need)
            if step is None:
                continue
            backend = self._backends.get(name)
            if backend is None:
                telemetry.log(logger, logging.ERROR, "backend.missing", backend=name, tasks=len(group))
                continue
            self._take(step, backend, need, group, now)

    def _take(self, step: Step, backend: Backend, need: Need, group: Sequence[Record], now: datetime.datetime) -> None:
        """One step for a group; what fails is postponed. A fault of ours on one record must not stop the others: they go one by one."""
        try:
            step(backend, group, now)
            outcome = "ok"
        except errors.TesServerError as cause:
            outcome = "failed"
            telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=backend.name, call=need.lower(), tasks=len(group), error=str(cause))
            self._commit([(record, self._postpone(now)) for record in group if record.due is not None and record.due <= now])
        except Exception:
            if len(group) > 1:
                for record in group:
                    self._take(step, backend, need, [record], now)
                return
            outcome = "broken"
            logger.exception("reconciler.step.failed", extra={"fields": {"task": group[0].id, "call": need.lower()}})
            self._commit([(group[0], self._postpone(now))])
        telemetry.BACKEND_CALLS.labels(backend.name, need.lower(), outcome).inc()

    def _postpone(self, now: datetime.datetime) -> Settle:
        return lambda record: decide.postponed(record, now, self._rules, self._random())

    def _release(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        handles = tuple(handle for record in group for handle in record.status.release)
        backend.release(handles)
        self._commit([(record, lambda record: decide.released(record, now, handles)) for record in group])

    def _find(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        there = backend.find([run.job_name(record.id, record.status.attempt) for record in group])
        self._commit([(record, functools.partial(self._found, there, now)) for record in group])

    def _found(self, there: Mapping[str, Handle], now: datetime.datetime, record: Record) -> Change | None:
        if decide.need(record) is not Need.FIND:
            return None
        return decide.found(record, there.get(run.job_name(record.id, record.status.attempt)), now)

    def _cancel(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        backend.cancel([record.status.handle for record in group if record.status.handle])
        self._commit(
            [(record, lambda record: decide.cancel_sent(record, now, self._rules) if decide.need(record) is Need.CANCEL else None) for record in group]
        )
        self.hear([record.id for record in group])

    def _observe(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        again = [record for record in group if decide.recancel(record) and record.due is not None and record.due <= now]
        if again:
            backend.cancel([record.status.handle for record in again if record.status.handle])
        seen = backend.observe([record.status.handle for record in group if record.status.handle])
        pairs: list[tuple[Record, Settle]] = []
        for record in group:
            handle = record.status.handle
            observation = seen.get(handle) if handle else None
            if handle is None or observation is None:
                continue
            pairs.append((record, functools.partial(self._observed, handle, observation, now)))
        changed = self._commit(pairs)
        still = [(record, lambda record: decide.cancel_sent(record, now, self._rules)) for record in again if record.id not in changed]
        self._commit(still)

    def _observed(self, handle: Handle, seen: run.Observation, now: datetime.datetime, record: Record) -> Change | None:
        if record.status.handle != handle or record.state in ENDS:
            return None
        return decide.observed(record, seen, now, self._rules, self._random())

    # -- waiting tasks ----------------------------------------------------------------------------------------------

    def _start_waiting(self, shards: frozenset[int], now: datetime.datetime) -> bool:
        """Admit and submit; True if more may start at once."""
        rooms = self._rooms()
        if self._congestion.lasts(rooms, now):
            return False
        due = self._store.due(Lane.WAITING, shards, now, self._pace.batch)
        waiting: dict[str, list[Record]] = collections.defaultdict(list)
        for record in due:
            waiting[record.status.backend].append(record)
        started = 0
        for name, records in waiting.items():
            backend = self._backends.get(name)
            if backend is None:
                telemetry.log(logger, logging.ERROR, "backend.missing", backend=name, tasks=len(records))
                continue
            started += self._start_on(backend, records, now)
        self._congestion.looked(rooms, started, len(due), now)
        return started >= self._pace.batch

    def _rooms(self) -> congestion.Rooms:
        rooms: dict[str, run.Room | None] = {}
        for name, backend in self._backends.items():
            with contextlib.suppress(errors.TesServerError):  # told to the tasks that wait for it when they are looked at
                rooms[name] = backend.room()
        return rooms

    def _start_on(self, backend: Backend, records: Sequence[Record], now: datetime.datetime) -> int:
        candidates = [candidate for record in records if (candidate := self._candidate(record, now)) is not None]
        try:
            room = backend.room()
        except errors.TesServerError as cause:
            self._hold_back([(candidate.record, cause.public) for candidate in candidates], Code.WAITING_BACKEND)
            return 0
        admitted = admission.admit(admission.in_turn(candidates, self._served), room, now)
        self._hold_back([(candidate.record, reason) for candidate, reason in admitted.wait], Code.WAITING_CAPACITY)
        jobs: dict[str, Job] = {}
        for candidate in admitted.start:
            plan = self._plan(candidate.record, now)
            if plan is not None:
                jobs[candidate.record.id] = backend.render(plan)
                self._starts += 1
                self._served[candidate.record.owner] = self._starts
        self._submit(backend, [candidate.record for candidate in admitted.start if candidate.record.id in jobs], jobs, now)
        return len(jobs)

    def _candidate(self, record: Record, now: datetime.datetime) -> admission.Candidate | None:
        """What the record reserves; one that can never run any more (the site's settings changed) is ended here."""
        target = self._targets[record.status.backend]
        resources = record.task.resources if record.task else None
        try:
            given = parameters.read(resources, target.capabilities.parameters)
            return admission.Candidate(record, compiler.reserve(resources, given, target.policy, target.capabilities))
        except errors.Invalid as cause:
            self._refuse(record, cause, now)
            return None

    def _plan(self, record: Record, now: datetime.datetime) -> Plan | None:
        target = self._targets[record.status.backend]
        if record.task is None:
            raise TypeError("records of the WAITING lane come with their task")
        try:
            return compiler.compile_task(record.task, record.id, record.status.attempt, record.owner, target.policy, target.capabilities).plan
        except errors.Invalid as cause:
            self._refuse(record, cause, now)
            return None

    def _refuse(self, record: Record, cause: errors.Invalid, now: datetime.datetime) -> None:
        self._commit([(record, lambda record: decide.refused(record, str(cause), now) if decide.need(record) is Need.SUBMIT else None)])

    def _hold_back(self, pairs: Sequence[tuple[Record, str]], code: Code) -> None:
        changes = [change for record, reason in pairs if (change := decide.held_back(record, code, reason)) is not None]
        if changes:
            self._store.save(changes)

    def _submit(self, backend: Backend, records: Sequence[Record], jobs: Mapping[str, Job], now: datetime.datetime) -> None:
        """Intent before effect: only records whose intent was saved are submitted."""
        if not records:
            return
        window = backend.capabilities.submit_window
        intents = {record.id: decide.intend(record, now, window) for record in records}
        lost = self._store.save(list(intents.values()))
        intended = {record.id: _after(record, intents[record.id]) for record in records if record.id not in lost}
        if not intended:
            return
        try:
            answers = backend.submit([jobs[task_id] for task_id in intended])
        except errors.TesServerError as cause:
            # Outcome unknown: the intent stays, and FIND asks for the names when `until` is over.
            telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=backend.name, call="submit", tasks=len(intended), error=str(cause))
            telemetry.BACKEND_CALLS.labels(backend.name, "submit", "failed").inc()
            return
        telemetry.BACKEND_CALLS.labels(backend.name, "submit", "ok").inc()
        pairs: list[tuple[Record, Settle]] = []
        for record in intended.values():
            name = run.job_name(record.id, record.status.attempt)
            if name in answers:
                pairs.append((record, functools.partial(self._submitted, name, answers[name])))
                telemetry.ATTEMPTS.labels(backend.name).inc()
                if record.status.attempt == 1:
                    telemetry.QUEUE_SECONDS.observe(max(0.0, (now - record.created).total_seconds()))
        self._commit(pairs)
        # An attempt may have ended before its handle was saved: its news found nothing to look at.
        self.hear(list(intended))

    def _submitted(self, name: str, outcome: run.Handle | run.Refusal | run.Later, record: Record) -> Change | None:
        if record.status.submitting is None or run.job_name(record.id, record.status.attempt) != name:
            return None
        return decide.submitted(record, outcome, self._clock(), self._rules)

    # -- saving -----------------------------------------------------------------------------------------------------

    def _commit(self, pairs: Sequence[tuple[Record, Settle]]) -> set[str]:
        """Save what `settle` makes of each record; where a save loses, settle the newer revision. Returns the ids changed."""
        changed: set[str] = set()
        left = list(pairs)
        while left:
            changes = {record.id: change for record, settle in left if (change := settle(record)) is not None}
            if not changes:
                break
            lost = self._store.save(list(changes.values()))
            telemetry.SAVES_LOST.inc(len(lost))
            for record, _ in left:
                if record.id in changes and record.id not in lost:
                    changed.add(record.id)
                    self._tell(record, changes[record.id])
            if not lost:
                break
            fresh = {record.id: record for record in self._store.load(lost)}
            left = [(fresh[record.id], settle) for record, settle in left if record.id in fresh]
        return changed

    def _tell(self, record: Record, change: Change) -> None:
        if change.state is not record.state:
            telemetry.log(logger, logging.INFO, "task.state", task=record.id, state=change.state, attempt=change.status.attempt, backend=change.status.backend)
        if change.state in ENDS and record.state not in ENDS:
            lines = change.detail.system_logs if change.detail else ()
            reason = lines[-1].partition(":")[0] if lines and change.state != "COMPLETE" else ""
            telemetry.TASKS_ENDED.labels(change.state, reason if reason in Code.__members__ else "").inc()
        if change.due is not None and change.due <= self._clock():
            self._wake.set()


def _after(record: Record, change: Change) -> Record:
    """The record as it is in the store after `change` was saved."""
    return msgspec.structs.replace(
        record, revision=change.revision + 1, state=change.state, canceling=change.canceling, lane=change.lane, due=change.due, status=change.status
    )
