"""When the queue is worth another look."""

from __future__ import annotations

import datetime

import msgspec

from tes_server.control.congestion import RELOOK, Congestion
from tes_server.model.run import Room

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FULL = {"local": Room(cpus=0, ram_bytes=0, disk_bytes=0, total_cpus=2, total_ram_bytes=1, total_disk_bytes=1)}
FREE = {"local": msgspec.structs.replace(FULL["local"], cpus=1)}
SOON = NOW + RELOOK / 2


def looked(started: int, waiting: int) -> Congestion:
    made = Congestion()
    made.looked(FULL, started, waiting, NOW)
    return made


def test_a_look_that_started_nothing_is_not_repeated_at_once() -> None:
    assert looked(started=0, waiting=5).lasts(FULL, SOON)


def test_it_is_repeated_after_a_moment_although_nothing_ended() -> None:
    assert not looked(started=0, waiting=5).lasts(FULL, NOW + RELOOK)


def test_it_is_repeated_after_the_clock_was_set_back() -> None:
    assert not looked(started=0, waiting=5).lasts(FULL, NOW - 10 * RELOOK)


def test_it_is_repeated_as_soon_as_something_ended() -> None:
    assert not looked(started=0, waiting=5).lasts(FREE, SOON)


def test_an_empty_queue_and_one_that_moves_are_always_worth_a_look() -> None:
    assert not Congestion().lasts(FULL, NOW)
    assert not looked(started=0, waiting=0).lasts(FULL, SOON)
    assert not looked(started=3, waiting=5).lasts(FULL, SOON)


def test_nobody_sleeps_through_the_next_look() -> None:
    assert looked(started=0, waiting=5).sleep(1.0, NOW) == RELOOK.total_seconds()
    assert looked(started=0, waiting=5).sleep(1.0, NOW + 2 * RELOOK) == 1.0, "a look that failed must not be repeated without a pause"
    assert looked(started=1, waiting=5).sleep(1.0, NOW) == 1.0
