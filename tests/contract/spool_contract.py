"""What every spool must do, whatever its objects are kept in."""

from __future__ import annotations

import abc
import datetime
import itertools
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tes_server import errors
from tes_server.filer import spool
from tes_server.filer.spool import Attempt, Shelf, Spool
from tes_server.model.run import Report, Tails
from tes_server.model.task import ExecutorLog
from tes_server.plan.steps import Fetch, Limits, Placement, Plan, StageIn, StageOut

ONE = Attempt("task-1", 1)
TWO = Attempt("task-1", 2)


def plan_of(attempt: Attempt, text: str = "") -> Plan:
    return Plan(
        task_id=attempt.task,
        attempt=attempt.number,
        stage_in=StageIn(directories=(), inputs=(Fetch(path="/work/x", content=text, field="/inputs/0"),)),
        executors=(),
        stage_out=StageOut(outputs=()),
        mounts=(),
        limits=Limits(cpus=1, ram_bytes=1, disk_bytes=1),
        placement=Placement(),
        owner="o",
        tags={},
    )


class Wrapped:
    """A shelf before another."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def read(self, name: str, limit: int) -> bytes | None:
        return self.shelf.read(name, limit)

    def write(self, name: str, data: bytes) -> None:
        self.shelf.write(name, data)

    def create(self, name: str, data: bytes) -> bool:
        return self.shelf.create(name, data)

    def names(self, prefix: str) -> Iterator[str]:
        return self.shelf.names(prefix)

    def remove(self, names: Collection[str]) -> None:
        self.shelf.remove(names)


class Forgetful(Wrapped):
    """Answers get lost: what was written is told as something that was there."""

    def create(self, name: str, data: bytes) -> bool:
        self.shelf.create(name, data)
        return False


class Careless(Wrapped):
    """Knows no conditional writes, as some stores that speak S3."""

    def create(self, name: str, data: bytes) -> bool:
        self.shelf.write(name, data)
        return True


class Racing(Wrapped):
    """Looks first and writes then: right for one writer after the other, wrong for two at once."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self._all_here = threading.Barrier(spool.RIVALS)
        self._looks = itertools.count()

    def create(self, name: str, data: bytes) -> bool:
        there = self.shelf.read(name, 1000) is not None
        if next(self._looks) < spool.RIVALS:
            self._all_here.wait(10)
        if not there:
            self.shelf.write(name, data)
        return not there


class Late(Wrapped):
    """What was written is seen later."""

    def read(self, name: str, limit: int) -> bytes | None:
        return None


