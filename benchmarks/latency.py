"""How long a client waits: `python -m benchmarks.latency --json [--only create|complete]`.

`create`: POST while 200 Docker tasks start, one client; beside it the time of fdatasync of 4 KiB in the same window on the same
disk, one each 20 ms. `complete`: from the POST of `true` to the GET that shows COMPLETE, in the sandbox of an idle server;
baseline: the same program started by itself.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import subprocess
import tempfile
import threading
import time
from typing import Self

from benchmarks import api, figures, noop, server

PAUSE = 0.01
"""Seconds between two creates of the one client."""

POLL = 0.002
"""Seconds between two GETs: what a client cannot see does not count."""


class Syncs:
    """Times of fdatasync, taken in a thread until the block ends."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.ms: list[float] = []
        self._path = directory / "syncs"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while not self._stop.wait(0.02):
                file.write(b"x" * 4096)
                begin = time.perf_counter()
                os.fdatasync(file.fileno())
                self.ms.append((time.perf_counter() - begin) * 1000)


def creates_while_starting(base: pathlib.Path, tasks: int) -> figures.Figure:
    """p95 of creates from the first start of a Docker task to the last."""
    with server.running(base / "docker", engine="docker", local__cpus=tasks, local__ram_gb=tasks) as ours, Syncs(base) as syncs:
        starting = [ours.create(server.no_op(noop.IMAGE)) for _ in range(tasks)]
        taken: list[float] = []
        extra = []
        not_started = list(starting)
        while not_started:
            begin = time.perf_counter()
            extra.append(ours.create(api.task(0, image=noop.IMAGE, cpu_cores=tasks)))  # stays QUEUED: it wants the whole site
            taken.append((time.perf_counter() - begin) * 1000)
            while not_started and ours.state(not_started[-1]) not in {"QUEUED", "INITIALIZING"}:
                not_started.pop()
            time.sleep(PAUSE)
        for task_id in extra:
            ours.ask("POST", f"/v1/tasks/{task_id}:cancel")
        ours.wait(starting, pause=0.2)
    return figures.Figure(
        what=f"create while {tasks} Docker tasks start, p95",
        figure=round(figures.percentile(taken, 95), 1),
        unit="ms",
        goal="<= 50 ms + baseline",
        baseline=round(figures.percentile(syncs.ms, 95), 1),
        baseline_is="p95 of fdatasync in the same window",
        ratio=round(figures.percentile(taken, 95) / figures.percentile(syncs.ms, 95), 2),
        notes={"creates": len(taken), "p50_ms": round(statistics.median(taken), 1), "max_ms": round(max(taken), 1)},
    )


def to_complete(ours: server.Server) -> float:
    """ms from POST to COMPLETE."""
    time.sleep(0.2)  # the task before has been cleaned up
    begin = time.perf_counter()
    task_id = ours.create(server.no_op("host"))
    ours.wait([task_id], {"COMPLETE"}, POLL)
    return (time.perf_counter() - begin) * 1000


def alone() -> float:
    """ms of `true` by itself."""
    begin = time.perf_counter()
    subprocess.run(["true"], check=True)
    return (time.perf_counter() - begin) * 1000


def completes(base: pathlib.Path, tasks: int) -> figures.Figure:
    """The median of `tasks` tasks, one after the other."""
    with server.running(base / "sandbox") as ours:
        for _ in range(3):
            to_complete(ours)
        pairs = figures.interleaved(lambda: to_complete(ours), alone, tasks)
    ms = [mine for mine, _ in pairs]
    return figures.compared(
        "POST to COMPLETE of `true`, sandbox, idle",
        "ms",
        pairs,
        goal="<= 50",
        baseline_is="fork and exec of `true`",
        p90_ms=round(figures.percentile(ms, 90), 1),
        least_ms=round(min(ms), 1),
    )


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--only", choices=["create", "complete"], help="one of the two")
    parser.add_argument("--tasks", type=int, default=200, help="Docker tasks that start")
    chosen = parser.parse_args()
    where = figures.machine()
    found = []
    with tempfile.TemporaryDirectory(dir=chosen.data) as directory:
        base = pathlib.Path(directory)
        if chosen.only != "create":
            found.append(completes(base, max(figures.FEWEST, 10 * chosen.rounds)))
        if chosen.only != "complete":
            found.append(creates_while_starting(base, chosen.tasks))
    figures.show("latency", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
