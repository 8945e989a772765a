"""The writer thread: groups, failures that stay where they belong, and futures that tell the truth."""

from __future__ import annotations

import concurrent.futures
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence

import pytest

from tes_server import errors
from tes_server.store import sqlite_peers, sqlite_schema, sqlite_writer


class Bench:
    """A writer whose ops are texts that are kept in a table; `bad` raises, `refused` fails by itself, `disk` is a disk error."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.turn = sqlite_peers.Turn(path.with_suffix(".lock"))
        self.others = sqlite_peers.Turn(path.with_suffix(".lock"))
        self.commits: list[list[str]] = []
        self.disk_is_full = False
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE kept (op TEXT)")
        connection.close()
        self.writer: sqlite_writer.Writer[str] = sqlite_writer.Writer(lambda: sqlite_schema.writer(path), self.turn, self.apply, self.committed)

    def apply(self, connection: sqlite3.Connection, ops: Sequence[str]) -> list[object]:
        if self.disk_is_full:
            connection.execute("PRAGMA max_page_count = 1")
            connection.executemany("INSERT INTO kept VALUES (?)", [("x" * 100_000,)])
        outcomes: list[object] = []
        for op in ops:
            connection.execute("INSERT INTO kept VALUES (?)", (op,))
            if op == "bad":
                raise RuntimeError(op)
            outcomes.append(errors.Conflict(op) if op == "refused" else op.upper())
        return outcomes

    def committed(self, ops: Sequence[str]) -> None:
        self.commits.append(list(ops))

    def together(self, *ops: str) -> list[concurrent.futures.Future[str]]:
        """Submit ops while another process has the turn, so that they meet in one group."""
        with self.others:
            return [self.writer.submit(op) for op in ops]

    def kept(self) -> list[str]:
        connection = sqlite3.connect(self.path)
        found = [row[0] for row in connection.execute("SELECT op FROM kept ORDER BY rowid")]
        connection.close()
        return found


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "bench.db")
    yield made
    made.writer.close()
    made.turn.close()
    made.others.close()


def test_what_waits_is_one_commit(bench: Bench) -> None:
    assert [call.result() for call in bench.together(*"abcdef")] == list("ABCDEF")
    assert [op for commit in bench.commits for op in commit] == bench.kept() == list("abcdef")
    assert len(bench.commits) == 1


def test_after_a_crowd_the_next_ones_are_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "PAUSE", 0.2)
    monkeypatch.setattr(sqlite_writer, "LONGEST_PAUSE", 2.0)
    concurrent.futures.wait(bench.together(*"abcd"))
    first, second = bench.writer.submit("e"), bench.writer.submit("f")
    assert (first.result(10), second.result(10)) == ("E", "F")
    assert bench.commits == [list("abcd"), list("ef")]


def test_a_caller_by_itself_does_not_wait_for_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "PAUSE", 60.0)
    monkeypatch.setattr(sqlite_writer, "LONGEST_PAUSE", 600.0)
    assert [bench.writer.submit(op).result(10) for op in "abc"] == list("ABC")


def test_nothing_is_written_out_of_turn(bench: Bench) -> None:
    with bench.others:
        call = bench.writer.submit("a")
        with pytest.raises(concurrent.futures.TimeoutError):
            call.result(0.1)
        assert bench.kept() == []
    assert call.result(10) == "A"


def test_an_outcome_that_is_an_error_fails_its_op_alone(bench: Bench) -> None:
    first, refused, last = bench.together("a", "refused", "b")
    assert (first.result(), last.result()) == ("A", "B")
    with pytest.raises(errors.Conflict):
        refused.result()
    assert len(bench.commits) == 1


def test_an_op_that_breaks_the_transaction_fails_alone_and_leaves_nothing(bench: Bench) -> None:
    first, bad, last = bench.together("a", "bad", "b")
    assert (first.result(), last.result()) == ("A", "B")
    with pytest.raises(RuntimeError):
        bad.result()
    assert bench.kept() == ["a", "b"]


def test_a_full_disk_fails_the_group_and_the_next_one_works(bench: Bench) -> None:
    bench.disk_is_full = True
    for call in bench.together("a", "b"):
        with pytest.raises(errors.Unavailable, match="full"):
            call.result()
    assert bench.kept() == []
    bench.disk_is_full = False
    assert bench.writer.submit("c").result() == "C"
    assert bench.kept() == ["c"]


def test_who_gave_up_before_the_turn_is_not_written(bench: Bench) -> None:
    with bench.others:
        running = bench.writer.submit("a")
        given_up = bench.writer.submit("b")
        assert given_up.cancel()
        last = bench.writer.submit("c")
    assert (running.result(), last.result()) == ("A", "C")
    assert bench.kept() == ["a", "c"]


def test_a_future_is_done_only_after_the_commit(bench: Bench) -> None:
    seen = threading.Event()
    at_commit: list[list[str]] = []

    def look(_: concurrent.futures.Future[str]) -> None:
        at_commit.append(bench.kept())
        seen.set()

    with bench.others:
        bench.writer.submit("a").add_done_callback(look)
    assert seen.wait(10)
    assert at_commit == [["a"]]


def test_close_writes_what_waits_and_takes_no_more(bench: Bench) -> None:
    calls = [bench.writer.submit(str(number)) for number in range(sqlite_writer.GROUP * 2)]
    bench.writer.close()
    assert [call.result() for call in calls] == [str(number) for number in range(sqlite_writer.GROUP * 2)]
    assert max(map(len, bench.commits)) <= sqlite_writer.GROUP
    with pytest.raises(errors.Unavailable):
        bench.writer.submit("late")
    bench.writer.close()
