"""Who works on which shards: one small board that every reconciler renews, and takes over in, by compare-and-swap.

A renewal gives its member a beat that no other ever had, the board's revision. Whoever sees a beat stand still for a lease
of its own monotonic clock takes the member for dead and its shards; a member trusts its shards for less than a lease from
before it sent its last renewal.
Both are one board, so a renewal and a take-over never both succeed, and no clock of one machine is compared with another's.
A name is one process's at a time: where two live ones bear it (a data directory was copied), the later one is refused everything.
Must never know where the board is kept (`mongo_leases`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from tes_server import errors
from tes_server.model import record as model

LEASE = 20.0
"""Seconds. Shorter than a platform's slowest call and reconcilers lose their work in the midst of it, longer and a dead one's work waits."""

RENEWALS = 4
"""Renewals in the length of a lease: some may fail."""

TRUST = 0.75
"""Part of a lease for which a member trusts its shards: the rest is for what it began with them."""

TRIES = 10
"""A member that loses so many races in a row has met a fault."""


def steady() -> float:
    """Seconds of a clock that nobody sets and that goes on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Board(msgspec.Struct, frozen=True):
    """Each member's beat, and each shard's owner ("" = nobody's)."""

    revision: int = 0
    members: Mapping[str, int] = {}
    owners: tuple[str, ...] = ("",) * model.SHARDS

    def of(self, member: str) -> frozenset[int]:
        """The shards of a member."""
        return frozenset(shard for shard, owner in enumerate(self.owners) if owner == member)


def renewed(board: Board, me: str, dead: frozenset[str]) -> Board:
    """The board after a turn of `me`: a new beat, the dead struck out, what exceeds my share given up, what is free taken up to it."""
    members = {member: beat for member, beat in board.members.items() if member not in dead and member != me}
    members[me] = board.revision + 1
    owners = [owner if owner in members else "" for owner in board.owners]
    share = _share(sorted(members), me)
    mine = [shard for shard, owner in enumerate(owners) if owner == me]
    for shard in mine[share:]:
        owners[shard] = ""
    free = (shard for shard, owner in enumerate(owners) if not owner)
    for shard in [shard for _, shard in zip(range(share - len(mine)), free, strict=False)]:
        owners[shard] = me
    return Board(board.revision + 1, members, tuple(owners))


def without(board: Board, me: str) -> Board:
    """The board after `me` left."""
    members = {member: beat for member, beat in board.members.items() if member != me}
    return Board(board.revision + 1, members, tuple("" if owner == me else owner for owner in board.owners))


def _share(members: list[str], me: str) -> int:
    most, more = divmod(model.SHARDS, len(members))
    return most + (members.index(me) < more)


class Shelf(Protocol):
    """Where the board is kept."""

    def read(self) -> Board:
        """The board; an empty one if there is none. Raises `errors.Unavailable`."""

    def swap(self, before: Board, after: Board) -> bool:
        """Put `after` in the place of `before`, by its revision. True if that is what came about, also where the first try was not answered.

        Raises `errors.Unavailable` where nobody knows."""


class Leases:
    """This process's part in it. One thread at a time. `monotonic` gives seconds.

    `seat` tells where only one process at a time can have a name: who had ours before us in the same seat is dead.
    """

    def __init__(self, shelf: Shelf, lease: float = LEASE, monotonic: Callable[[], float] = steady, seat: str = "") -> None:
        self._shelf = shelf
        self._lease = lease
        self._monotonic = monotonic
        self._seat = seat
        self._me = ""
        self._mine: frozenset[int] = frozenset()
        self._sent = float("-inf")
        self._heard: dict[str, tuple[int, float]] = {}
        self.alive: frozenset[str] = frozenset()
        """who was alive at our last renewal, ourselves among them"""

    def hold(self, who: str) -> frozenset[int]:
        """The shards that are ours now. Reads and writes only when a renewal is due, or when there is nothing to lose.

        Raises `errors.NameTaken` while another living process has our name.
        """
        now = self._monotonic()
        if not self._me:
            # One after the other may have the same name: the later one must not be taken for the one that died.
            self._me = f"{who}/{self._seat}.{secrets.token_hex(8)}"
        if not self._mine or now - self._sent >= self._lease / RENEWALS:
            try:
                self._renew(now)
            except errors.Unavailable:
                if not self._trusted():
                    self._mine = frozenset()
                    raise
        # The renewal itself may have taken its time.
        return self._mine if self._trusted() else frozenset()

    def leave(self) -> None:
        """Give up all shards at once, so that others need not wait for them."""
        if not self._me:
            return
        self._mine = frozenset()
        for _ in range(TRIES):
            board = self._shelf.read()
            if self._me not in board.members or self._shelf.swap(board, without(board, self._me)):
                return

    def _trusted(self) -> bool:
        return self._monotonic() - self._sent < self._lease * TRUST

    def _renew(self, now: float) -> None:
        for _ in range(TRIES):
            board = self._shelf.read()
            dead = self._silent(board, self._monotonic())
            self._be_the_only_one(board, dead)
            after = renewed(board, self._me, dead)
            # If nobody ever tells whether it came about, others may already have what it gives up.
            self._mine &= after.of(self._me)
            if self._shelf.swap(board, after):
                self._mine, self._sent = after.of(self._me), now
                self.alive = frozenset(_who(member) for member in after.members)
                return
            now = self._monotonic()
        raise errors.Unavailable("the leases change too fast; try again")

    def _be_the_only_one(self, board: Board, dead: frozenset[str]) -> None:
        """Nothing that bears our name is ours while another one bears it too: each would take what is at the other's place for gone."""
        if any(_who(member) == _who(self._me) for member in board.members if member != self._me and member not in dead):
            self._mine, self._sent = frozenset(), float("-inf")
            raise errors.NameTaken(
                f"another server bears the name of this one, {_who(self._me)}, and is at work, or was until a moment ago. If that does not pass: "
                "one of their data directories is a copy; stop its server, and remove the file `place` and `attempts` from it"
            )

    def _silent(self, board: Board, now: float) -> frozenset[str]:
        """Members whose beat has stood still for a lease, and those who had our name before us in our seat."""
        heard = {member: self._heard.get(member, (beat, now)) for member, beat in board.members.items() if member != self._me}
        self._heard = {member: before if before[0] == board.members[member] else (board.members[member], now) for member, before in heard.items()}
        return frozenset(member for member, (_, since) in self._heard.items() if now - since >= self._lease or _seat(member) == _seat(self._me))


def _who(member: str) -> str:
    return member.rpartition("/")[0]


def _seat(member: str) -> str:
    """The name and the seat."""
    return member.rpartition(".")[0]


def alive(shelf: Shelf, lease: float, monotonic: Callable[[], float], sleep: Callable[[float], object]) -> str:
    """A member of the board whose beat moves, "" if there is none. Takes up to a lease where there are members."""
    first = shelf.read().members
    until = monotonic() + lease
    while first and monotonic() < until:
        sleep(min(1.0, lease / RENEWALS))
        members = shelf.read().members
        for member, beat in members.items():
            if beat != first.get(member):
                return member
        first = {member: beat for member, beat in first.items() if member in members}  # one that left is no reason to wait
    return ""
