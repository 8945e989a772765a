"""The desk that each waiting task passes before it is admitted: its images are looked up, their verdicts asked for, scans begun where there is none.

What is remembered here (who waits for what) are hints: a task that is held back is due again soon in any case, and nothing opens without the
store's verdict of the same pass. Must never move a record: `starts` saves what is decided here.
"""

from __future__ import annotations

import collections
import datetime
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from tes_server import telemetry
from tes_server.control import decide
from tes_server.control.clearance import UNSEEN, Cleared, Decision, Held, Image, settle
from tes_server.control.decide import Need
from tes_server.control.scans import Scanning, Scans, Wanted
from tes_server.digests.base import Answer, Resolved, Resolver, Unresolved
from tes_server.model import record as model
from tes_server.model.principal import SCANS
from tes_server.model.record import Lane, Record
from tes_server.model.states import ENDS
from tes_server.model.verdict import ScanKey, Verdict
from tes_server.scan import gate, policy
from tes_server.scan.gate import Door, Mode
from tes_server.scan.policy import Entry
from tes_server.store.base import Store
from tes_server.telemetry import Code

SHORTEST = datetime.timedelta(seconds=15)
LONGEST = datetime.timedelta(seconds=60)
"""For how long a task is held back at once: as long as it has been waited for so far, within these. It comes back earlier when what it waits for
is there, if this process lives to hear of it. Each time costs one write."""

RATE = 500
FARTHEST = datetime.timedelta(minutes=5)
"""Of a crowd each is held back for longer, so that these writes are no more than so many a second; for no longer than this: it is what a crash costs."""

MOMENT = datetime.timedelta(seconds=1)
"""A look-up that is over within this is not worth a write to each task that waits for it."""

PATIENCE = datetime.timedelta(minutes=10)
"""How long a registry that does not answer is waited for before that counts as a failure."""

POLL = datetime.timedelta(seconds=0.25)
"""Between two looks at scans that are waited for: another process may have ended them."""

MOST = 200_000
"""Tasks that are remembered to be woken: some 40 MB. More than these wait until they are due."""

NAMES = 20_000
"""Names of images of which something is remembered."""

Look = tuple[str, str]
"""A backend, and the name of an image there."""


class Looked(msgspec.Struct, frozen=True):
    """What becomes of the tasks that were looked at, by id, and the scans that were begun for them: they wait to be started like the tasks."""

    decisions: dict[str, Decision]
    begun: list[Record]


