"""The loop that moves tasks: reads what is due, makes one platform call per group, settles each answer, saves.

Every rule is in `decide` and `admission`; here is only the order of effects. Nothing waits in memory: all that is kept
between two passes (news, the sweep's position) may be lost at any time without harm.

Several reconcilers may share a store. What every one of them reaches is for the owner of its shard; what can be reached from
one place only (`Backend.place`) is for whoever is there, and its shard's owner must conclude nothing about it until the place is lost.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.base import Backend
from tes_server.control import decide, places, saves, starts, upkeep
from tes_server.control.decide import Need, Rules
from tes_server.control.desk import Desk
from tes_server.control.places import Standing
from tes_server.control.retention import Retention
from tes_server.control.saves import Settle
from tes_server.model import record as model
from tes_server.model import run
from tes_server.model.record import Change, Lane, Record
from tes_server.model.run import Handle
from tes_server.model.states import ENDS
from tes_server.plan.policy import Target
from tes_server.store.base import Store

logger = logging.getLogger(__name__)

Step = Callable[[Backend, Sequence[Record], datetime.datetime], None]
"""One platform call for a group of records with the same need, and what becomes of its answers."""


WATCHED_PAUSE = 0.25
"""Longest sleep in seconds while somebody reads live output: `tes logs -f` should feel live."""

REMIND = 60.0
"""Seconds after which the log has again that the store is away."""

IDLE_POLLS = 4
"""So many polls pass without a look while no task lives: a new one wakes us, and a shared store may charge for looks."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how much: `interval` seconds between two sweeps, `batch` records at once, `poll` longest sleep."""

    interval: float = 15.0
    batch: int = 200
    poll: float = 1.0


