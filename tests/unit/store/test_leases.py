"""Who owns which shard: never two at once, however clocks, pauses and lost answers fall; and in the end everything is somebody's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tes_server import errors
from tes_server.model import record as model
from tes_server.store import leases

LEASE = 20.0
MEMBERS = 4


class World:
    """One board, one time, and members whose clocks show anything but go equally fast. `fault` befalls the next swap."""

    def __init__(self, offsets: list[float]) -> None:
        self.time = 1000.0
        self.board = leases.Board()
        self.fault = ""
        self.meanwhile: Callable[[], None] | None = None
        self.writes = 0
        self.members = [leases.Leases(self, LEASE, lambda offset=offset: self.time + offset) for offset in offsets]  # type: ignore[misc]

    def read(self) -> leases.Board:
        if self.fault == "away":
            raise errors.Unavailable("away")
        return self.board

    def swap(self, before: leases.Board, after: leases.Board) -> bool:
        fault, self.fault = self.fault, ""
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        if fault == "lost before":
            raise errors.Unavailable("lost")
        self.writes += 1
        made = self.board.revision == before.revision
        if made:
            self.board = after
        if fault == "lost after":
            raise errors.Unavailable("lost")
        return made

    def hold(self, number: int) -> frozenset[int]:
        try:
            return self.members[number].hold(f"host:{number}")
        except errors.Unavailable:
            return frozenset()

    def trusted(self, number: int) -> frozenset[int]:
        member = self.members[number]
        return member._mine if member._trusted() else frozenset()

    def check(self) -> None:
        owned = [shard for number in range(len(self.members)) for shard in self.trusted(number)]
        assert len(owned) == len(set(owned)), "a shard is trusted by two"


STEPS = st.lists(
    st.tuples(
        st.integers(0, MEMBERS - 1),
        st.sampled_from([0.0, 0.1, 1.0, 4.9, 5.1, 14.9, 15.1, 20.1, 45.0]),
        st.sampled_from(["", "", "", "lost before", "lost after", "away", "meanwhile"]),
        st.integers(0, MEMBERS - 1),
        st.sampled_from([0.0, 5.0, 21.0]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=MEMBERS, max_size=MEMBERS), STEPS)
def test_no_shard_is_trusted_by_two(offsets: list[float], steps: list[tuple[int, float, str, int, float]]) -> None:
    world = World(offsets)
    for number, seconds, fault, other, pause in steps:
        world.time += seconds
        if fault == "meanwhile":
            # Stopped between its read and its swap, for `pause`, while another has its turn.
            def turn(other: int = other, pause: float = pause) -> None:
                world.time += pause
                world.hold(other)
                world.check()

            world.meanwhile = turn if other != number else None
        else:
            world.fault = fault
        world.hold(number)
        world.fault = ""
        world.check()
    for _ in range(4 * leases.RENEWALS):
        world.time += LEASE / leases.RENEWALS
        for number in range(MEMBERS):
            world.hold(number)
            world.check()
    assert [len(world.trusted(number)) for number in range(MEMBERS)] == [model.SHARDS // MEMBERS] * MEMBERS


def test_one_alone_has_all_and_writes_rarely() -> None:
    world = World([0.0])
    assert world.hold(0) == model.ALL_SHARDS
    for _ in range(100):
        world.time += 0.01
        assert world.hold(0) == model.ALL_SHARDS
    assert world.writes == 1
    world.time += LEASE / leases.RENEWALS
    world.hold(0)
    assert world.writes == 2


def test_who_comes_gets_a_fair_share_and_nothing_else_moves() -> None:
    world = World([0.0, 5e5, -7.0])
    world.hold(0)
    assert world.hold(1) == frozenset()
    world.time += 5
    first = world.hold(0)
    assert len(first) == 32
    assert world.hold(1) == model.ALL_SHARDS - first
    assert world.hold(2) == frozenset()
    world.time += 5
    assert world.hold(0) < first
    world.hold(1)
    assert len(world.hold(2)) == 64 - len(world.trusted(0)) - len(world.trusted(1)) > 20


def test_who_leaves_is_replaced_at_once_and_who_is_silent_after_a_lease() -> None:
    world = World([0.0, 0.0])
    world.hold(0)
    world.hold(1)
    world.members[0].leave()
    assert world.hold(1) == model.ALL_SHARDS
    world.time += 5
    world.hold(0)
    world.hold(1)
    assert len(world.hold(0)) == 32
    for _ in range(4):  # the first one is stopped
        world.time += 5.1
        assert len(world.hold(1)) == 32
    world.time += 5.1
    assert world.hold(1) == model.ALL_SHARDS
    assert world.trusted(0) == frozenset()
    assert world.hold(0) == frozenset(), "it has to wait for its share as anybody who comes"


def test_a_name_is_one_living_process() -> None:
    """Killed and started anew it does not wait for its own lease."""
    world = World([0.0, 0.0])
    world.hold(0)
    world.hold(1)
    world.time += 5
    world.hold(0)
    mine = world.hold(1)
    assert len(mine) == 32
    world.members[1] = leases.Leases(world, LEASE, lambda: world.time)
    world.time += 1
    assert len(world.hold(1)) == 32
    assert len(world.board.members) == 2


def test_a_store_that_is_away_takes_the_work_away_after_a_while() -> None:
    world = World([0.0])
    world.hold(0)
    world.time += 10
    world.fault = "away"
    assert world.members[0].hold("a") == model.ALL_SHARDS, "it may still trust what it has"
    world.time += 5
    with pytest.raises(errors.Unavailable):
        world.members[0].hold("a")
    world.fault = ""
    assert world.members[0].hold("a") == model.ALL_SHARDS


def test_what_a_lost_answer_may_have_given_up_is_not_trusted() -> None:
    world = World([0.0, 0.0])
    world.hold(0)
    world.hold(1)
    world.time += 5
    world.fault = "lost after"
    kept = world.hold(0)
    assert len(kept) == 32
    assert world.hold(1) == model.ALL_SHARDS - kept


def test_a_copy_of_a_data_directory_gets_nothing_while_the_other_one_is_at_work() -> None:
    """The name of a place is kept in its directory: a copy, or one that two machines mount, bears it twice."""
    world = World([0.0])
    copy = leases.Leases(world, LEASE, lambda: world.time, "another seat")
    assert world.hold(0) == model.ALL_SHARDS
    for _ in range(8):
        world.time += 5
        assert world.hold(0) == model.ALL_SHARDS
        with pytest.raises(errors.NameTaken, match="place"):
            copy.hold("host:0")
    for _ in range(3):  # the first one is stopped
        world.time += 5.5
        with pytest.raises(errors.Unavailable):
            copy.hold("host:0")
    world.time += 5.5
    assert copy.hold("host:0") == model.ALL_SHARDS
    with pytest.raises(errors.Unavailable):
        world.members[0].hold("host:0")
    assert copy.hold("host:0") == model.ALL_SHARDS
