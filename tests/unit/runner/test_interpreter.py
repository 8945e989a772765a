"""The interpreter on an engine in memory, with its process killed at every point."""

from __future__ import annotations

import pathlib
from collections import Counter

import msgspec
import pytest

from tes_server import errors
from tes_server.backends.local import render
from tes_server.filer.manifest import Access
from tes_server.model.run import Phase, Reason, Report
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Capabilities, Policy
from tes_server.runner.attempt import Attempt
from tes_server.runner.engine import Cell, CellState, Exit
from tes_server.runner.interpreter import Interpreter, Site
from tests.scripted import T0, Clock


class Killed(BaseException):
    """The process is gone."""


class Machine:
    """What outlives processes: cells that were started, and how each one ends."""

    def __init__(self, codes: dict[int, Exit | None]) -> None:
        self.codes = codes
        self.started: Counter[str] = Counter()
        self.removed: set[str] = set()


class MemoryEngine:
    """An Engine over a Machine. `fault` is called before and after each call."""

    name = "memory"

    def __init__(self, machine: Machine, at: int = 0) -> None:
        self.machine = machine
        self.at = at
        self.points = 0
        self.stopped: list[str] = []

    def _point(self) -> None:
        self.points += 1
        if self.points == self.at:
            raise Killed

    def prepare(self, image: str) -> str:
        self._point()
        if image == "missing":
            raise errors.EngineError("there is no such image: missing", "IMAGE_NOT_FOUND")
        return f"sha256:{image}"

    def state(self, cell: Cell) -> CellState:
        if cell.name not in self.machine.started:
            return CellState.ABSENT
        return CellState.ENDED if self.machine.codes[cell.step.index] else CellState.LOST

    def start(self, cell: Cell) -> None:
        self._point()
        if cell.name not in self.machine.started:
            self.machine.started[cell.name] += 1
            with (cell.volume / "work" / "log").open("a") as log:
                log.write(f"{cell.step.index}\n")
        self._point()

    def wait(self, cell: Cell) -> Exit | None:
        self._point()
        return self.machine.codes[cell.step.index]

    def stop(self, cell: Cell, grace: float) -> None:
        self.stopped.append(cell.name)

    def streams(self, cell: Cell) -> tuple[str, str]:
        return f"out {cell.step.index}", "err"

    def remove(self, cell: Cell) -> None:
        self._point()
        self.machine.removed.add(cell.name)
        self._point()


def ended(code: int, *, oom: bool = False) -> Exit:
    return Exit(code=code, signal=9 if oom else 0, oom=oom, start_time=T0, end_time=T0)


class Bench:
    """One attempt of a task with two executors and one output."""

    def __init__(self, home: pathlib.Path, codes: dict[int, Exit | None], image: str = "i", *, ignore: bool = False, content: str = "x") -> None:
        self.site = home / "site"
        self.site.mkdir(parents=True)
        self.machine = Machine(codes)
        task = msgspec.convert(
            {
                "executors": [{"image": image, "command": ["a"], "workdir": "/work", "ignore_error": ignore}, {"image": "j", "command": ["b"]}],
                "inputs": [{"path": "/work/in", **({"content": content} if content else {"url": f"{self.site}/nowhere"})}],
                "outputs": [{"path": "/work/log", "url": f"{self.site}/log"}],
            },
            Task,
        )
        policy = Policy(sites=Sites(roots=(str(self.site),)))
        self.plan = compiler.compile_task(task, "t", 1, "o", policy, Capabilities()).plan
        self.attempt = Attempt(home / "t-1")
        self.attempt.create(render.render(self.plan).body)
        self.phases: list[Phase] = []

    def interpreter(self, engine: MemoryEngine) -> Interpreter:
        site = Site(access=Access(roots=(str(self.site),)))
        made = Interpreter(self.attempt, self.plan, engine, site, Clock(), lambda: self.phases.append(made.phase))  # type: ignore[arg-type]
        return made

    def run(self) -> Report:
        return self.interpreter(MemoryEngine(self.machine)).run()


