"""The interpreter on an engine in memory, with its process killed at every point."""

from __future__ import annotations

import contextlib
import errno
import pathlib
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tes_server import errors
from tes_server.backends.local import render
from tes_server.backends.local.driver import LocalBackend
from tes_server.filer import progress, transfer
from tes_server.filer.manifest import Access
from tes_server.model.run import Handle, Phase, Reason, Report
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Capabilities, Policy
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner import attempt as attempts
from tes_server.runner import interpreter, reach, vault
from tes_server.runner.attempt import Attempt
from tes_server.runner.engine import Cell, CellState, Exit
from tes_server.runner.halt import Halt
from tes_server.runner.interpreter import Interpreter
from tes_server.runner.site import Site
from tes_server.scan.gate import OnError
from tes_server.telemetry import Code
from tests import gates
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
        self.away: Counter[str] = Counter()  # calls that will find no daemon
        self.hook: Callable[[str, Cell | None], None] = lambda _call, _cell: None

    def _point(self, call: str = "", cell: Cell | None = None) -> None:
        self.points += 1
        if self.points == self.at:
            raise Killed
        if self.away[call] > 0:
            self.away[call] -= 1
            raise errors.EngineError("no daemon", Code.ENGINE_UNAVAILABLE, transient=True)
        self.hook(call, cell)

    def prepare(self, image: str) -> str:
        self._point("prepare")
        if image == "missing":
            raise errors.EngineError("there is no such image: missing", "IMAGE_NOT_FOUND")
        return f"sha256:{image}"

    def state(self, cell: Cell) -> CellState:
        if cell.name not in self.machine.started:
            return CellState.ABSENT
        return CellState.ENDED if self.machine.codes[cell.step.index] else CellState.LOST

    def start(self, cell: Cell) -> None:
        self._point("start", cell)
        if cell.name not in self.machine.started:
            self.machine.started[cell.name] += 1
            if cell.step.index < 0:  # a scanner: its argv is a script that leaves a report in its own volume
                assert cell.volume.parent.parent.name == "scans"
                (cell.volume / "scan").mkdir()
                subprocess.run([*cell.step.argv[:-1], cell.step.argv[-1].replace("/scan/", f"{cell.volume}/scan/")], check=True)
                self._point()
                return
            with (cell.volume / "work" / "log").open("a") as log:
                log.write(f"{cell.step.index}\n")
        self._point()

    def wait(self, cell: Cell) -> Exit | None:
        self._point("wait", cell)
        return self.machine.codes[cell.step.index]

    def stop(self, cell: Cell, grace: float) -> None:
        self.stopped.append(cell.name)

    def streams(self, cell: Cell) -> tuple[str, str]:
        return f"out {cell.step.index}", "err"

    def remove(self, cell: Cell) -> None:
        self._point("remove", cell)
        self.machine.removed.add(cell.name)
        self._point()

    def wipe(self, path: pathlib.Path) -> None:
        shutil.rmtree(path)


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

    def interpreter(self, engine: MemoryEngine, changed: Callable[[], None] | None = None, live: tuple[str, ...] = ()) -> Interpreter:
        site = Site(access=Access(roots=(str(self.site),)), live_roots=live)
        made = Interpreter(self.attempt, self.plan, engine, site, Clock(), changed or (lambda: self.phases.append(made.phase)))  # type: ignore[arg-type]
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


