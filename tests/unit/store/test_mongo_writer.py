"""Groups of inserts: whose patience counts from when, and what becomes of whom when the store does not answer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tes_server import errors
from tes_server.store import base, mongo_writer

PATIENCE = 8.0


class Bench:
    """A writer of texts. Calls wait at the gate; what `answers` says then happens to each call in turn, else all goes well."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[list[str]] = []
        self.asked: list[float | None] = []
        self.answers: list[Callable[[], None]] = []
        self.lost: list[str] = []
        self.writer: mongo_writer.Writer[str] = mongo_writer.Writer(self.apply, lambda asked: asked + PATIENCE, self.lost.extend)

    def apply(self, ops: Sequence[str]) -> list[BaseException | None]:
        self.gate.wait(20)
        self.calls.append(list(ops))
        self.asked.append(base.asked.get())
        if self.answers:
            self.answers.pop(0)()
        if "bad" in ops:
            raise RuntimeError("bad")
        return [errors.Conflict(op) if op == "refused" else None for op in ops]

    def away(self) -> None:
        raise errors.Unavailable("away")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(mongo_writer, "THREADS", 1)
    made = Bench()
    yield made
    made.gate.set()
    made.writer.close()


@contextlib.contextmanager
def asked(ago: float) -> Iterator[None]:
    token = base.asked.set(time.monotonic() - ago)
    yield
    base.asked.reset(token)


def test_what_comes_meanwhile_is_one_call(bench: Bench) -> None:
    first = bench.writer.submit("a")
    while not bench.writer._jobs.empty():
        time.sleep(0.001)
    futures = [bench.writer.submit(op) for op in ("b", "refused", "c")]
    bench.gate.set()
    assert first.result(20) is None
    assert [type(future.exception(20)) for future in futures] == [type(None), errors.Conflict, type(None)]
    assert bench.calls == [["a"], ["b", "refused", "c"]]


def test_one_that_breaks_fails_alone(bench: Bench) -> None:
    bench.writer.submit("a")
    while not bench.writer._jobs.empty():
        time.sleep(0.001)
    futures = [bench.writer.submit(op) for op in ("b", "bad")]
    bench.gate.set()
    assert [type(future.exception(20)) for future in futures] == [type(None), RuntimeError]


def test_a_group_waits_as_its_first_caller_and_the_others_go_on(bench: Bench) -> None:
    bench.answers = [lambda: None, bench.away]
    bench.writer.submit("a")
    while not bench.writer._jobs.empty():
        time.sleep(0.001)
    late = bench.writer.submit("young")
    with asked(PATIENCE):
        old = bench.writer.submit("old")
    bench.gate.set()
    assert isinstance(old.exception(20), errors.Unavailable)
    assert late.result(20) is None
    assert bench.calls == [["a"], ["young", "old"], ["young"]]
    assert bench.lost == ["old"]
    assert bench.asked[1] is not None
    assert bench.asked[1] < time.monotonic() - PATIENCE


def test_what_another_try_would_meet_again_fails_all(bench: Bench) -> None:
    bench.answers = [bench.away]
    bench.gate.set()
    assert isinstance(bench.writer.submit("a").exception(20), errors.Unavailable)
    assert bench.lost == ["a"]


def test_a_refusal_is_for_the_one_it_is_for(bench: Bench) -> None:
    bench.answers = [lambda: None, bench.away, lambda: None, bench.away]
    bench.writer.submit("a")
    while not bench.writer._jobs.empty():
        time.sleep(0.001)
    futures = [bench.writer.submit(op) for op in ("b", "poison")]
    bench.gate.set()
    assert [type(future.exception(20)) for future in futures] == [type(None), errors.Unavailable]
    assert bench.calls == [["a"], ["b", "poison"], ["b"], ["poison"]]
    assert bench.lost == ["poison"]


def test_a_caller_who_went_before_its_turn_is_left_out(bench: Bench) -> None:
    first = bench.writer.submit("a")
    while not bench.writer._jobs.empty():
        time.sleep(0.001)
    assert bench.writer.submit("b").cancel()
    bench.gate.set()
    first.result(20)
    bench.writer.close()
    assert bench.calls == [["a"]]


def test_closed_is_closed_also_for_those_who_would_wait(bench: Bench) -> None:
    bench.answers = [bench.away]
    with asked(PATIENCE):
        old = bench.writer.submit("old")
    young = bench.writer.submit("young")
    closing = threading.Thread(target=bench.writer.close)
    closing.start()
    while not bench.writer._closed:
        time.sleep(0.001)
    bench.gate.set()
    closing.join(20)
    assert isinstance(old.exception(0), errors.Unavailable)
    assert young.done()
    with pytest.raises(errors.Unavailable):
        bench.writer.submit("late")
