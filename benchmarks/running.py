"""What a bound on tasks that are under way costs: `python -m benchmarks.running --json [--tasks 100000]`.

One owner has so many tasks QUEUED in the embedded store, of which ten may be under way at a time (`limits.running`). Measured is what the
reconciler takes for a task from its start to its end, ten at a time, and for a look at the queue while nobody may start one. Baseline:
the same with a thousand tasks. Its clock moves with each pass, so that no pass waits; the backend runs nothing. Of that clock each
fifteen seconds have one count of all tasks for the metric `tes_tasks`, which is what grows with those that wait.
"""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks import figures
from benchmarks.reconcile import Idle
from benchmarks.store import made
from tes_server.control.decide import Rules
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.running import Running
from tes_server.model import record as model
from tes_server.model.run import Handle
from tes_server.plan.policy import Policy, Target
from tes_server.store.sqlite import SqliteStore

FEW = 1000
BOUND = 10
GROUP = 2000
ENDED = 300
"""Tasks that come to their end in one round."""

STEP = datetime.timedelta(seconds=0.3)
"""Just more than the pause between two looks at a queue of which nothing could start."""

LOOKS = 200
OWNER = "anonymous"


class Counting(Idle):
    """Counts the attempts that came to their end."""

    ended = 0

    def release(self, handles: Sequence[Handle]) -> None:
        """`Backend.release`."""
        self.ended += len(handles)
        super().release(handles)


class Crowd:
    """A store with that many waiting tasks of one owner, and a reconciler whose clock the benchmark moves."""

    def __init__(self, place: pathlib.Path, tasks: int) -> None:
        self.store = SqliteStore(place / "tasks.sqlite")
        for start in range(0, tasks, GROUP):
            self.store.insert([made(number, ended=False, inputs=0) for number in range(start, min(start + GROUP, tasks))]).result()
        self._now = made(tasks, ended=False).created
        self._backend = backend = Counting("")
        target = Target(policy=Policy(), capabilities=backend.capabilities)
        pace = Pace(batch=200)
        self._loop = Reconciler(self.store, {"local": backend}, {"local": target}, Rules(), pace, "benchmark", self._clock, lambda: 0.5, running=BOUND)

    def _clock(self) -> datetime.datetime:
        return self._now

    def moved(self) -> float:
        """Milliseconds a task until `ENDED` more have ended."""
        enough = self._backend.ended + ENDED
        begin = time.perf_counter()
        while self._backend.ended < enough:
            self._loop.tick()
            self._now += STEP
        return (time.perf_counter() - begin) * 1000 / ENDED

    def look(self) -> float:
        """Milliseconds of a look at the queue of whom may start none."""
        bound = Running(self.store, 1)
        self._one_under_way()
        begin = time.perf_counter()
        for _ in range(LOOKS):
            bound.begin()
            if self.store.due(model.Lane.WAITING, model.ALL_SHARDS, self._now, 200, shares=bound.shares):
                raise SystemExit("somebody may start one")
        return (time.perf_counter() - begin) * 1000 / LOOKS

    def _one_under_way(self) -> None:
        if not self.store.under_way([OWNER])[OWNER]:
            (first,) = self.store.due(model.Lane.WAITING, model.ALL_SHARDS, self._now, 1)
            same = {name: getattr(first, name) for name in ("id", "revision", "state", "canceling", "status")}
            self.store.save([model.Change(**same, lane=model.Lane.ACTIVE, due=None)])


@contextlib.contextmanager
def crowd(tasks: int) -> Iterator[Crowd]:
    """A crowd in a directory of its own."""
    with tempfile.TemporaryDirectory() as place:
        made = Crowd(pathlib.Path(place), tasks)
        try:
            yield made
        finally:
            made.store.close()


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks that wait")
    chosen = parser.parse_args()
    where = figures.machine()
    with crowd(chosen.tasks) as many, crowd(FEW + chosen.rounds * ENDED) as few:
        baseline, rounds = f"{FEW} tasks", chosen.rounds
        found = [
            figures.compared(f"a task, ten at a time, {chosen.tasks} waiting", "ms", figures.interleaved(many.moved, few.moved, rounds), baseline_is=baseline),
            figures.compared(
                f"a look at {chosen.tasks} tasks of which none may start", "ms", figures.interleaved(many.look, few.look, rounds), baseline_is=baseline
            ),
        ]
    figures.show("running", [found[0], msgspec.structs.replace(found[1], goal="as the baseline")], where, as_json=chosen.json)


if __name__ == "__main__":
    main()