class Desk:
    """One reconciler's. `hear` and the resolver's news may come from any thread, all else from one."""

    def __init__(self, store: Store, resolver: Resolver, scanning: Scanning) -> None:
        self._store = store
        self._resolver = resolver
        self._scanning = scanning
        self._scans = Scans(store, scanning)
        self._admissions: dict[str, policy.Admission] = {}
        self._fingerprints: dict[str, str] = {}
        self._since: dict[Look, datetime.datetime] = {}
        self._failing: dict[Look, datetime.datetime] = {}
        self._waiting: dict[str, dict[str, str]] = collections.defaultdict(dict)
        self._seeking: dict[Look, dict[str, str]] = collections.defaultdict(dict)
        self._ready: dict[str, dict[str, None]] = {}
        self._crowd = 0
        self._told = False
        self._polled = datetime.datetime.min.replace(tzinfo=datetime.UTC)

    @property
    def scanning(self) -> Scanning:
        """What the site wants of scans."""
        return self._scanning

    @property
    def more(self) -> bool:
        """Some may go on that are not due yet."""
        return any(self._ready.values())

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` when something was looked up."""

        def done() -> None:
            self.hear()
            wake()

        self._resolver.listen(done)

    def hear(self) -> None:
        """Something ended or was looked up: whoever waits may go on. Called from any thread."""
        self._told = True

    def close(self) -> None:
        """Nothing is looked up any more."""
        self._resolver.close()

    # -- who comes back -----------------------------------------------------------------------------------------------

    def poll(self, now: datetime.datetime) -> bool:
        """Whether something came that tasks wait for, since the last call."""
        told, self._told = self._told, False
        came = False
        if told:
            for backend, names in _by_backend(self._seeking).items():
                for name, answer in self._resolver.ask(names, backend).items():
                    if isinstance(answer, Resolved) or not answer.passing:
                        came |= self._may_go_on(self._seeking.pop((backend, name), {}))
        if self._waiting and (told or abs(now - self._polled) >= POLL):  # the clock may be set back
            self._polled = now
            live = {record.id for record in self._store.load(list(self._waiting)) if record.state not in ENDS}
            for scan in [scan for scan in self._waiting if scan not in live]:
                came |= self._may_go_on(self._waiting.pop(scan))
        return told or came

    def _may_go_on(self, tasks: Mapping[str, str]) -> bool:
        """Whether there are any. `tasks`: owner by id."""
        for task_id, owner in tasks.items():
            self._ready.setdefault(owner, {})[task_id] = None
        return bool(tasks)

    def joined(self, due: Sequence[Record], shards: frozenset[int], now: datetime.datetime, limit: int) -> list[Record]:
        """`due`, with about `limit` of those that may go on and are not due yet, each owner's oldest first."""
        known = {record.id for record in due}
        found: list[Record] = []
        gone: set[str] = set()
        fair = (task_id for rank in itertools.zip_longest(*self._ready.values()) for task_id in rank if task_id is not None)
        while len(found) < limit and (some := list(itertools.islice(fair, limit))):
            portions = self._store.whole([task_id for task_id in some if task_id not in known])
            there = [record for portion in portions for record in portion if record.due is not None and record.due > now and _put_off(record, shards)]
            gone |= set(some) - {record.id for record in there}
            found += there
        for owner, tasks in list(self._ready.items()):
            for task_id in gone & tasks.keys():
                del tasks[task_id]
            if not tasks:
                del self._ready[owner]
        return sorted([*due, *found], key=lambda record: (record.created, record.id)) if found else list(due)

    # -- the look -----------------------------------------------------------------------------------------------------

    def look(self, records: Sequence[Record], now: datetime.datetime) -> Looked:
        """Decide about these, which wait to be started. One question to the resolver for each backend, and one to the store. Raises `errors.Unavailable`."""
        self._forget()
        self._crowd = sum(map(len, self._waiting.values())) + sum(map(len, self._seeking.values()))
        modes = {record.id: self._mode(record) for record in records}
        asked: dict[str, set[str]] = collections.defaultdict(set)
        for record in records:
            if modes[record.id] is not Mode.OFF:
                asked[record.status.backend].update(name for name in _images(record) if self._admission(name).entry is Entry.SCAN)
        answers = {(backend, name): answer for backend, names in asked.items() for name, answer in self._resolver.ask(names, backend).items()}
        self._count(((backend, name) for backend, names in asked.items() for name in names), answers, now)
        known, begun = self._known(answers, now)
        decisions = {}
        for record in records:
            mode = modes[record.id]
            decided = UNSEEN if mode is Mode.OFF else settle(mode, [self._image(record, mode, name, answers, known, now) for name in _images(record)])
            if isinstance(decided, Held) and decided.message:
                self._remember(record, answers, known)
                if not record.status.waiting.startswith(f"{decided.code}:"):
                    telemetry.SCAN_WAITS.labels(decided.code).inc()
            decisions[record.id] = decided
        return Looked(decisions, begun)

    def lapsed(self, cleared: Mapping[str, Cleared], clock: Callable[[], datetime.datetime]) -> set[str]:
        """Of those that were cleared a moment ago, by id, the ones whose verdicts have expired since, were taken back, or superseded by worse ones."""
        keys = {key for one in cleared.values() for key in one.needs}
        kept = self._store.verdicts(keys) if keys else {}
        now = clock()  # the store may have taken its time
        shut = {key for key in keys if gate.decide(Mode.ENFORCE, self._scanning.on_error, kept.get(key), now).door is not Door.OPEN}
        return {task_id for task_id, one in cleared.items() if not shut.isdisjoint(one.needs)}

    def _mode(self, record: Record) -> Mode:
        return Mode.OFF if record.owner == SCANS.owner else self._scanning.modes.of(record.status.backend, record.owner)

    # What a policy says to a name does not change while this process lives; tasks of one crowd all name the same few.

    def _admission(self, name: str) -> policy.Admission:
        found = self._admissions.get(name)
        if found is None:
            found = self._admissions[name] = policy.admissible(name, self._scanning.policy)
        return found

    def _key(self, answer: Resolved) -> ScanKey:
        found = self._fingerprints.get(answer.name)
        if found is None:
            found = self._fingerprints[answer.name] = policy.key(answer.digest, answer.name, self._scanning.policy).policy
        return ScanKey(answer.digest, found)

    def _forget(self) -> None:
        """All of these may be forgotten at any time; of names alone there are no more than a server meets in months."""
        for kept in (self._admissions, self._fingerprints, self._since, self._failing):
            if len(kept) > NAMES:
                kept.clear()

    def _count(self, asked: Iterable[Look], answers: Mapping[Look, Answer], now: datetime.datetime) -> None:
        """Since when each name is looked up, or cannot be."""
        for look in asked:
            answer = answers.get(look)
            if answer is None:
                self._since.setdefault(look, now)
                continue
            self._since.pop(look, None)
            if isinstance(answer, Unresolved) and answer.passing:
                self._failing.setdefault(look, now)
            else:
                self._failing.pop(look, None)

    def _known(self, answers: Mapping[Look, Answer], now: datetime.datetime) -> tuple[dict[ScanKey, Verdict | Record], list[Record]]:
        """For each image that was found: its verdict, or the scan that it waits for; and the scans begun."""
        wanted: dict[ScanKey, Wanted] = {}
        for (backend, _), answer in answers.items():
            if isinstance(answer, Resolved):
                key = self._key(answer)
                one = wanted.get(key)
                if one is None:
                    wanted[key] = Wanted(key, answer, backend)
                elif backend not in (one.backend, *(other for other, _ in one.elsewhere)):
                    wanted[key] = msgspec.structs.replace(one, elsewhere=(*one.elsewhere, (backend, answer)))
        if not wanted:
            return {}, []
        kept = self._store.verdicts(wanted)
        known: dict[ScanKey, Verdict | Record] = {key: verdict for key, verdict in kept.items() if verdict.fresh(now)}
        missing = {key: msgspec.structs.replace(one, before=kept.get(key)) for key, one in wanted.items() if key not in known}
        if not missing:
            return known, []
        settled, begun = self._scans.settle(missing, now)
        return {**known, **settled}, begun

    def _image(
        self, record: Record, mode: Mode, name: str, answers: Mapping[Look, Answer], known: Mapping[ScanKey, Verdict | Record], now: datetime.datetime
    ) -> Image:
        """What is known of one image of a task, and what that means for it."""
        admission = self._admission(name)
        if admission.entry is Entry.EXEMPT:
            return Image(name, gate.Ruling(Door.OPEN), exempt=admission.reason)
        if admission.entry is Entry.REFUSED:
            return Image(name, gate.refused(mode, admission.reason))
        look = (record.status.backend, name)
        answer = answers.get(look)
        on_error = self._scanning.on_error
        if answer is None:
            return Image(name, gate.Ruling(Door.WAIT), held=self._sought(name, now - self._since.get(look, now), now))
        if isinstance(answer, Unresolved):
            waited = now - max(self._failing.get(look, now), record.created)
            ruling = gate.unresolved(mode, on_error, name, answer.message, waits=answer.passing and waited < PATIENCE, waited=waited)
            due = now + max(self._hold(waited), min(LONGEST, datetime.timedelta(seconds=answer.after)))
            return Image(name, ruling, missing=answer, held=Held(Code.WAITING_IMAGE, answer.message, due) if ruling.door is Door.WAIT else None)
        state = known.get(self._key(answer))
        verdict = state if isinstance(state, Verdict) else None
        ruling = gate.decide(mode, on_error, verdict, now, running=True, image=name)
        if ruling.door is not Door.WAIT:
            return Image(name, ruling, answer, verdict=verdict)
        began = state.created if isinstance(state, Record) else now
        return Image(name, ruling, answer, held=Held(Code.WAITING_SCAN, f"the image {name} ({answer.digest}) is being scanned", now + self._hold(now - began)))

    def _sought(self, name: str, waited: datetime.timedelta, now: datetime.datetime) -> Held:
        if waited < MOMENT:
            return Held()
        return Held(Code.WAITING_IMAGE, f"the digest of the image {name} is being looked up", now + self._hold(waited))

    def _hold(self, waited: datetime.timedelta) -> datetime.timedelta:
        return max(min(max(waited, SHORTEST), LONGEST), min(datetime.timedelta(seconds=self._crowd / RATE), FARTHEST))

    def _remember(self, record: Record, answers: Mapping[Look, Answer], known: Mapping[ScanKey, Verdict | Record]) -> None:
        """What this task waits for: each of them brings it back."""
        self._ready.get(record.owner, {}).pop(record.id, None)
        for name in () if self._crowd > MOST else _images(record):
            look = (record.status.backend, name)
            answer = answers.get(look)
            if isinstance(answer, Resolved):
                state = known.get(self._key(answer))
                if isinstance(state, Record):
                    self._waiting[state.id][record.id] = record.owner
            elif self._admission(name).entry is Entry.SCAN:
                self._seeking[look][record.id] = record.owner


def _images(record: Record) -> list[str]:
    if record.task is None:
        raise TypeError("records of the WAITING lane come with their task")
    return list(dict.fromkeys(executor.image for executor in record.task.executors))


def _put_off(record: Record, shards: frozenset[int]) -> bool:
    """True for one that the desk has held back, and nobody has moved since."""
    if record.lane is not Lane.WAITING or decide.need(record) is not Need.SUBMIT or model.shard_of(record.id) not in shards:
        return False
    return record.status.waiting.startswith((f"{Code.WAITING_SCAN}:", f"{Code.WAITING_IMAGE}:"))


def _by_backend(looks: Iterable[Look]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = collections.defaultdict(list)
    for backend, name in looks:
        found[backend].append(name)
    return found
