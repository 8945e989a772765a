"""How long a runner waits, and what cuts it short."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tes_server import errors
from tes_server.runner import node_wait
from tes_server.runner.node_wait import Wait


def away(times: int, after: threading.Event | None = None) -> Callable[[], str]:
    left = [times]

    def call() -> str:
        if left[0]:
            left[0] -= 1
            if after is not None:
                after.set()
            raise errors.Unavailable(f"away, {left[0]} left")
        return "there"

    return call


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_wait, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(node_wait, "POLL", 0.001)


def test_it_asks_until_it_is_there() -> None:
    assert Wait(threading.Event(), 60).ask(away(5)) == "there"


def test_patience_ends() -> None:
    with pytest.raises(errors.Unavailable, match="away"):
        Wait(threading.Event(), 0.02).ask(away(10**9))


def test_stop_ends_it_at_once() -> None:
    stop = threading.Event()
    with pytest.raises(errors.Unavailable):
        Wait(stop, 3600).ask(away(10**9, stop))


def test_stop_leaves_a_farewell() -> None:
    stop = threading.Event()
    stop.set()
    assert Wait(stop, 3600, 60).ask(away(3)) == "there"
    began = time.monotonic()
    with pytest.raises(errors.Unavailable):
        Wait(stop, 3600, 0.05).ask(away(10**9))
    assert time.monotonic() - began < 30


def test_what_is_free_in_a_moment() -> None:
    answers = iter([None, None, "mine"])
    assert Wait(threading.Event(), 60).until(lambda: next(answers), "somebody has it") == "mine"
    with pytest.raises(errors.Unavailable, match="somebody has it"):
        Wait(threading.Event(), 0).until(lambda: None, "somebody has it")