def test_a_transfer_that_takes_long_is_shown(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    site = Site(access=Access(roots=(str(bench.site),)))
    backend = LocalBackend(tmp_path / "data", MemoryEngine(bench.machine), site, Capabilities(), Clock())  # type: ignore[arg-type]
    handle = Handle("local", "t-1", place=backend.place)
    seen: list[str] = []

    def looking(work: Callable[..., object]) -> Callable[..., object]:
        def look(*given: object) -> object:
            observation = backend.observe([handle])[handle]
            seen.append(f"{observation.phase} {observation.code} {observation.message.partition(',')[0]}")
            return work(*given)

        return look

    monkeypatch.setattr(transfer, "stage_in", looking(transfer.stage_in))
    monkeypatch.setattr(transfer, "stage_out", looking(transfer.stage_out))
    over = threading.Event()
    backend.listen(lambda _: over.set() if backend.observe([handle])[handle].phase is Phase.ENDED else None)
    assert backend.submit([render.render(bench.plan)]) == {"t-1": handle}
    assert over.wait(60)
    assert seen == ["STAGING TRANSFER inputs: 0 files", "RUNNING TRANSFER outputs: 0 files"]
    report = backend.attempt("t-1").report()
    assert report is not None
    assert [line.partition(",")[0] for line in report.notices] == ["TRANSFER: inputs: 1 file", "TRANSFER: outputs: 1 file"]
    backend.close()


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


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two tries."""
    monkeypatch.setattr(reach, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(interpreter, "FULL_PAUSE", 0.0)


@contextlib.contextmanager
def running(runner: Interpreter) -> Iterator[list[Report]]:
    """`runner` in a thread; its report is there after the block, within which it must be brought to its end."""
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(runner.run()))
    thread.start()
    yield reports
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.usefixtures("prompt")
def test_an_engine_that_is_away_for_a_while_changes_nothing(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(3)})
    engine = MemoryEngine(bench.machine)
    engine.away.update(prepare=2, start=3, wait=4, remove=5)
    said: list[str] = []
    runner = bench.interpreter(engine, lambda: said.append(runner.silence))
    report = runner.run()
    assert (report.reason, [log.exit_code for log in report.executors]) == (Reason.EXIT, [0, 3])
    assert set(bench.machine.started.values()) == {1}
    assert bench.machine.removed == set(bench.machine.started)
    assert "no daemon" in said, "clients are told why nothing moves"
    assert said[-1] == ""


@pytest.mark.parametrize("call", ["start", "wait"])
def test_nothing_runs_when_the_end_is_told(tmp_path: pathlib.Path, call: str) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    engine = MemoryEngine(bench.machine)

    def refuse(name: str, cell: Cell | None) -> None:
        assert bench.attempt.report() is None
        if name == call:
            raise errors.EngineError("the daemon has a fault", Code.ENGINE_ERROR, transient=True)

    engine.hook = refuse
    report = bench.interpreter(engine).run()
    assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "ENGINE_ERROR", True)
    assert bench.machine.removed == {"t-1-0"}
    assert not any(notice.startswith("OUTPUT_MISSING") for notice in report.notices), "no command has ended: what did it fail to make?"


def test_an_attempt_is_clean_once_all_that_it_began_is_removed(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    bench.run()
    assert bench.attempt.clean


def test_an_attempt_whose_cell_could_not_be_removed_is_not_clean(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    engine = MemoryEngine(bench.machine)

    def refuse(name: str, cell: Cell | None) -> None:
        if name == "remove" and cell is not None and cell.step.index == 1:
            raise errors.EngineError("the container is busy", Code.ENGINE_ERROR)

    engine.hook = refuse
    assert bench.interpreter(engine).run().reason is None
    assert not bench.attempt.clean, "whoever deletes the directory has to remove it"


def test_a_cell_that_an_earlier_process_only_made_is_not_forgotten(tmp_path: pathlib.Path) -> None:
    """Killed between the making of a container and its start, then canceled: nothing began, but it is there."""
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    bench.attempt.record(0).mkdir()
    bench.attempt.set_canceled()
    assert bench.run().reason is Reason.CANCELED
    assert not bench.attempt.clean


ENDINGS = pytest.mark.parametrize("reason", [Reason.CANCELED, Reason.LOST])
"""Stopped on request, or from outside."""


@ENDINGS
def test_a_stop_does_not_wait_for_a_pull(tmp_path: pathlib.Path, reason: Reason) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    engine = MemoryEngine(bench.machine)
    pulling, pulled = threading.Event(), threading.Event()
    engine.hook = gate("prepare", pulling, pulled)
    runner = bench.interpreter(engine)
    with running(runner) as reports:
        assert pulling.wait(10)
        runner.stop(reason)
    pulled.set()
    assert reports[0].reason is reason
    assert not bench.machine.started


@ENDINGS
def test_a_stop_does_not_wait_for_an_engine_that_starts_something(tmp_path: pathlib.Path, reason: Reason) -> None:
    bench = Bench(tmp_path, {0: ended(143), 1: ended(0)})
    engine = MemoryEngine(bench.machine)
    starting, go_on = threading.Event(), threading.Event()
    engine.hook = gate("start", starting, go_on)
    runner = bench.interpreter(engine)
    with running(runner) as reports:
        assert starting.wait(10)
        runner.stop(reason)  # returns, though the engine is busy
        go_on.set()
    assert reports[0].reason is reason
    assert "t-1-0" in engine.stopped, "what was started in spite of it is stopped"
    assert set(bench.machine.started) == bench.machine.removed == {"t-1-0"}


@ENDINGS
def test_who_is_stopped_takes_no_outputs(tmp_path: pathlib.Path, reason: Reason) -> None:
    bench = Bench(tmp_path, {0: ended(143), 1: ended(0)})
    engine = MemoryEngine(bench.machine)
    runner = bench.interpreter(engine)
    engine.hook = lambda call, _: runner.stop(reason) if call == "wait" else None
    report = runner.run()
    assert (report.reason, report.transient) == (reason, reason is Reason.LOST)
    assert report.outputs == ()
    assert [log.exit_code for log in report.executors] == [143]
    assert not (bench.site / "log").exists()
    assert bench.attempt.clean


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ((Reason.TIMEOUT, Reason.CANCELED), Reason.CANCELED),
        ((Reason.TIMEOUT, Reason.LOST), Reason.LOST),
        ((Reason.CANCELED, Reason.TIMEOUT), Reason.CANCELED),
        ((Reason.LOST, Reason.TIMEOUT), Reason.LOST),
        ((Reason.LOST, Reason.CANCELED), Reason.LOST),
        ((Reason.CANCELED, Reason.LOST), Reason.CANCELED),
    ],
)
def test_who_wants_no_outputs_beats_a_time_out(wishes: tuple[Reason, Reason], reason: Reason) -> None:
    halt = Halt()
    for wish in wishes:
        halt.wish(wish)
    assert halt.reason is reason


def test_a_task_that_cannot_be_asked_to_end_is_ended(tmp_path: pathlib.Path) -> None:
    """As root of its container it can take its record away from a server that is not root."""
    bench = Bench(tmp_path, {0: None, 1: ended(0)})
    engine = MemoryEngine(bench.machine)
    waiting, removed = threading.Event(), threading.Event()

    def hook(name: str, cell: Cell | None) -> None:
        if name == "wait":
            waiting.set()
            assert removed.wait(10)
        elif name == "remove":
            removed.set()

    def refuse(cell: Cell, grace: float) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    engine.hook = hook
    engine.stop = refuse  # type: ignore[method-assign]
    runner = bench.interpreter(engine)
    with running(runner) as reports:
        assert waiting.wait(10)
        runner.stop()
    assert reports[0].reason is Reason.CANCELED
    assert bench.machine.removed == {"t-1-0"}


def test_what_ran_when_the_machine_went_down_is_lost(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its volume was never synced: the files may be torn, whatever the records say."""
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    engine = MemoryEngine(bench.machine)
    engine.hook = lambda name, cell: kill() if name == "wait" and cell is not None and cell.step.index == 1 else None
    with pytest.raises(Killed):
        bench.interpreter(engine).run()
    (tmp_path / "boot").write_text("another life\n")
    monkeypatch.setattr(attempts, "BOOT", tmp_path / "boot")
    report = bench.run()
    assert (report.reason, report.code) == (Reason.LOST, "LOST")
    assert "restarted" in report.message
    assert report.outputs == ()
    assert bench.machine.removed == {"t-1-0", "t-1-1"}


def test_inputs_of_another_life_of_the_machine_are_placed_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    engine = MemoryEngine(bench.machine)
    engine.hook = lambda name, _: kill() if name == "start" else None
    with pytest.raises(Killed):
        bench.interpreter(engine).run()
    (bench.attempt.volume / "work" / "in").write_text("")  # torn
    (tmp_path / "boot").write_text("another life\n")
    monkeypatch.setattr(attempts, "BOOT", tmp_path / "boot")
    report = bench.run()
    assert report.reason is None
    assert (bench.attempt.volume / "work" / "in").read_text() == "x"


def kill() -> None:
    raise Killed


def gate(call: str, reached: threading.Event, opened: threading.Event) -> Callable[[str, Cell | None], None]:
    """A hook that holds `call` until `opened`."""

    def hook(name: str, _: Cell | None) -> None:
        if name == call:
            reached.set()
            opened.wait(10)

    return hook


@pytest.mark.usefixtures("prompt")
def test_a_report_waits_for_room_on_the_disk(tmp_path: pathlib.Path) -> None:
    class Full(Attempt):
        tries = 0

        def keep_report(self, report: Report) -> None:
            self.tries += 1
            if self.tries < 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().keep_report(report)

    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    bench.attempt = Full(bench.attempt.directory)
    engine = MemoryEngine(bench.machine)
    engine.wipe = lambda path: shutil.rmtree(path, ignore_errors=True)  # type: ignore[method-assign]
    assert bench.interpreter(engine).run().reason is None
    assert bench.attempt.report() is not None
    assert not bench.attempt.volume.exists(), "its own files made way"


def test_a_disk_that_is_full_is_named(tmp_path: pathlib.Path) -> None:
    class Full(Attempt):
        def keep_exit(self, index: int, ended: Exit) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    bench = Bench(tmp_path / "later", {0: ended(0), 1: ended(0)})
    bench.attempt = Full(bench.attempt.directory)
    assert bench.run().reason is None, "what an executor did is not undone for want of a few bytes"

    class Fuller(Attempt):
        def set_staged(self, staged: attempts.Staged) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    bench.attempt = Fuller(bench.attempt.directory)
    report = bench.run()
    assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "DISK_FULL", True)


