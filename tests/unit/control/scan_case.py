"""A world in which images are scanned: a scripted resolver, and a platform whose scans find what a test says."""

from __future__ import annotations

import concurrent.futures
import datetime
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tes_server.backends.base import Job
from tes_server.control.desk import Desk
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.scans import Scanning
from tes_server.digests.base import Resolved
from tes_server.model.principal import ALL, SCANS, Principal
from tes_server.model.record import Change, Query, Record, View
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report, Room
from tes_server.model.states import ENDS
from tes_server.model.task import Executor, ExecutorLog, Task
from tes_server.model.verdict import Finding, Outcome, ScanKey, Verdict
from tes_server.plan.policy import Policy as Site
from tes_server.plan.policy import Target
from tes_server.plan.steps import Findings, Plan
from tes_server.scan import policy, report
from tes_server.scan.gate import Mode, Modes, OnError
from tes_server.store.base import Store
from tests.scripted import COMPLETE, T0, Clock, Platform, ScriptedBackend, ScriptedResolver, resolved
from tests.unit.control.conftest import RULES, World

CLEAN = report.ScanReport(scanner="trivy", scanner_version="0.66", database="2026-01-01")
BAD = report.bounded(CLEAN, [Finding(id="CVE-1", severity="CRITICAL", package="openssl", installed="1", fixed="2"), Finding(id="CVE-2", severity="LOW")])
HARD = policy.Policy(scanner="trivy", verdict_seconds=3600.0, error_seconds=600.0)


def task(*images: str, command: str = "c") -> Task:
    return Task(executors=tuple(Executor(image=image, command=(command,)) for image in images))


def scan_of(image: Resolved) -> Task:
    return Task(executors=(Executor(image="trivy:1", command=("scan", image.pinned)),), name=f"scan of {image.name}")


def told(found: report.ScanReport) -> Observation:
    """The end of a scan that found this."""
    log = ExecutorLog(exit_code=0, stdout=report.encode(found), stderr="")
    return Observation(phase=Phase.ENDED, report=Report(executors=(log,), start_time=T0))


def broken(message: str = "the scanner crashed") -> Observation:
    return Observation(phase=Phase.ENDED, report=Report(reason=Reason.STAGING, code="SCAN_FAILED", message=message))


class ScanPlatform(Platform):
    """Scans end with what `ends` has for the name that is scanned (any part of the pinned name), clean ones else, after `looks` looks; tasks are good."""

    def __init__(self) -> None:
        super().__init__(self._script)
        self.ends: dict[str, Observation] = {}
        self.looks = 1
        self.scanned: list[str] = []
        self.task_script = list(COMPLETE)

    def _script(self, plan: Plan) -> list[Observation]:
        if plan.stage_out.findings is None:
            return list(self.task_script)
        image = plan.executors[0].argv[1]
        self.scanned.append(image)
        end = next((end for name, end in self.ends.items() if name in image), told(CLEAN))
        return [Observation(phase=Phase.RUNNING)] * self.looks + [end]


class ScanBackend(ScriptedBackend):
    """Has each attempt checked at the moment in which it is asked to start it."""

    world: ScanWorld

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        self.world.check(jobs)
        return super().submit(jobs)


class Faulty:
    """A store with `before` and `after` each write that the desk or the reconciler makes, called with its name, after the save of an intent with
    "intent"; they may raise, or take their time."""

    def __init__(self, store: Store, before: Callable[[str], object] = lambda _: None, after: Callable[[str], object] = lambda _: None) -> None:
        self._store = store
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def save(self, changes: Sequence[Change]) -> set[str]:
        self._before("save")
        lost = self._store.save(changes)
        self._after("intent" if any(change.status.submitting for change in changes) else "save")
        return lost

    def insert(self, records: Sequence[Record], *, undo: Callable[[str], None] | None = None) -> concurrent.futures.Future[None]:
        self._before("insert")
        done = self._store.insert(records, undo=undo)
        concurrent.futures.wait([done])
        self._after("insert")
        return done

    def keep(self, verdict: Verdict) -> None:
        self._before("keep")
        self._store.keep(verdict)
        self._after("keep")


class Shards:
    """The store as a reconciler sees it that has some of the shards. `before_insert` is called once, before its first insert."""

    def __init__(self, store: Store, shards: frozenset[int]) -> None:
        self._store = store
        self._shards = shards
        self.before_insert: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def hold(self, who: str, now: datetime.datetime) -> frozenset[int]:
        return self._shards

    def alive(self) -> frozenset[str]:
        return frozenset()

    def insert(self, records: Sequence[Record], *, undo: Callable[[str], None] | None = None) -> concurrent.futures.Future[None]:
        before, self.before_insert = self.before_insert, lambda: None
        before()
        return self._store.insert(records, undo=undo)


