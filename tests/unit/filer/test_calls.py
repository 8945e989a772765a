"""Asynchronous calls from threads: answered, stopped, and nothing kept."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.filer import calls
from tes_server.filer.control import Control

GO = Control(lambda: False)


class Answer:
    pass


async def answered() -> Answer:
    await asyncio.sleep(0)
    return Answer()


async def failing() -> None:
    raise ValueError("its own")


@pytest.fixture
def by_hand() -> Iterator[None]:
    """No garbage collection: what is freed is freed by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_answers_and_errors() -> None:
    assert isinstance(calls.run(answered(), GO), Answer)
    with pytest.raises(ValueError, match="its own"):
        calls.run(failing(), GO)


@pytest.mark.usefixtures("by_hand")
def test_an_answer_is_kept_by_nobody_else() -> None:
    answer = calls.run(answered(), GO)
    kept = weakref.ref(answer)
    del answer
    assert kept() is None


def test_a_stopped_call_is_cancelled() -> None:
    ended = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(errors.Canceled):
        calls.run(waits(), Control(lambda: True))
    assert ended.is_set()


@pytest.mark.parametrize(("farewell", "error"), [(0.0, errors.Canceled), (60.0, errors.StagingError)])
def test_a_call_that_knows_by_itself_has_time_to_end(farewell: float, error: type[Exception]) -> None:
    stopped = threading.Event()

    def look() -> bool:
        stopped.set()
        return True

    async def ends() -> None:
        while not stopped.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the abort of an upload
        raise errors.StagingError("aborted", "OUTPUT_ERROR")

    with pytest.raises(error):
        calls.run(ends(), Control(look), farewell)


def test_no_thread_and_no_loop_is_left() -> None:
    before = threading.active_count()
    loops = len(calls._idle)
    for _ in range(3):
        calls.run(answered(), GO)
    assert (threading.active_count(), len(calls._idle)) == (before, max(loops, 1))