@pytest.mark.parametrize(("full_at", "transient"), [(0, True), (1, False)])
def test_a_task_that_fills_the_disk_is_not_run_again(tmp_path: pathlib.Path, full_at: int, transient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "FULL_BYTES", 1 << 62)
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    engine = MemoryEngine(bench.machine)

    def full(name: str, cell: Cell | None) -> None:
        if name == "start" and cell is not None and cell.step.index == full_at:
            raise errors.EngineError("no word from its supervisor", Code.ENGINE_ERROR, transient=True)

    engine.hook = full
    report = bench.interpreter(engine).run()
    assert (report.code, report.transient) == ("DISK_FULL", transient)


def test_a_live_directory_is_looked_at_before_each_executor(tmp_path: pathlib.Path) -> None:
    """Another task that sees it may put a link in its place while the first executor runs."""
    bench = Bench(tmp_path, {0: ended(0), 1: ended(0)})
    live = bench.site / "live"
    live.mkdir()
    bench.plan = msgspec.structs.replace(bench.plan, mounts=(*bench.plan.mounts, Mount("/live", MountKind.LIVE, str(live))))
    engine = MemoryEngine(bench.machine)

    def replace(name: str, cell: Cell | None) -> None:
        if name == "wait" and live.is_dir() and not live.is_symlink():
            live.rmdir()
            live.symlink_to("/etc")

    engine.hook = replace
    report = bench.interpreter(engine, live=(str(live),)).run()
    assert (report.reason, report.code) == (Reason.STAGING, "INPUT_DENIED")
    assert list(bench.machine.started) == ["t-1-0"]


