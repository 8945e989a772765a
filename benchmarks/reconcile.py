"""How many tasks reconcilers move: `python -m benchmarks.reconcile --url mongodb://... --json [--tasks 10000] [--processes 1,2,3]`.

All tasks wait in MongoDB. So many processes, each the reconciler with a backend that runs nothing (every look finds an
attempt one phase further, and there is news of it), take their shards and then start at once; the clock stops when the last
task is at rest. Baseline for one process: the writes of such tasks by bare `bulk_write`, 200 a call; for several: one process.
Notes: store operations a task over its life (its create is one more write) and how many of 100 saves lost a race.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec
from pymongo import UpdateOne

from benchmarks import figures, mongo_server
from benchmarks.operations import Operations, counted, of_tasks
from benchmarks.store import made
from tes_server import app, signals, telemetry
from tes_server.backends.base import Job
from tes_server.control.decide import Rules
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.model import record as model
from tes_server.model import run
from tes_server.model.run import Handle, Observation, Phase, Report
from tes_server.model.states import State
from tes_server.model.task import ExecutorLog
from tes_server.plan.policy import Capabilities, Policy, Target
from tes_server.plan.steps import Plan
from tes_server.store import leases, mongo, mongo_account, mongo_documents, mongo_leases
from tes_server.store.mongo_account import Account

BATCH = 200
"""Records that a reconciler handles at once (`reconciler.batch`), and saves in one call."""

GROUP = 500

SETTLE = 60.0
"""Seconds for processes to agree on their shards."""


class Idle:
    """A backend that runs nothing, at a place of its own as the local one: an attempt is one phase further at each look, and after
    each there is news of it."""

    name = "local"

    def __init__(self, place: str) -> None:
        self.place = place
        self.capabilities = Capabilities(cpus=8, ram_bytes=10**11, submit_window=10.0)
        self._looks: dict[str, int] = {}
        self._news: Callable[[Collection[str]], None] = lambda _: None

    def render(self, plan: Plan) -> Job:
        """`Backend.render`."""
        return Job(run.job_name(plan.task_id, plan.attempt), msgspec.json.encode(plan))

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle]:
        """`Backend.submit`."""
        return {job.name: self._handle(job.name) for job in jobs}

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        """`Backend.find`."""
        return {name: self._handle(name) for name in names}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """`Backend.observe`."""
        seen = {handle: self._look(handle.name) for handle in handles}
        self._news({run.task_of(handle.name) for handle, found in seen.items() if found.phase is not Phase.ENDED})
        return seen

    def _handle(self, name: str) -> Handle:
        return Handle(self.name, name, place=self.place)

    def _look(self, name: str) -> Observation:
        looks = self._looks[name] = self._looks.get(name, 0) + 1
        now = app.clock()
        if looks < 3:
            return Observation(phase=(Phase.STAGING, Phase.RUNNING)[looks - 1], start_time=now)
        log = ExecutorLog(exit_code=0, stdout="done\n", stderr="", start_time=now, end_time=now)
        return Observation(phase=Phase.ENDED, report=Report(executors=(log,), start_time=now, end_time=now))

    def tail(self, _handles: Sequence[Handle]) -> Mapping[Handle, run.Tails]:
        """`Backend.tail`."""
        return {}

    def cancel(self, handles: Sequence[Handle]) -> None:
        """`Backend.cancel`."""

    def release(self, handles: Sequence[Handle]) -> None:
        """`Backend.release`."""
        for handle in handles:
            self._looks.pop(handle.name, None)

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


class Done(msgspec.Struct, frozen=True):
    """What one reconciler process counted: documents written, queries read, saves of tasks, and how many of these lost."""

    writes: int
    reads: int
    saves: int
    lost: int


class Moved(msgspec.Struct, frozen=True):
    """What several of them did together: tasks a second, operations a task, lost saves of 100."""

    rate: float
    writes: float
    reads: float
    lost: float


def worker(url: str, database: str, number: int) -> None:
    """One process: takes its shards, starts with a line on its input, ends by SIGTERM and prints what it counted."""
    operations = Operations()
    store = mongo.MongoStore(mongo_account.account(url, database), listeners=[operations])
    backend = Idle(f"benchmark-{number}")
    target = Target(policy=Policy(), capabilities=backend.capabilities)
    loop = Reconciler(store, {"local": backend}, {"local": target}, Rules(), Pace(batch=BATCH), backend.place, app.clock, random.random)
    signals.hear(loop.stop, signal.SIGTERM)
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        store.hold(backend.place, app.clock())
    operations.take()
    loop.loop()
    store.close()
    writes, reads = counted(of_tasks(operations.seen))
    saves = sum(each.kind == "update" and each.collection == "tasks" for each in operations.seen)
    lost = sum(sample.value for metric in telemetry.SAVES_LOST.collect() for sample in metric.samples if sample.name.endswith("_total"))
    print(json.dumps(msgspec.to_builtins(Done(writes, reads, saves, int(lost)))), flush=True)


@contextlib.contextmanager
def reconcilers(account: Account, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes, each with its share of the shards."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks.reconcile", "--url", account.url, "--worker", account.database]
        processes = [
            stack.enter_context(subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)) for number in range(count)
        ]
        try:
            with mongo_server.connected(account) as connection:
                shelf = mongo_leases.MongoShelf(connection)
                until = time.monotonic() + SETTLE
                while not shared(shelf.read(), count):
                    if time.monotonic() > until:
                        raise SystemExit(f"{count} reconcilers did not share the shards in {SETTLE:g} s")
                    time.sleep(0.05)
            yield processes
        finally:
            for process in processes:
                process.terminate()


def shared(board: leases.Board, count: int) -> bool:
    """Every shard has an owner, and each of `count` members its share."""
    shares = [len(board.of(member)) for member in board.members]
    return len(shares) == count and sum(shares) == model.SHARDS and max(shares) - min(shares) <= 1


def moved(url: str, tasks: int, processes: int) -> Moved:
    """From the start of the processes until no task is in a lane."""
    with mongo_server.database(url) as account:
        waiting(account, tasks)
        with mongo_server.connected(account) as connection, reconcilers(account, processes) as started:
            begin = time.perf_counter()
            for each in started:
                assert each.stdin is not None
                each.stdin.write("go\n")
                each.stdin.flush()
            for lane in (model.Lane.WAITING, model.Lane.ACTIVE, model.Lane.WAITING):
                while connection.tasks.find_one({"lane": lane.value}, {"_id": 1}) is not None:
                    time.sleep(0.1)
            taken = time.perf_counter() - begin
            counts = [ended(each) for each in started]
            complete = connection.tasks.count_documents({"state": State.COMPLETE.value})
        if complete != tasks:
            raise SystemExit(f"{complete} of {tasks} tasks are COMPLETE")
    saves = sum(each.saves for each in counts)
    return Moved(
        tasks / taken, sum(each.writes for each in counts) / tasks, sum(each.reads for each in counts) / tasks, 100 * sum(each.lost for each in counts) / saves
    )


def ended(process: subprocess.Popen[str]) -> Done:
    """What a process counted, once it has ended."""
    process.terminate()
    output, _ = process.communicate(timeout=60)
    if process.returncode:
        raise SystemExit(f"a reconciler ended with {process.returncode}")
    return msgspec.json.decode(output, type=Done)


def waiting(account: Account, tasks: int) -> None:
    """That many new tasks, of ten owners."""
    store = mongo.MongoStore(account)
    try:
        for start in range(0, tasks, GROUP):
            numbers = range(start, min(start + GROUP, tasks))
            store.insert([msgspec.structs.replace(made(number, ended=False, inputs=0), owner=f"owner-{number % 10}") for number in numbers]).result()
    finally:
        store.close()


def bare(url: str, tasks: int, writes: int) -> float:
    """Tasks a second where nothing is done but `writes` saves of each, `BATCH` a call."""
    with mongo_server.database(url) as account:
        waiting(account, tasks)
        with mongo_server.connected(account) as connection:
            records = [made(number, ended=False, inputs=0) for number in range(BATCH)]
            ids = [each["_id"] for each in connection.tasks.find({}, {"_id": 1})]
            begin = time.perf_counter()
            for start in range(0, tasks, BATCH):
                some = ids[start : start + BATCH]
                for revision in range(writes):
                    connection.tasks.bulk_write(
                        [
                            UpdateOne({"_id": task_id, "revision": revision}, mongo_documents.update(changed(record, task_id, revision), "mark")[0])
                            for task_id, record in zip(some, records, strict=False)
                        ],
                        ordered=False,
                    )
            return tasks / (time.perf_counter() - begin)


def changed(record: model.Record, task_id: str, revision: int) -> model.Change:
    """A save that takes a task one step further."""
    return model.Change(id=task_id, revision=revision, state=State.RUNNING, canceling=False, lane=model.Lane.ACTIVE, due=None, status=record.status)


def measured(url: str, tasks: int, processes: Sequence[int], rounds: int) -> list[figures.Figure]:
    """One figure for each number of processes; the rounds of all of them take turns."""
    seen: dict[int, list[Moved]] = {count: [] for count in processes}
    bound: list[float] = []
    for _ in range(rounds):
        for count in processes:
            seen[count].append(moved(url, tasks, count))
        bound.append(bare(url, min(tasks, 10 * BATCH), round(seen[processes[0]][-1].writes)))
    one = [each.rate for each in seen[processes[0]]]
    found = []
    for count in processes:
        pairs = [(each.rate, base) for each, base in zip(seen[count], bound if count == processes[0] else one, strict=True)]
        last = seen[count][-1]
        found.append(
            figures.compared(
                f"{tasks} tasks, {count} reconciler{'s' if count > 1 else ''}",
                "a second",
                pairs,
                baseline_is="their saves by bare bulk_write" if count == processes[0] else f"{processes[0]} reconciler",
                writes_a_task=round(last.writes, 2),
                reads_a_task=round(last.reads, 2),
                lost_saves_percent=round(max(each.lost for each in seen[count]), 2),
            )
        )
    return found


def main() -> None:
    parser = figures.parser(__doc__)
    parser.set_defaults(rounds=2)
    mongo_server.add_url(parser)
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks that wait")
    parser.add_argument("--processes", default="1,2,3", help="numbers of reconcilers; the first is what the others are compared with")
    parser.add_argument("--worker", nargs=2, metavar=("DATABASE", "NUMBER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen.url, chosen.worker[0], int(chosen.worker[1]))
        return
    where = figures.machine()
    counts = [int(count) for count in chosen.processes.split(",")]
    figures.show("reconcile", measured(chosen.url, chosen.tasks, counts, chosen.rounds), where, as_json=chosen.json)


if __name__ == "__main__":
    main()
