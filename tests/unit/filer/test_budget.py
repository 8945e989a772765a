"""A bound on memory: in turn, given back, and left by who is stopped."""

from __future__ import annotations

import threading

import pytest

from tes_server import errors
from tes_server.filer.budget import Budget
from tes_server.filer.control import Control

GO = Control(lambda: False)


def test_never_more_than_there_is_and_in_turn() -> None:
    budget = Budget(10)
    lock, held, most = threading.Lock(), 0, 0

    def work(wish: int) -> None:
        nonlocal held, most
        for _ in range(50):
            with budget.taken(wish, GO):
                with lock:
                    held += wish
                    most = max(most, held)
                with lock:
                    held -= wish

    threads = [threading.Thread(target=work, args=(wish,)) for wish in (1, 3, 4, 9, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert (held, most <= 10) == (0, True)


def test_a_wish_for_more_than_all_gets_all() -> None:
    budget = Budget(10)
    with budget.taken(11, GO):
        pass
    with budget.taken(10, GO):
        pass


def test_who_is_stopped_leaves_the_line() -> None:
    budget = Budget(10)
    with budget.taken(8, GO):
        with pytest.raises(errors.Canceled), budget.taken(3, Control(lambda: True)):
            pass
        with budget.taken(2, GO):
            pass


def test_a_failure_gives_back() -> None:
    budget = Budget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), budget.taken(10, GO):
            raise ValueError("x")