class TestSecrets:
    def bench(self, home: pathlib.Path, look: Callable[[str], str]) -> tuple[Bench, Callable[[], Interpreter], list[tuple[bool, dict[str, str]]]]:
        bench = Bench(home, {0: ended(0), 1: ended(0)})
        first, second = bench.plan.executors
        named = msgspec.structs.replace(second, env={"TOKEN": "secret://portal", "A": "a"})
        bench.plan = msgspec.structs.replace(bench.plan, executors=(first, named))
        bench.attempt.create(render.render(bench.plan).body)
        seen: list[tuple[bool, dict[str, str]]] = []

        def made() -> Interpreter:
            engine = MemoryEngine(bench.machine)
            engine.hook = lambda call, cell: seen.append((cell.secret, cell.step.env)) if call == "start" and cell else None
            site = Site(access=Access(roots=(str(bench.site),)), secrets={"portal": "ref"}, scan_secrets={"console": "other"}, look=look)
            return Interpreter(bench.attempt, bench.plan, engine, site, Clock(), lambda: None)  # type: ignore[arg-type]

        return bench, made, seen

    def test_only_the_engine_gets_them(self, tmp_path: pathlib.Path) -> None:
        bench, made, seen = self.bench(tmp_path, {"ref": "c4n4ry"}.__getitem__)
        report = made().run()
        assert report.reason is None, report
        assert seen == [(False, {}), (True, {"TOKEN": "c4n4ry", "A": "a"})]
        assert "c4n4ry" not in str(report)
        assert not [path for path in bench.attempt.directory.rglob("*") if path.is_file() and b"c4n4ry" in path.read_bytes()]

    def test_one_that_cannot_be_had_is_told_before_anything_is_fetched_or_run(self, tmp_path: pathlib.Path) -> None:
        def look(_reference: str) -> str:
            raise errors.StagingError("the vault does not have it", Code.SECRET_NOT_FOUND)

        bench, made, _ = self.bench(tmp_path, look)
        report = made().run()
        assert (report.reason, report.code) == (Reason.STAGING, "SECRET_NOT_FOUND")
        assert report.message == "/executors/1/env/TOKEN: the secret portal: the vault does not have it"
        assert not bench.machine.started
        assert not list(bench.attempt.volume.iterdir())

    def test_a_command_that_runs_goes_on_without_the_vault(self, tmp_path: pathlib.Path) -> None:
        """The server was restarted, and the secret is gone."""
        bench, made, _ = self.bench(tmp_path, {"ref": "c4n4ry"}.__getitem__)
        interpreter = made()
        for index in (0, 1):
            record = bench.attempt.record(index)
            record.mkdir(parents=True)
            (record / "start").write_text("1 1 1\n")
        assert isinstance(interpreter._engine, MemoryEngine)
        interpreter._vault = vault.Vault({}, vault.nothing)
        bench.attempt.set_staged(attempts.Staged({"i": "sha256:i", "j": "sha256:j"}, (), attempts.boot_id()))
        (bench.attempt.volume / "work").mkdir()
        assert interpreter.run().reason is None


