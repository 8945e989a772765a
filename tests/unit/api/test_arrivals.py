"""Results of other threads reach the event loop, each one and in few wake-ups."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVarTuple

import pytest

from tes_server.api.arrivals import Arrivals

Ts = TypeVarTuple("Ts")


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the rings of other threads."""

    rings = 0

    def call_soon_threadsafe(self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None) -> asyncio.Handle:
        self.rings += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def made(count: int) -> list[concurrent.futures.Future[int]]:
    return [concurrent.futures.Future() for _ in range(count)]


def test_results_of_one_moment_wake_the_loop_once() -> None:
    async def waiting() -> tuple[list[int], int]:
        loop, arrivals, outcomes = asyncio.get_running_loop(), Arrivals(), made(100)
        assert isinstance(loop, CountingLoop)
        answers = [asyncio.ensure_future(arrivals.of(outcome)) for outcome in outcomes]
        await asyncio.sleep(0)
        for number, outcome in enumerate(outcomes):
            outcome.set_result(number)
        return await asyncio.gather(*answers), loop.rings

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        answers, rings = runner.run(waiting())
    assert answers == list(range(100))
    assert rings == 1


def test_none_is_lost_between_threads_that_come_at_any_time() -> None:
    async def waiting() -> list[int]:
        arrivals, outcomes = Arrivals(), made(4000)
        threads = [threading.Thread(target=settle, args=(outcomes[start::4], start)) for start in range(4)]
        for thread in threads:
            thread.start()
        try:
            return await asyncio.gather(*(arrivals.of(outcome) for outcome in outcomes))
        finally:
            for thread in threads:
                thread.join()

    def settle(mine: list[concurrent.futures.Future[int]], start: int) -> None:
        for number, outcome in enumerate(mine):
            outcome.set_result(number * 4 + start)

    assert asyncio.run(asyncio.wait_for(waiting(), 30)) == list(range(4000))


def test_a_failure_is_raised_and_who_left_is_not_missed() -> None:
    async def waiting() -> None:
        arrivals, (left, failed) = Arrivals(), made(2)
        gone = asyncio.ensure_future(arrivals.of(left))
        await asyncio.sleep(0)
        gone.cancel()
        left.set_result(1)
        failed.set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await arrivals.of(failed)
        assert not left.cancelled()

    asyncio.run(waiting())
