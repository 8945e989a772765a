"""A crowd of tasks that waits for one scan, by the clock on the wall: part of `python -m benchmarks.scan --crowd 100000`.

A reconciler in a process of its own, with a backend that runs nothing, and `serve --api-only` beside it on one SQLite store: what both cost each other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pathlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Self

import msgspec

from benchmarks import figures, scan, server
from benchmarks.memory import pss
from tes_server import app
from tes_server.control.decide import Rules
from tes_server.control.desk import Desk
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.model.principal import ANONYMOUS
from tes_server.plan.policy import Policy, Target
from tes_server.store.sqlite import SqliteStore

GROUP = 1000

BEFORE = 10.0
"""Seconds for which the API is asked while nothing else happens."""

PAUSE = 0.05
"""Seconds between two requests."""

POLL = 0.5
"""Seconds between two looks at the reconciler."""

LIST = "/v1/tasks?page_size=256"


class Told(msgspec.Struct, frozen=True):
    """What the reconciler has done so far."""

    started: int
    scans: int
    scanned: bool
    """the scan has ended"""
    saves: int
    """of tasks that stay in the queue"""


class Asker:
    """One client in a thread, which creates, gets and lists in turn and takes the time of each, in ms."""

    def __init__(self, ours: server.Server) -> None:
        self._ours = ours
        self._taken: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        task_id = ""

        def create() -> None:
            nonlocal task_id
            task_id = self._ours.create(server.no_op(scan.IMAGE.name))

        asked: list[Callable[[], object]] = [create, lambda: self._ours.state(task_id), lambda: self._ours.ask("GET", LIST)]
        while not self._stopped.wait(PAUSE):
            for each in asked:
                begin = time.perf_counter()
                each()
                self._taken.append((time.perf_counter() - begin) * 1000)

    def take(self) -> list[float]:
        """Those since the last call."""
        taken, self._taken = self._taken, []
        return taken


def reconcile(path: str, seconds: float, end: Connection) -> None:
    """A reconciler; tells what it has done whenever it is asked, until the other end is closed."""
    store = scan.Counting(SqliteStore(pathlib.Path(path)))
    backend = scan.Idle(app.clock, seconds)
    target = Target(policy=Policy(), capabilities=backend.capabilities)
    desk = Desk(store, scan.Known(), scan.scanning())
    loop = Reconciler(store, {"local": backend}, {"local": target}, Rules(), Pace(), "benchmark", app.clock, lambda: 0.5, desk=desk)
    working = threading.Thread(target=loop.loop)
    working.start()
    with contextlib.suppress(EOFError):
        while True:
            end.recv()
            end.send(Told(backend.tasks, len(backend.scans), backend.scanned, store.held))
    loop.stop()
    working.join()
    store.close()


@contextlib.contextmanager
def reconciling(path: pathlib.Path, seconds: float) -> Iterator[tuple[int, Callable[[], Told]]]:
    """Its pid, and who asks it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=reconcile, args=(str(path), seconds, theirs))
    process.start()
    theirs.close()

    def told() -> Told:
        ours.send(None)
        found: Told = ours.recv()
        return found

    try:
        yield process.pid or 0, told
    finally:
        ours.close()
        process.join()


def waited(tasks: int, seconds: float, directory: pathlib.Path | None) -> list[figures.Figure]:
    """So many tasks behind a scan of so many seconds."""
    with tempfile.TemporaryDirectory(dir=directory) as base:
        data = pathlib.Path(base, "data")
        with server.running(data, "--api-only") as ours, Asker(ours) as asker:
            time.sleep(BEFORE)
            before = asker.take()
            path = data / app.TASKS
            store = SqliteStore(path)
            now = app.clock()
            for start in range(0, tasks, GROUP):
                crowd = [msgspec.structs.replace(scan.task(now), owner=ANONYMOUS.owner) for _ in range(start, min(start + GROUP, tasks))]
                store.insert(crowd).result()
            store.close()
            asker.take()
            with reconciling(path, seconds) as (pid, told):
                used = []
                while not (found := told()).scanned:
                    time.sleep(POLL)
                    used.append(pss([pid]))
                waiting, ended, saves = asker.take(), time.perf_counter(), found.saves
                while (found := told()).started < tasks:
                    time.sleep(POLL)
                    used.append(pss([pid]))
                took, releasing = time.perf_counter() - ended, asker.take()
    if found.scans != 1:
        raise SystemExit(f"{found.scans} scans of one image")
    what = f"{tasks} tasks behind a scan of {seconds:g} s"
    return [
        figures.Figure(what=f"{what}, until the last is submitted", figure=round(took, 1), unit="s", notes={"started_a_second": round(tasks / took)}),
        figures.Figure(what=f"{what}, writes of each meanwhile", figure=round(saves / tasks, 2), unit="writes", notes={"a_second": round(saves / seconds)}),
        figures.Figure(what=f"{what}, PSS of the reconciler", figure=round(max(used)), unit="MB"),
        *(
            figures.compared(
                f"API {when}, p95 of a create, a get and a list",
                "ms",
                [(figures.percentile(ms, 95), figures.percentile(before, 95))],
                baseline_is="before",
                p50_ms=round(statistics.median(ms), 1),
                most_ms=round(max(ms), 1),
                requests=len(ms),
            )
            for when, ms in (("while they wait", waiting), ("while they start", releasing))
        ),
    ]