class ScanWorld(World):
    """One store, one platform, one clock, one resolver."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self.platform: ScanPlatform = ScanPlatform()
        self.resolver = ScriptedResolver()
        self.modes = Modes(default=Mode.ENFORCE)
        self.on_error = OnError.BLOCK
        self.policy = HARD
        self.again = 0.0
        self.unproven: list[str] = []
        self.submitted: list[Plan] = []

    @property
    def scanning(self) -> Scanning:
        findings = Findings("trivy", "/scan/report.json")
        return Scanning(modes=self.modes, on_error=self.on_error, policy=self.policy, task=scan_of, findings=findings, again=self.again)

    def backend(self, room: Callable[[Platform], Room | None] = lambda _: None, fault: Callable[[str], None] = lambda _: None) -> ScanBackend:
        made = ScanBackend(self.platform, room, fault)
        made.world = self
        return made

    def reconciler(
        self,
        backend: ScriptedBackend | None = None,
        store: Store | None = None,
        who: str = "me",
        clock: Clock | None = None,
        batch: int = 10,
        others: Mapping[str, ScriptedBackend] | None = None,
    ) -> Reconciler:
        """`others`: further backends, by name."""
        backend = backend or self.backend()
        kept, clock = store or self.store, clock or self.clock
        scans = any(mode is not Mode.OFF for mode in (self.modes.default, *self.modes.backends.values(), *self.modes.owners.values()))
        desk = Desk(kept, self.resolver, self.scanning) if scans else None
        backends = {"local": backend, **(others or {})}
        targets = {name: Target(policy=Site(), capabilities=each.capabilities) for name, each in backends.items()}
        monotonic = lambda: self.clock().timestamp()  # noqa: E731
        return Reconciler(kept, backends, targets, RULES, Pace(batch=batch), who, clock, lambda: 0.5, desk=desk, monotonic=monotonic)

    def create(self, *images: str, owner: str = "ann", command: str = "c", key: str | None = None) -> str:
        return self.service().create(Principal(owner), task(*images or ("tool:1",), command=command), key).result()

    def record(self, task_id: str) -> Record:
        found = self.store.get(ALL, task_id, View.FULL)
        assert isinstance(found, Record)
        return found

    def lines(self, task_id: str) -> tuple[str, ...]:
        there = self.record(task_id)
        return (*(there.detail.system_logs if there.detail else ()), *filter(None, [there.status.waiting]))

    def scans(self) -> list[Record]:
        """The records of scans, the oldest first."""
        page = self.store.page(Query(scope=SCANS.scope, view=View.FULL, size=1000))
        return [record for record in reversed(page.tasks) if isinstance(record, Record)]

    def ended(self, *ids: str) -> bool:
        return all(one.state in ENDS and not one.status.release for one in map(self.record, ids))

    def key(self, image: str) -> ScanKey:
        answer = self.resolver.answers.get(image)
        return policy.key((answer if isinstance(answer, Resolved) else resolved(image)).digest, image, self.policy)

    def verdict(self, image: str = "tool:1") -> Verdict | None:
        key = self.key(image)
        return self.store.verdicts([key]).get(key)

    def keep(self, image: str, outcome: Outcome = Outcome.PASS, seconds: float = 3600.0) -> None:
        now = self.clock()
        expires = now + datetime.timedelta(seconds=seconds)
        self.store.keep(Verdict(key=self.key(image), outcome=outcome, image=image, scanner="trivy", scanned_at=now, expires_at=expires, reasons=("r",)))

    def check(self, jobs: Sequence[Job]) -> None:
        """Notes plans of tasks, and in `unproven` which of their images have no verdict that passes and is fresh at this moment."""
        for job in jobs:
            plan = msgspec.json.decode(job.body, type=Plan)
            if plan.stage_out.findings is not None:
                continue
            self.submitted.append(plan)
            if self.modes.of("local", plan.owner) is not Mode.ENFORCE:
                continue
            for step in plan.executors:
                digest = step.image.partition("@")[2]
                key = policy.key(digest, step.shown_image, self.policy)
                verdict = self.store.verdicts([key]).get(key) if digest else None
                if verdict is None or verdict.outcome is not Outcome.PASS or not verdict.fresh(self.clock()):
                    self.unproven.append(f"{plan.task_id}-{plan.attempt} {step.image}: {verdict}")