def test_a_good_life(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    report = bench.run()
    assert report.reason is None
    assert [log.stdout for log in report.executors] == ["out 0", "out 1"]
    assert report.images == {"i": "sha256:i", "j": "sha256:j"}
    assert bench.phases == [Phase.STAGING, Phase.RUNNING, Phase.ENDED]
    assert bench.machine.removed == {"t-1-0", "t-1-1"}
    assert (bench.site / "log").read_text() == "0\n1\n"
    assert bench.run() == report, "an attempt that has ended tells the same again"


@pytest.mark.parametrize(
    ("codes", "ignore", "reason", "code", "exits"),
    [
        ({0: ended(3), 1: ended(0)}, False, Reason.EXIT, "EXECUTOR_FAILED", [3]),
        ({0: ended(3), 1: ended(0)}, True, None, "", [3, 0]),
        ({0: ended(127), 1: ended(0)}, False, Reason.EXIT, "COMMAND_NOT_FOUND", [127]),
        ({0: ended(0), 1: ended(137, oom=True)}, False, Reason.OOM, "OOM", [0, 137]),
        ({0: ended(0), 1: None}, False, Reason.LOST, "LOST", [0]),
    ],
)
def test_ends(tmp_path: pathlib.Path, codes: dict[int, Exit | None], ignore: bool, reason: Reason | None, code: str, exits: list[int]) -> None:
    bench = Bench(tmp_path, codes, ignore=ignore)
    report = bench.run()
    assert (report.reason, report.code) == (reason, code)
    assert [log.exit_code for log in report.executors] == exits
    assert (bench.site / "log").exists(), "outputs are taken after failures too"


def test_a_missing_image_and_a_missing_input_start_nothing(tmp_path: pathlib.Path) -> None:
    image = Bench(tmp_path / "a", {}, image="missing").run()
    assert (image.reason, image.code, image.transient) == (Reason.IMAGE, "IMAGE_NOT_FOUND", False)
    bench = Bench(tmp_path / "b", {}, content="")
    staged = bench.run()
    assert (staged.reason, staged.code) == (Reason.STAGING, "INPUT_NOT_FOUND")
    assert not bench.machine.started


def test_a_cancel_before_the_start_starts_nothing(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    bench.attempt.set_canceled()
    assert bench.run().reason is Reason.CANCELED
    assert not bench.machine.started
    assert not (bench.site / "log").exists()


def test_max_runtime_counts_from_the_first_start(tmp_path: pathlib.Path) -> None:
    """A restart must not give the task its time again."""
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    bench.plan = msgspec.structs.replace(bench.plan, limits=msgspec.structs.replace(bench.plan.limits, max_runtime=5.0))
    clock = Clock()
    assert bench.attempt.started(clock()) == clock()
    clock.forward(3600)
    assert bench.attempt.started(clock()) == T0


def test_an_attempt_cut_off_in_submit_has_no_plan(tmp_path: pathlib.Path) -> None:
    attempt = Attempt(tmp_path / "t-1")
    (tmp_path / "t-1").mkdir()
    (tmp_path / "t-1" / ".plan.json.new").write_bytes(b'{"task_id"')
    assert attempt.plan() is None


@pytest.mark.parametrize("codes", [{0: ended(0), 1: ended(0)}, {0: ended(3), 1: ended(0)}], ids=["good", "failing"])
def test_a_kill_at_every_point_runs_nothing_twice(tmp_path: pathlib.Path, codes: dict[int, Exit | None]) -> None:
    counting = MemoryEngine(Machine(codes))
    bench = Bench(tmp_path / "count", codes)
    counting.machine = bench.machine
    expected = bench.interpreter(counting).run()
    assert counting.points >= 6
    for point in range(1, counting.points + 1):
        bench = Bench(tmp_path / str(point), codes)
        with pytest.raises(Killed):
            bench.interpreter(MemoryEngine(bench.machine, point)).run()
        report = bench.run()
        assert [log.size_bytes for log in report.outputs] == [log.size_bytes for log in expected.outputs]
        assert msgspec.structs.replace(report, outputs=()) == msgspec.structs.replace(expected, outputs=())
        assert set(bench.machine.started.values()) == {1}
        assert bench.machine.removed == set(bench.machine.started)
        assert (bench.site / "log").read_text() == "".join(f"{number}\n" for number in range(len(bench.machine.started)))