class Reconciler:
    """One reconciler process. `random` gives jitter in [0, 1); `who` names this process to the store and to others: its place, if it has one.

    `running`: tasks of one owner that may be under way at a time; 0 = any."""

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
        desk: Desk | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        running: int = 0,
    ) -> None:
        self._store = store
        self._backends = backends
        self._here = next((backend.place for backend in backends.values() if backend.place), "")
        self._rules = rules
        self._pace = pace
        self._monotonic = monotonic
        self._who = who
        self._clock = clock
        self._random = random
        self._news: set[str] = set()
        self._news_lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._sweep_from: str | None = None
        self._swept = upkeep.EPOCH
        self._places = places.Places(rules.lost_after, monotonic)
        self._upkeep = upkeep.Upkeep(store, backends, retention)
        self._looked = upkeep.EPOCH
        self._stale = False
        self._saves = saves.Saves(store, clock, self._again)
        site = starts.Site(store, backends, targets, rules, who, clock, monotonic, desk, running)
        self._starts = starts.Starts(site, self._saves, self._upkeep, self.hear, pace.batch)
        self._desk = desk
        if desk is not None:
            desk.listen(self._look_again)
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
        away = ("", 0.0)  # what was told of the store, and when
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                with telemetry.TICK_SECONDS.time():
                    busy = self.tick()
                away = ("", 0.0)
            except errors.Unavailable as cause:  # the store is away: no fault of ours, and no news a second later
                busy = False
                if str(cause) != away[0] or self._monotonic() > away[1] + REMIND:
                    away = (str(cause), self._monotonic())
                    telemetry.log(logger, logging.WARNING, "reconciler.pass.failed", error=str(cause))
            except Exception:
                logger.exception("reconciler.pass.failed")
                busy = False
            if not busy:
                self._rest()
        self._upkeep.close()
        if self._desk is not None:
            self._desk.close()

    def _rest(self) -> None:
        longest = WATCHED_PAUSE if self._upkeep.watching else self._pace.poll
        woken = self._wake.wait(self._starts.sleep(longest))
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
                self._look_again()

    def _again(self, change: Change) -> None:
        """This is due at once."""
        if self._desk is not None and change.state in ENDS:
            self._desk.hear()
        if change.lane is Lane.ACTIVE:
            self.hear([change.id])
        else:
            self._look_again()

    def _look_again(self) -> None:
        self._stale = True
        self._wake.set()

    # -- one pass ---------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One pass; True if more is due at once."""
        now = self._clock()
        shards = self._store.hold(self._who, now)
        listening = self._places.listen(self._store.alive())
        if not shards and not self._here:
            return False
        with self._news_lock:
            heard, self._news = self._news, set()
        whole = self._is_time(now)
        due = self._store.due(Lane.ACTIVE, shards, now, self._pace.batch, self._here) if whole else []
        records = {record.id: record for record in (*due, *self._store.load(heard), *self._swept_records(shards, now))}
        self._handle(records.values(), shards, now)
        moved = bool(shards) and self._starts.start(shards, now, whole=whole)
        self._upkeep.turn(shards, now, away=not listening)
        self._stale = self._stale or moved or len(due) == self._pace.batch
        return self._stale or self._sweep_from is not None

    def _is_time(self, now: datetime.datetime) -> bool:
        """Whether to look at the queues. For news of a few tasks these alone are read: looks may be paid for, and news comes several times a task."""
        if not self._stale and abs(now - self._looked) < datetime.timedelta(seconds=self._pace.poll):  # the clock may be set back
            return False
        self._looked, self._stale = now, False
        return True

    def _swept_records(self, shards: frozenset[int], now: datetime.datetime) -> list[Record]:
        """A page of the walk over all active records that are ours, begun every `interval`: keeps everything right without news."""
        if self._sweep_from is None:
            if abs(now - self._swept) < datetime.timedelta(seconds=self._pace.interval):  # the clock may be set back
                return []
            self._swept, self._sweep_from = now, ""
        page = self._store.sweep(shards, self._sweep_from, self._pace.batch, self._here)
        self._sweep_from = page[-1].id if len(page) == self._pace.batch else None
        return page

    def _handle(self, records: Iterable[Record], shards: frozenset[int], now: datetime.datetime) -> None:
        groups: dict[tuple[Need, str], list[Record]] = collections.defaultdict(list)
        elsewhere: list[tuple[Record, Settle]] = []
        for record in records:
            place = model.place_of(record.status)
            # What is here is ours whatever its shard, and whether or not we may trust our shards at the moment: nobody else can touch it.
            if place == self._here if place else shards:
                groups[decide.need(record), record.status.backend].append(record)
            elif place and model.shard_of(record.id) in shards:
                elsewhere += self._waited_for(place, record, now)
        self._saves.commit(elsewhere)
        steps = {Need.RELEASE: self._release, Need.FIND: self._find, Need.CANCEL: self._cancel, Need.OBSERVE: self._observe}
        for (need, name), group in groups.items():
            if need is Need.DROP:
                self._saves.commit([(record, lambda record: decide.drop(record, now) if decide.need(record) is Need.DROP else None) for record in group])
            step = steps.get(need)
            if step is None:
                continue
            backend = self._backends.get(name)
            if backend is None:
                telemetry.log(logger, logging.ERROR, "backend.missing", backend=name, tasks=len(group))
                continue
            self._take(step, backend, need, group, now)

    def _waited_for(self, place: str, record: Record, now: datetime.datetime) -> Iterator[tuple[Record, Settle]]:
        """A record of ours whose next step can be done from another place only: that place does it, unless it is gone for good."""
        standing = self._places.standing(place)
        if standing is Standing.SILENT:
            yield record, lambda record: decide.silent(record, place)
        elif standing is Standing.LOST:
            yield record, lambda record: decide.lost(record, place, now, self._rules, self._random())

    def _take(self, step: Step, backend: Backend, need: Need, group: Sequence[Record], now: datetime.datetime) -> None:
        """One step for a group; what fails is postponed. A fault of ours on one record must not stop the others: they go one by one."""
        try:
            step(backend, group, now)
            outcome = "ok"
        except errors.TesServerError as cause:
            outcome = "failed"
            telemetry.log(logger, logging.WARNING, "backend.call.failed", backend=backend.name, call=need.lower(), tasks=len(group), error=str(cause))
            words = cause.public if need in (Need.FIND, Need.CANCEL) else ""
            late = [record for record in group if record.due is not None and record.due <= now]
            self._postpone(late, now, words)
            if words:
                others = [record for record in group if record not in late]
                self._saves.once([change for record in others if (change := decide.out_of_reach(record, words)) is not None])
        except Exception:
            if len(group) > 1:
                for record in group:
                    self._take(step, backend, need, [record], now)
                return
            outcome = "broken"
            logger.exception("reconciler.step.failed", extra={"fields": {"task": group[0].id, "call": need.lower()}})
            self._postpone(group, now)
        telemetry.BACKEND_CALLS.labels(backend.name, need.lower(), outcome).inc()

    def _postpone(self, group: Sequence[Record], now: datetime.datetime, words: str = "") -> None:
        self._saves.once([decide.postponed(record, now, self._rules, self._random(), words) for record in group])

    def _release(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        handles = tuple(handle for record in group for handle in record.status.release if handle.place in ("", self._here))
        backend.release(handles)
        self._saves.commit([(record, lambda record: decide.released(record, now, handles)) for record in group])

    def _find(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        names = {record.id: run.job_name(record.id, record.status.attempt) for record in group}
        there = backend.find(list(names.values()))
        settle = functools.partial(self._found, backend.capabilities.names_last, there, now)
        changed = self._saves.commit([(record, functools.partial(settle, names[record.id])) for record in group])
        self._starts.settled([names[task_id] for task_id in changed])

    def _found(self, names_last: bool, there: Mapping[str, Handle], now: datetime.datetime, name: str, record: Record) -> Change | None:
        # Of a newer revision: the answer must still be about this attempt, and this place.
        if decide.need(record) is not Need.FIND or run.job_name(record.id, record.status.attempt) != name or record.status.place not in ("", self._here):
            return None
        if name not in there and names_last and not record.canceling:
            return decide.sent_again(record, now, self._rules, self._random())
        skew = datetime.timedelta() if self._starts.intended(name) else decide.SKEW
        return decide.found(record, there.get(name), now, skew)

    def _cancel(self, backend: Backend, group: Sequence[Record], now: datetime.datetime) -> None:
        backend.cancel([record.status.handle for record in group if record.status.handle])
        self._saves.commit([(record, functools.partial(self._cancel_sent, record.status.handle, now)) for record in group])
        self.hear([record.id for record in group])

    def _cancel_sent(self, handle: Handle | None, now: datetime.datetime, record: Record) -> Change | None:
        if record.status.handle != handle or decide.need(record) not in (Need.CANCEL, Need.OBSERVE):
            return None
        return decide.cancel_sent(record, now, self._rules)

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
        changed = self._saves.commit(pairs)
        self._saves.commit([(record, functools.partial(self._cancel_sent, record.status.handle, now)) for record in again if record.id not in changed])

    def _observed(self, handle: Handle, seen: run.Observation, now: datetime.datetime, record: Record) -> Change | None:
        if record.status.handle != handle or record.state in ENDS:
            return None
        return decide.observed(record, seen, now, self._rules, self._random())
