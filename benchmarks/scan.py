"""Image scans in the reconciler: one for a crowd, what a verdict that is there costs, and what a long queue does meanwhile: `python -m benchmarks.scan --json`.

In this process, on SQLite (or a database that `--url` names), with a backend that runs nothing and a resolver that knows every name: what is measured is
the desk's own work. The crowd and the queue live by a clock of their own, which goes on a quarter of a second with each pass.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import pathlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from benchmarks import figures
from tes_server import app
from tes_server.backends.base import Job
from tes_server.control.clearance import Cleared
from tes_server.control.decide import Rules
from tes_server.control.desk import Desk
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.scans import Scanning
from tes_server.control.service import new_id
from tes_server.digests.base import Resolved
from tes_server.model import run
from tes_server.model.record import ALL_SHARDS, Change, Lane, Record, Status
from tes_server.model.run import Handle, Observation, Phase, Report, Tails
from tes_server.model.states import State
from tes_server.model.task import Executor, ExecutorLog, Task
from tes_server.model.verdict import Outcome, Verdict
from tes_server.plan.policy import Capabilities, Policy, Target
from tes_server.plan.steps import Findings, Plan
from tes_server.scan import policy, report
from tes_server.scan.base import REPORT
from tes_server.scan.gate import Mode, Modes, OnError
from tes_server.store.base import Store

BATCH = 200
"""Records that a reconciler handles at once (`control.batch`)."""

STEP = 0.25
"""Seconds between two passes of a reconciler whose queue does not move."""

SCAN = 60.0
"""Seconds that a scan takes."""

CLEAN = report.encode(report.ScanReport(scanner="trivy", scanner_version="0", database_time=None))
IMAGE = Resolved("registry.example/tool:1", f"sha256:{'1' * 64}", f"registry.example/tool@sha256:{'1' * 64}")
RULES = policy.Policy(scanner="trivy")


class Known:
    """A resolver that has every name in its cache."""

    def ask(self, images: Collection[str], _backend: str) -> Mapping[str, Resolved]:
        """`Resolver.ask`."""
        return {name: msgspec.structs.replace(IMAGE, name=name) for name in images}

    def listen(self, _done: Callable[[], None]) -> None:
        """`Resolver.listen`."""

    def close(self) -> None:
        """`Resolver.close`."""


class Idle:
    """A backend that runs nothing: tasks have ended at the first look, a scan some seconds after its start. Counts its calls."""

    name, place = "local", ""

    def __init__(self, clock: Callable[[], datetime.datetime], seconds: float = SCAN) -> None:
        self.capabilities = Capabilities(cpus=8, ram_bytes=10**11, submit_window=10.0)
        self.calls: collections.Counter[str] = collections.Counter()
        self.scans: dict[str, datetime.datetime] = {}
        self.scanned = False
        self.tasks = 0
        self._seconds = seconds
        self._clock = clock
        self._news: Callable[[Collection[str]], None] = lambda _: None

    def render(self, plan: Plan) -> Job:
        """`Backend.render`."""
        return Job(run.job_name(plan.task_id, plan.attempt), msgspec.json.encode(plan))

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle]:
        """`Backend.submit`."""
        self.calls["submit"] += 1
        for job in jobs:
            if msgspec.json.decode(job.body, type=Plan).stage_out.findings is not None:
                self.scans.setdefault(job.name, self._clock())
            else:
                self.tasks += 1
        return {job.name: Handle(self.name, job.name) for job in jobs}

    def find(self, _names: Collection[str]) -> Mapping[str, Handle]:
        """`Backend.find`."""
        self.calls["find"] += 1
        return {}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """`Backend.observe`."""
        self.calls["observe"] += 1
        return {handle: self._look(handle.name) for handle in handles}

    def _look(self, name: str) -> Observation:
        now = self._clock()
        if (began := self.scans.get(name)) is not None and now - began < datetime.timedelta(seconds=self._seconds):
            return Observation(phase=Phase.RUNNING, start_time=began)
        self.scanned = self.scanned or began is not None
        log = ExecutorLog(exit_code=0, stdout=CLEAN if name in self.scans else "", stderr="", start_time=now, end_time=now)
        return Observation(phase=Phase.ENDED, report=Report(executors=(log,), start_time=now, end_time=now))

    def tail(self, _handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        """`Backend.tail`."""
        return {}

    def cancel(self, _handles: Sequence[Handle]) -> None:
        """`Backend.cancel`."""

    def release(self, _handles: Sequence[Handle]) -> None:
        """`Backend.release`."""

    def survey(self) -> Iterator[Handle]:
        """`Backend.survey`."""
        return iter(())

    def room(self) -> None:
        """`Backend.room`: the platform queues by itself."""

    def listen(self, news: Callable[[Collection[str]], None]) -> None:
        """`Backend.listen`."""
        self._news = news

    def close(self) -> None:
        """`Backend.close`."""


class Counting:
    """A store that counts saves of tasks that stay in the queue, and reads of verdicts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.held = self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def save(self, changes: Sequence[Change]) -> set[str]:
        """`Store.save`."""
        self.held += sum(change.lane is Lane.WAITING for change in changes)
        return self._store.save(changes)

    def verdicts(self, keys: Collection[Any]) -> dict[Any, Verdict]:
        """`Store.verdicts`."""
        self.looks += 1
        return self._store.verdicts(keys)


