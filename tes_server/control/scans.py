"""Scans of images as records of the store, one for each digest, policy and round, and the verdicts that come of them.

The id of a scan follows from what it is about, so that the store's primary key makes it the only one, whoever begins it. Its life is that of any
task; whoever needs its verdict next judges what it left. Nothing is kept here: a process that dies loses no scan.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tes_server import errors, telemetry
from tes_server.digests.base import Resolved
from tes_server.model.principal import SCANS
from tes_server.model.record import Lane, Record, Status
from tes_server.model.states import ENDS, State
from tes_server.model.task import Task
from tes_server.model.verdict import Outcome, ScanKey, Verdict
from tes_server.plan.steps import Findings
from tes_server.scan import gate, policy, report
from tes_server.store.base import Store
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

ROUNDS = 1000
"""Scans of one key that ended long ago and that are passed over to the next: those of years."""

ELSEWHERE = datetime.timedelta(minutes=2)
"""For how long a scan may wait for its turn on one backend before tasks that wait for it on another one have it made there: one scan too many is cheaper."""

TICK = datetime.timedelta(microseconds=1000)
"""What stores tell times by; a scan is newer than the verdict before it, whatever the clock says."""


class Scanning(msgspec.Struct, frozen=True, kw_only=True):
    """What the site wants of scans."""

    modes: gate.Modes
    on_error: gate.OnError
    policy: policy.Policy
    task: Callable[[Resolved], Task]
    """the scan of an image as a task"""
    findings: Findings
    """where that task leaves its report"""
    again: float = 0.0
    """seconds that a task in mode ENFORCE has for scanning each of its images once more, first where it runs (`steps.Gate`); 0 = none does"""


class Wanted(msgspec.Struct, frozen=True):
    """An image without a verdict that holds, and the last one that there was."""

    key: ScanKey
    image: Resolved
    backend: str
    before: Verdict | None = None
    elsewhere: tuple[tuple[str, Resolved], ...] = ()
    """other backends whose tasks wait for it, and the image as it is found there"""


def scan_id(key: ScanKey, before: Verdict | None, elsewhere: str = "") -> str:
    """The id of the scan that follows on a verdict: 130 bits of what it is about, `[a-z2-7]{26}`. `elsewhere`: the backend of a second one."""
    last = before.scanned_at.isoformat() if before else ""
    about = (key.digest, key.policy, last, *([elsewhere] if elsewhere else []))
    return base64.b32encode(hashlib.sha256(msgspec.msgpack.encode(about)).digest())[:26].decode().lower()


class Scans:
    """Begins scans and judges what has ended."""

    def __init__(self, store: Store, scanning: Scanning) -> None:
        self._store = store
        self._scanning = scanning

    def settle(self, wanted: Mapping[ScanKey, Wanted], now: datetime.datetime) -> tuple[dict[ScanKey, Verdict | Record], list[Record]]:
        """What there is now for each key: a verdict that holds, kept by now, or the record of the scan that is under way; and the scans begun here.

        One read for all, however many wait. Raises `errors.Unavailable`.
        """
        found: dict[ScanKey, Verdict | Record] = {}
        begun: list[Record] = []
        stuck: list[tuple[Wanted, Record]] = []
        open_ = dict(wanted)
        judged_here = set()
        for _ in range(ROUNDS):
            if not open_:
                break
            ids = {key: scan_id(key, one.before) for key, one in open_.items()}
            there = {record.id: record for record in self._store.load(ids.values())}
            fresh = self._begin({ids[key]: one for key, one in open_.items() if ids[key] not in there}, now)
            found.update({key: fresh[ids[key]] for key in open_ if ids[key] in fresh})
            begun += fresh.values()
            for key, one in list(open_.items()):
                record = there.get(ids[key])
                if record is None:
                    continue
                if record.state not in ENDS:
                    found[key] = record
                    if record.state is State.QUEUED and now - record.created >= ELSEWHERE:
                        stuck.append((one, record))
                    continue
                made = judged(one, record, self._scanning.policy, now)
                if made.fresh(now):
                    self._keep(made, record)
                    found[key] = made
                    judged_here.add(key)
                else:
                    open_[key] = msgspec.structs.replace(one, before=made)  # of long ago: on to the round after it
            open_ = {key: one for key, one in open_.items() if key not in found}
        found.update(second := self._elsewhere(stuck, begun, now))
        judged_here |= {key for key, state in second.items() if isinstance(state, Verdict)}
        # Somebody may have kept a newer one meanwhile, or taken it back: then that holds.
        return {**found, **(self._store.verdicts(judged_here) if judged_here else {})}, begun

    def _elsewhere(self, stuck: Sequence[tuple[Wanted, Record]], begun: list[Record], now: datetime.datetime) -> dict[ScanKey, Verdict | Record]:
        """The second scans of those whose first one waits for a backend that is full, or gone, each on another one where tasks want it. Adds to `begun`."""
        wanted: dict[str, Wanted] = {}
        for one, record in stuck:
            for backend, image in ((one.backend, one.image), *one.elsewhere):
                if backend != record.status.backend:
                    wanted[scan_id(one.key, one.before, backend)] = msgspec.structs.replace(one, backend=backend, image=image)
        there = {record.id: record for record in self._store.load(list(wanted))} if wanted else {}
        fresh = self._begin({task_id: one for task_id, one in wanted.items() if task_id not in there}, now)
        begun += fresh.values()
        found: dict[ScanKey, Verdict | Record] = {}
        for task_id, record in {**there, **fresh}.items():
            one = wanted[task_id]
            if record.state not in ENDS:
                found.setdefault(one.key, record)
                continue
            made = judged(one, record, self._scanning.policy, now)
            self._keep(made, record)  # one of long ago, too: another round follows on it
            if made.fresh(now):
                found[one.key] = made
        return found

    def _begin(self, missing: Mapping[str, Wanted], now: datetime.datetime) -> dict[str, Record]:
        """Insert these scans, by id, each by itself; those that somebody else was faster with are left out."""
        records = {task_id: self._record(task_id, one, now) for task_id, one in missing.items()}
        inserted = {task_id: self._store.insert([record]) for task_id, record in records.items()}
        begun = {}
        for task_id, kept in inserted.items():
            try:
                kept.result()
            except errors.Conflict:
                continue
            begun[task_id] = records[task_id]
            one = missing[task_id]
            telemetry.SCANS.inc()
            telemetry.log(logger, logging.INFO, "scan.begun", task=task_id, image=one.image.name, digest=one.key.digest, backend=one.backend)
        return begun

    def _record(self, task_id: str, one: Wanted, now: datetime.datetime) -> Record:
        created = max(now, one.before.scanned_at + TICK) if one.before else now
        return Record(
            id=task_id,
            owner=SCANS.owner,
            created=created,
            state=State.QUEUED,
            lane=Lane.WAITING,
            due=created,
            status=Status(
                backend=one.backend,
                rule=f"the scan of an image that tasks on {one.backend} name",
                waiting=telemetry.line(Code.WAITING_TURN, f"in the queue of the backend {one.backend}"),
            ),
            task=self._scanning.task(one.image),
        )

    def _keep(self, made: Verdict, record: Record) -> None:
        self._store.keep(made)
        telemetry.SCAN_VERDICTS.labels(made.outcome).inc()
        telemetry.SCAN_SECONDS.observe(max(0.0, (made.scanned_at - record.created).total_seconds()))
        level = logging.INFO if made.outcome is Outcome.PASS else logging.WARNING
        telemetry.log(logger, level, "scan.judged", task=record.id, image=made.image, digest=made.key.digest, outcome=made.outcome, error=made.message)


def judged(one: Wanted, record: Record, rules: policy.Policy, now: datetime.datetime) -> Verdict:
    """The verdict that a scan's record, which has ended, comes to: the same for whoever asks, whenever, but for a clock that was ahead. Pure."""
    return msgspec.structs.replace(_judged(one, record, rules, now), scan=record.id)


def _judged(one: Wanted, record: Record, rules: policy.Policy, now: datetime.datetime) -> Verdict:
    # When it ended is the platform's word; it must neither lie ahead nor before what the round follows on.
    at = max(record.created, min(record.status.end_time or record.created, now))
    name = one.image.name
    if record.owner != SCANS.owner:
        return policy.failed(one.key, name, rules, "a task has the id of the scan, and is none", at)
    lines = record.detail.system_logs if record.detail else ()
    if record.state is not State.COMPLETE:
        why = telemetry.message(lines[-1]) if lines else f"the scan ended with {record.state}"
        return policy.failed(one.key, name, rules, why, at)
    streams = record.detail.streams if record.detail else ()
    try:
        return policy.judge(report.decode(streams[-1][0] if streams else ""), rules, one.key, name, at)
    except errors.ScanError as cause:
        return policy.failed(one.key, name, rules, cause.public, at)
