"""Threads that work off a bounded queue."""

from __future__ import annotations

import functools
import threading

import pytest

from tes_server import errors
from tes_server.filer.control import Control
from tes_server.filer.crew import BATCH, SMALL, Batches, Crew


class Sized:
    def __init__(self, size: int) -> None:
        self.size = size


def test_all_jobs_are_done_at_the_end() -> None:
    done: list[int] = []
    with Crew(Control(lambda: False), 3, "test") as crew:
        for number in range(100):
            crew.submit(functools.partial(done.append, number))
    assert sorted(done) == list(range(100))


def test_queue_is_bounded() -> None:
    gate, submitted = threading.Event(), list[int]()
    with Crew(Control(lambda: False), 2, "test") as crew:

        def wait() -> None:
            assert gate.wait(5)

        def fill() -> None:
            for number in range(10):
                crew.submit(wait)
                submitted.append(number)

        thread = threading.Thread(target=fill)
        thread.start()
        thread.join(0.3)
        assert len(submitted) == 4
        gate.set()
        thread.join()


def test_first_failure_ends_all() -> None:
    control = Control(lambda: False)
    begun = threading.Barrier(3)

    def fails() -> None:
        begun.wait(5)
        raise ValueError("first")

    def waits() -> None:
        begun.wait(5)
        control.pause(30)

    def run() -> None:
        with Crew(control, 3, "test") as crew:
            for job in (waits, fails, waits):
                crew.submit(job)

    with pytest.raises(ValueError, match="first"):
        run()
    assert control.stopped()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]


def test_stop_is_seen_while_waiting() -> None:
    stop = threading.Event()
    control = Control(stop.is_set)
    woken: list[bool] = []
    control.on_end(lambda: woken.append(True))

    def run() -> None:
        with Crew(control, 1, "test") as crew:
            crew.submit(functools.partial(control.pause, 30))
            stop.set()
            crew.drain()

    with pytest.raises(errors.Canceled):
        run()
    assert woken == [True]


def test_error_of_the_caller_ends_the_jobs() -> None:
    control = Control(lambda: False)

    def run() -> None:
        with Crew(control, 1, "test") as crew:
            crew.submit(functools.partial(control.pause, 30))
            raise KeyError

    with pytest.raises(KeyError):
        run()


def test_part_of_the_work_stops_alone() -> None:
    stop = threading.Event()
    whole = Control(stop.is_set)
    part, other = whole.below(), whole.below()
    part.end()
    assert (part.stopped(), other.stopped(), whole.stopped()) == (True, False, False)
    whole.end()
    assert other.stopped()


def test_batches() -> None:
    batches: list[list[int]] = []
    sizes = [0, SMALL, SMALL + 1, -1, *[1] * BATCH]
    with Crew(Control(lambda: False), 1, "test") as crew:
        gathered = Batches[Sized](crew, lambda files: batches.append([file.size for file in files]))
        for size in sizes:
            gathered.add(Sized(size))
        gathered.flush()
        gathered.flush()
    assert batches == [[SMALL + 1], [-1], [0, SMALL, *[1] * (BATCH - 2)], [1, 1]]