class TestGate:
    def bench(self, home: pathlib.Path, *scripts: str, codes: dict[int, Exit | None] | None = None, on_error: OnError = OnError.BLOCK) -> Bench:
        bench = Bench(home, {0: ended(0), 1: ended(0), **dict.fromkeys((-1, -2), ended(0)), **(codes or {})})
        bench.plan = msgspec.structs.replace(bench.plan, gate=gates.gate("scanner", *scripts, on_error=on_error))
        bench.attempt.create(render.render(bench.plan).body)
        return bench

    def test_what_passes_runs(self, tmp_path: pathlib.Path) -> None:
        bench = self.bench(tmp_path, gates.leaves(gates.report()), gates.leaves(gates.report("LOW")))
        report = bench.run()
        assert report.reason is None, report
        assert list(bench.machine.started) == ["t-1-s0", "t-1-s1", "t-1-0", "t-1-1"]
        assert bench.machine.removed == set(bench.machine.started)
        assert bench.attempt.clean
        assert len(report.executors) == 2
        passed = [line for line in report.notices if line.startswith("SCANNED: ")]
        assert ["that came first in this task" in line for line in passed] == [True, True]
        assert bench.plan.gate is not None
        assert passed[0].startswith(f"SCANNED: image-0 is {bench.plan.gate.checks[0].digest}, passed the scan of ")

    def test_what_is_refused_starts_nothing(self, tmp_path: pathlib.Path) -> None:
        bench = self.bench(tmp_path, gates.leaves(gates.report("HIGH")), gates.leaves(gates.report()))
        report = bench.run()
        assert (report.reason, report.code, report.transient) == (Reason.REJECTED, "SCAN_REFUSED", False)
        assert report.message.startswith("image image-0: ")
        assert any("CVE-0" in line for line in report.notices)
        assert (report.executors, report.outputs) == ((), ())
        assert list(bench.machine.started) == ["t-1-s0"]
        assert not list(bench.attempt.volume.iterdir())

    @pytest.mark.parametrize(
        ("codes", "words"),
        [({-1: ended(1)}, "exit code 1"), ({-1: None}, "vanished"), ({-1: ended(137, oom=True)}, "more memory than it has"), ({}, "left no report")],
        ids=["exit", "lost", "oom", "no report"],
    )
    def test_a_scan_that_failed(self, tmp_path: pathlib.Path, codes: dict[int, Exit | None], words: str) -> None:
        report = self.bench(tmp_path / "block", "true", codes=codes).run()
        assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "SCAN_FAILED", True)
        report = self.bench(tmp_path / "allow", "true", codes=codes, on_error=OnError.ALLOW).run()
        assert report.reason is None, report
        [line] = [line for line in report.notices if line.startswith("SCAN_WARNING")]
        assert "image-0 could not be scanned" in line
        assert words in line

    def test_a_scanner_that_never_ends_is_given_up(self, tmp_path: pathlib.Path) -> None:
        bench = self.bench(tmp_path, gates.leaves(gates.report()))
        assert bench.plan.gate is not None
        bench.plan = msgspec.structs.replace(bench.plan, gate=msgspec.structs.replace(bench.plan.gate, timeout=0.05))
        engine = MemoryEngine(bench.machine)
        asked = threading.Event()
        engine.hook = lambda call, cell: asked.wait(30) if call == "wait" and cell and cell.step.index < 0 else None  # type: ignore[assignment]
        engine.stop = lambda cell, grace: (engine.stopped.append(cell.name), asked.set())  # type: ignore[assignment, func-returns-value]
        report = bench.interpreter(engine).run()
        assert (report.reason, report.code) == (Reason.BACKEND, "SCAN_FAILED")
        assert "given up after 0.05 s" in report.message
        assert engine.stopped == ["t-1-s0"]

    def test_a_kill_at_every_point_scans_once_and_lets_nothing_pass(self, tmp_path: pathlib.Path) -> None:
        script = gates.leaves(gates.report())
        bench = self.bench(tmp_path / "count", script)
        counting = MemoryEngine(bench.machine)
        assert bench.interpreter(counting).run().reason is None
        for point in range(1, counting.points + 1):
            bench = self.bench(tmp_path / str(point), script)
            with pytest.raises(Killed):
                bench.interpreter(MemoryEngine(bench.machine, point)).run()
            assert bench.run().reason is None
            assert set(bench.machine.started.values()) == {1}
            assert next(iter(bench.machine.started)) == "t-1-s0"
            assert bench.machine.removed == set(bench.machine.started)