class SpoolContract(abc.ABC):
    """Give an empty shelf."""

    @abc.abstractmethod
    def shelf(self) -> Shelf:
        """The same shelf each time, as another process would open it."""

    @pytest.fixture(autouse=True)
    def _spool(self) -> None:
        self.spool = Spool(self.shelf())

    def test_check(self) -> None:
        self.spool.check()
        assert list(self.shelf().names("")) == []

    @pytest.mark.parametrize("kind", [Careless, Racing, Late])
    def test_a_place_that_cannot_be_a_spool_is_refused(self, kind: type[Wrapped]) -> None:
        with pytest.raises(errors.SettingsError, match=r"spool\.url"):
            Spool(kind(self.shelf())).check()
        assert list(self.shelf().names("")) == []

    def test_nothing_there(self) -> None:
        assert (self.spool.plan(ONE), self.spool.started(ONE), self.spool.report(ONE), self.spool.tail(ONE)) == (None, None, None, None)
        assert self.spool.attempts() == set()
        self.spool.sweep(ONE)

    def test_plans_and_reports_come_back_as_they_were(self) -> None:
        plan = plan_of(ONE, "tür" * 500_000)
        self.spool.put_plan(ONE, plan)
        self.spool.put_plan(ONE, plan)
        report = Report(code="OOM", message="日本\n", notices=("a",) * 10_000, start_time=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
        self.spool.put_report(ONE, report)
        other = Spool(self.shelf())
        assert other.plan(ONE) == plan
        assert other.report(ONE) == report
        assert (other.plan(TWO), other.report(TWO)) == (None, None)

    def test_live_output_is_what_was_told_last(self) -> None:
        for text in ("one\n", "one\ntwo 日本\n"):
            tails = Tails(1, (ExecutorLog(stdout=text, stderr=""), ExecutorLog(stdout="", stderr="x" * 20_000)))
            self.spool.put_tail(ONE, tails)
            assert Spool(self.shelf()).tail(ONE) == tails
        assert self.spool.tail(TWO) is None
        assert self.spool.attempts() == {ONE}

    def test_one_of_many_takes_an_attempt(self) -> None:
        spools = [Spool(self.shelf()) for _ in range(12)]
        ready = threading.Barrier(len(spools))

        def take(number: int) -> bool:
            ready.wait(10)
            return spools[number].take(ONE, f"run-{number}")

        with ThreadPoolExecutor(len(spools)) as pool:
            wins = list(pool.map(take, range(len(spools))))
        assert sum(wins) == 1
        winner = f"run-{wins.index(True)}"
        started = self.spool.started(ONE)
        assert started is not None
        assert started.run == winner
        assert self.spool.take(ONE, winner)
        assert not self.spool.take(ONE, "another")
        assert self.spool.take(TWO, "another")

    def test_whoever_took_it_took_it_though_the_answer_was_lost(self) -> None:
        assert Spool(Forgetful(self.shelf())).take(ONE, "run-a")
        assert not Spool(Forgetful(self.shelf())).take(ONE, "run-b")

    def test_a_report_is_never_seen_in_part(self) -> None:
        reports = [Report(message=str(size) * size) for size in (1, 400_000)]
        self.spool.put_report(ONE, reports[0])
        done = threading.Event()
        seen: set[int] = set()

        def look() -> None:
            reader = Spool(self.shelf())
            while not done.is_set():
                found = reader.report(ONE)
                assert found in reports
                seen.add(reports.index(found))

        with ThreadPoolExecutor(2) as pool:
            looks = [pool.submit(look) for _ in range(2)]
            try:
                for report in reports * 5:
                    self.spool.put_report(ONE, report)
            finally:
                done.set()
            for one in looks:
                one.result()
        assert seen

    @pytest.mark.parametrize("data", [b"", b"{", b'{"run": 5}', b"null", b"\xff", b'{"run": "\xff"}', b'{"x": ' + b"[" * 100_000, b'{"run": "a"'])
    def test_what_is_spoiled_counts_as_missing_and_as_taken(self, data: bytes) -> None:
        for what in ("plan", "started", "report", "tail"):
            self.shelf().write(f"task-1/1/{what}.json", data)
        assert (self.spool.plan(ONE), self.spool.started(ONE), self.spool.tail(ONE)) == (None, None, None)
        assert not self.spool.take(ONE, "a")
        # An object without fields is a report, if a strange one.
        assert self.spool.report(ONE) in (None, Report())

    def test_what_is_too_large_counts_as_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spool.put_report(ONE, Report(message="x" * 1000))
        monkeypatch.setattr(spool, "LARGEST", 100)
        assert self.spool.report(ONE) is None

    def test_sweep(self) -> None:
        for attempt in (ONE, TWO, Attempt("task-10", 1)):
            self.spool.put_plan(attempt, plan_of(attempt))
            assert self.spool.take(attempt, "run")
        self.spool.put_tail(ONE, Tails(1))
        self.spool.put_report(ONE, Report())
        assert self.spool.attempts() == {ONE, TWO, Attempt("task-10", 1)}
        assert self.spool.attempts("task-1") == {ONE, TWO}
        self.spool.sweep(ONE)
        self.spool.sweep(ONE)
        assert self.spool.attempts() == {TWO, Attempt("task-10", 1)}
        assert (self.spool.plan(ONE), self.spool.started(ONE), self.spool.report(ONE), self.spool.tail(ONE)) == (None, None, None, None)
        assert self.spool.plan(TWO) is not None
        for attempt in (TWO, Attempt("task-10", 1)):
            self.spool.sweep(attempt)
        assert list(self.shelf().names("")) == []

    def test_a_run_that_comes_after_the_sweep_finds_nothing_to_do(self) -> None:
        self.spool.put_plan(ONE, plan_of(ONE))
        self.spool.sweep(ONE)
        assert self.spool.take(ONE, "late")
        assert self.spool.plan(ONE) is None

    def test_what_was_withdrawn_nobody_begins(self) -> None:
        """Who has begun it is known all the same, and may report."""
        self.spool.put_plan(ONE, plan_of(ONE))
        self.spool.withdraw(ONE)
        self.spool.withdraw(ONE)
        assert self.spool.plan(ONE) is None
        assert self.spool.take(ONE, "run")
        self.spool.put_report(ONE, Report())
        self.spool.withdraw(ONE)
        assert (self.spool.started(ONE), self.spool.report(ONE)) == (spool.Started("run"), Report())

    @pytest.mark.parametrize("task", ["", "..", "a/b", "/a", ".hidden", "a\n", "a" * 200])
    def test_names_that_could_lead_elsewhere(self, task: str) -> None:
        with pytest.raises(ValueError, match="no attempt has the name"):
            self.spool.report(Attempt(task, 1))
        with pytest.raises(ValueError, match="no attempt has the name"):
            self.spool.report(Attempt("task", 0))

    def test_strangers_beside_it_are_left_alone(self) -> None:
        self.shelf().write("task-1/notes.json", b"x")
        self.shelf().write("task-1/1/other.json", b"x")
        self.spool.put_plan(ONE, plan_of(ONE))
        assert self.spool.attempts() == {ONE}
        self.spool.sweep(ONE)
        assert set(self.shelf().names("")) == {"task-1/notes.json", "task-1/1/other.json"}