class World:
    """A store with so many tasks that wait, and a reconciler, by a clock of their own."""

    def __init__(self, store: Store, tasks: int) -> None:
        self.now = app.clock()
        self.store = Counting(store)
        self.backend = Idle(lambda: self.now)
        self.desk = Desk(self.store, Known(), scanning())
        target = Target(policy=Policy(), capabilities=self.backend.capabilities)
        who = f"benchmark-{time.monotonic_ns()}"
        self.loop = Reconciler(
            self.store, {"local": self.backend}, {"local": target}, Rules(), Pace(batch=BATCH), who, lambda: self.now, lambda: 0.5, desk=self.desk
        )
        made = [task(self.now) for _ in range(tasks)]
        for start in range(0, tasks, 1000):
            store.insert(made[start : start + 1000]).result()

    def tick(self) -> None:
        """A pass; the next one follows at once, or when it is time for one."""
        if not self.loop.tick():
            self.now += datetime.timedelta(seconds=STEP)


def scanning() -> Scanning:
    """ENFORCE, with a scan that is a task like others."""
    scan = Task(executors=(Executor(image="registry.example/trivy:1", command=("trivy",)),))
    return Scanning(modes=Modes(default=Mode.ENFORCE), on_error=OnError.BLOCK, policy=RULES, task=lambda _: scan, findings=Findings("trivy", REPORT))


def task(now: datetime.datetime) -> Record:
    """One that waits."""
    return Record(
        id=new_id(now),
        owner="owner",
        created=now,
        state=State.QUEUED,
        lane=Lane.WAITING,
        due=now,
        status=Status(backend="local", rule="default"),
        task=Task(executors=(Executor(image=IMAGE.name, command=("true",)),)),
    )


def crowd(store: Store, tasks: int) -> figures.Figure:
    """Tasks with one new image, all at once: how many scans."""
    world = World(store, tasks)
    while world.backend.tasks < tasks:
        world.tick()
    return figures.Figure(
        what=f"{tasks} tasks with one new image",
        figure=len(world.backend.scans),
        unit="scans",
        goal="1",
        notes={"calls_of_submit": world.backend.calls["submit"], "writes_a_task_while_it_waits": round(world.store.held / tasks, 2)},
    )


def queue(store: Store, tasks: int) -> figures.Figure:
    """So many tasks behind one scan of `SCAN` seconds: writes of each meanwhile, and the real time from its end until all are submitted."""
    world = World(store, tasks)
    begin = time.perf_counter()
    while not world.backend.tasks:
        world.tick()
    waited, ended = time.perf_counter() - begin, world.now
    begin = time.perf_counter()
    while world.backend.tasks < tasks:
        world.tick()
    return figures.Figure(
        what=f"{tasks} tasks behind a scan of {SCAN:g} s",
        figure=round(world.store.held / tasks, 2),
        unit="writes a task",
        notes={
            "busy_seconds_meanwhile": round(waited, 1),
            "started_a_second_then": round(tasks / (time.perf_counter() - begin)),
            "seconds_of_waiting_then": (world.now - ended).total_seconds(),
        },
    )


def cached(store: Store, rounds: int) -> figures.Figure:
    """One task whose verdict is there: all that the desk adds to its start."""
    now = app.clock()
    key = policy.key(IMAGE.digest, IMAGE.name, RULES)
    far = now + datetime.timedelta(days=1)
    store.keep(Verdict(key=key, outcome=Outcome.PASS, image=IMAGE.name, scanner="trivy", scanned_at=now, expires_at=far))
    world = World(store, BATCH)
    records = store.due(Lane.WAITING, ALL_SHARDS, world.now, BATCH)
    world.store.looks = 0
    one = [_timed(world, records[:1]) for _ in range(100 * rounds)]
    reads = world.store.looks / len(one)
    batch = [_timed(world, records) / BATCH for _ in range(10 * rounds)]
    return figures.measured(
        "a verdict that is there, one task",
        "ms",
        one,
        goal="<= 5",
        p99_ms=round(figures.percentile(one, 99), 2),
        ms_a_task_in_a_batch=round(sorted(batch)[len(batch) // 2], 3),
        reads_of_the_store=reads,
        platform_calls=sum(world.backend.calls.values()),
    )


def _timed(world: World, records: Sequence[Record]) -> float:
    begin = time.perf_counter()
    looked = world.desk.look(records, world.now)
    cleared = {task_id: decision for task_id, decision in looked.decisions.items() if isinstance(decision, Cleared)}
    if len(cleared) < len(records) or world.desk.lapsed(cleared, lambda: world.now):
        raise SystemExit("a task with a fresh verdict was not cleared")
    return (time.perf_counter() - begin) * 1000


@contextlib.contextmanager
def stores(url: str, directory: pathlib.Path | None) -> Iterator[Callable[[], Store]]:
    """Makes empty stores, which go at the end."""
    with contextlib.ExitStack() as stack:

        def made() -> Store:
            store: Store
            if url:
                from benchmarks import mongo_server
                from tes_server.store import mongo

                store = mongo.MongoStore(stack.enter_context(mongo_server.database(url)))
            else:
                from tes_server.store.sqlite import SqliteStore

                store = SqliteStore(pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory))) / "tasks.sqlite")
            stack.callback(store.close)
            return store

        yield made


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=500, help="tasks of the crowd")
    parser.add_argument("--waiting", type=int, default=20_000, help="tasks of the queue")
    parser.add_argument("--url", default="", help="a MongoDB server; without it: SQLite")
    parser.add_argument("--crowd", type=int, default=0, help="only this: so many tasks behind one scan, a reconciler and an API beside each other")
    parser.add_argument("--seconds", type=float, default=180.0, help="of that scan")
    chosen = parser.parse_args()
    where = figures.machine()
    if chosen.crowd:
        from benchmarks import scan_crowd

        figures.show("scan", scan_crowd.waited(chosen.crowd, chosen.seconds, chosen.data), where, as_json=chosen.json)
        return
    with stores(chosen.url, chosen.data) as made:
        found = [crowd(made(), chosen.tasks), cached(made(), chosen.rounds), queue(made(), chosen.waiting)]
    figures.show("scan", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
