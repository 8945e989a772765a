"""Who works on which shards: one small document that every reconciler renews, and takes over in, by compare-and-swap.

A renewal counts its member's beat up. Whoever sees a beat stand still for a lease of its own monotonic clock takes the
member for dead and its shards; a member trusts its shards for less than a lease from before it sent its last renewal.
Both are one document, so a renewal and a take-over never both succeed, and no clock of one machine is compared with another's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

import msgspec
from pymongo import errors as driver

from tes_server import errors
from tes_server.model import record as model
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_connection import Connection, Document

LEASE = 20.0
"""Seconds. Shorter than a platform's slowest call and reconcilers lose their work in the midst of it, longer and a dead one's work waits."""

RENEWALS = 4
"""Renewals in the length of a lease: some may fail."""

TRUST = 0.75
"""Part of a lease for which a member trusts its shards: the rest is for what it began with them."""

TRIES = 10
"""A member that loses so many races in a row has met a fault."""

_ID = "shards"


def steady() -> float:
    """Seconds of a clock that nobody sets and that goes on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Board(msgspec.Struct, frozen=True):
    """The document: each member's beat, and each shard's owner ("" = nobody's)."""

    revision: int = 0
    members: Mapping[str, int] = {}
    owners: tuple[str, ...] = ("",) * model.SHARDS

    def of(self, member: str) -> frozenset[int]:
        """The shards of a member."""
        return frozenset(shard for shard, owner in enumerate(self.owners) if owner == member)


def renewed(board: Board, me: str, dead: frozenset[str]) -> Board:
    """The board after a turn of `me`: beat counted up, the dead struck out, what exceeds my share given up, what is free taken up to it."""
    members = {member: beat for member, beat in board.members.items() if member not in dead and member != me}
    members[me] = board.members.get(me, 0) + 1
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


class Leases:
    """This process's part in it. One thread at a time. `monotonic` gives seconds."""

    def __init__(self, connection: Connection, lease: float = LEASE, monotonic: Callable[[], float] = steady) -> None:
        self._connection = connection
        self._lease = lease
        self._monotonic = monotonic
        self._me = ""
        self._mine: frozenset[int] = frozenset()
        self._sent = float("-inf")
        self._heard: dict[str, tuple[int, float]] = {}

    def hold(self, who: str) -> frozenset[int]:
        """The shards that are ours now. Reads and writes only when a renewal is due, or when there is nothing to lose."""
        now = self._monotonic()
        if not self._me:
            # Two processes may have the same name and number on two machines, or one after the other.
            self._me = f"{who}/{documents.token()}"
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
            board, _raw = self._read()
            if self._me not in board.members or self._swap(board, without(board, self._me)):
                return

    def _trusted(self) -> bool:
        return self._monotonic() - self._sent < self._lease * TRUST

    def _renew(self, now: float) -> None:
        for _ in range(TRIES):
            board, there = self._read()
            seen = self._monotonic()
            if not there:
                self._create()
                continue
            dead = self._silent(board, seen)
            after = renewed(board, self._me, dead)
            if self._swap(board, after):
                self._mine, self._sent = after.of(self._me), now
                return
            now = self._monotonic()
        raise errors.Unavailable("the leases change too fast; try again")

    def _silent(self, board: Board, now: float) -> frozenset[str]:
        """Members whose beat has stood still for a lease."""
        heard = {member: self._heard.get(member, (beat, now)) for member, beat in board.members.items() if member != self._me}
        self._heard = {member: before if before[0] == board.members[member] else (board.members[member], now) for member, before in heard.items()}
        return frozenset(member for member, (_, since) in self._heard.items() if now - since >= self._lease)

    def _read(self) -> tuple[Board, bool]:
        found = self._connection.run(lambda: self._connection.meta.find_one({"_id": _ID}))
        if found is None:
            return Board(), False
        # Whatever somebody wrote there by hand: what makes no sense is nobody's.
        members = {str(each["name"]): int(each["beat"]) for each in found.get("members", ()) if isinstance(each, dict) and each.keys() >= {"name", "beat"}}
        owners = [owner if isinstance(owner, str) else "" for owner in found.get("owners", ())][: model.SHARDS]
        return Board(found.get("revision", 0), members, (*owners, *[""] * (model.SHARDS - len(owners)))), True

    def _create(self) -> None:
        def create() -> None:
            with contextlib.suppress(driver.DuplicateKeyError):
                self._connection.meta.insert_one({"_id": _ID, **_document(Board(), "")})

        self._connection.run(create)

    def _swap(self, before: Board, after: Board) -> bool:
        """True if `after` is stored in the place of `before`, also where that took two tries of which the first was not answered."""
        mark = documents.token()
        same = {"_id": _ID, "revision": before.revision}
        done = self._connection.run(lambda: self._connection.meta.update_one(same, {"$set": _document(after, mark)}).matched_count)
        if done:
            return True
        found = self._connection.run(lambda: self._connection.meta.find_one({"_id": _ID}, {"write": 1}))
        return found is not None and found.get("write") == mark


def _document(board: Board, mark: str) -> Document:
    members = [{"name": name, "beat": beat} for name, beat in sorted(board.members.items())]
    return {"revision": board.revision, "write": mark, "members": members, "owners": list(board.owners)}
