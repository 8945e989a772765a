"""Token buckets: a minute's worth at once, then one at a time, each owner's own."""

from tes_server.control import rates
from tes_server.control.rates import Rates


def test_a_minutes_worth_and_then_one_at_a_time() -> None:
    bucket = Rates(30)
    assert [bucket.take("a", 100.0) for _ in range(30)] == [0.0] * 30
    assert bucket.take("a", 100.0) == 2.0
    assert bucket.take("a", 101.5) == 0.5
    assert bucket.take("a", 102.0) == 0.0
    assert bucket.take("a", 102.0) == 2.0
    assert [bucket.take("a", 500.0) for _ in range(31)].count(0.0) == 30


def test_who_keeps_asking_is_not_held_longer() -> None:
    bucket = Rates(60)
    taken = sum(not bucket.take("a", tick / 10) for tick in range(600))
    assert 60 + 59 <= taken <= 60 + 60


def test_owners_are_apart_and_a_clock_that_stands_still_does_no_harm() -> None:
    bucket = Rates(1)
    assert bucket.take("a", 5.0) == 0.0
    assert bucket.take("b", 5.0) == 0.0
    assert bucket.take("a", 5.0) == 60.0
    assert bucket.take("a", 4.0) == 60.0


def test_memory_is_bounded() -> None:
    bucket = Rates(1)
    for number in range(rates.MOST + 10):
        bucket.take(str(number), 1.0)
    assert len(bucket._left) == rates.MOST
