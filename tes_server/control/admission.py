"""Which of the waiting tasks may start now on a backend that does not queue by itself. Pure.

Owners take turns: the one that was served longest ago comes first. Records are taken in that order as long as they fit. A task that
does not fit lets smaller ones pass, but not for ever: once it has waited `PATIENCE`, nothing behind it starts before it. Whose owner has
as many under way as may be waits without standing in anybody's way.
"""

from __future__ import annotations

import collections
import datetime
import operator
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tes_server.model.principal import SCANS
from tes_server.model.record import Record
from tes_server.model.run import Room
from tes_server.plan.compiler import GB
from tes_server.plan.steps import Limits

PATIENCE = datetime.timedelta(minutes=1)
"""How long smaller tasks may pass one that waits for more room: longer fills the site better, shorter is fairer."""


class Candidate(msgspec.Struct, frozen=True):
    """A waiting record and what its plan reserves."""

    record: Record
    limits: Limits


class Admitted(msgspec.Struct, frozen=True):
    """Who starts now, and who waits for room, with the reason: only each owner's first, the others wait for their turn."""

    start: list[Candidate]
    wait: list[tuple[Candidate, str]]


def in_turn(candidates: Sequence[Candidate], served: Mapping[str, int]) -> list[Candidate]:
    """Each owner's first, then each owner's second, ...; among owners the one served longest ago first, but for scans of images: others wait for each.

    `served`: owner -> a number that grows with each start; an owner that is not there was never served.
    """
    ranks: collections.Counter[str] = collections.Counter()
    keyed: list[tuple[tuple[int, int], Candidate]] = []
    for candidate in candidates:
        owner = candidate.record.owner
        keyed.append(((ranks[owner], -2 if owner == SCANS.owner else served.get(owner, -1)), candidate))
        ranks[owner] += 1
    return [candidate for _, candidate in sorted(keyed, key=operator.itemgetter(0))]


def admit(candidates: Iterable[Candidate], room: Room | None, now: datetime.datetime, left: Mapping[str, int] | None = None) -> Admitted:
    """Take candidates in order as long as `room` lasts (None: the platform queues by itself), and `left` of their owner (not named: any number)."""
    may = dict(left or {})
    if room is None:
        return Admitted([candidate for candidate in candidates if _takes(may, candidate.record.owner)], [])
    cpus, ram, disk, gpus = room.cpus, room.ram_bytes, room.disk_bytes, room.gpus
    closed = False
    admitted = Admitted([], [])
    told: set[str] = set()
    for candidate in candidates:
        if may.get(candidate.record.owner, 1) <= 0:
            continue
        wants = candidate.limits
        # Sums of fractions such as 0.1 must not lose the last task to rounding.
        if not closed and wants.cpus <= cpus + 1e-9 and wants.ram_bytes <= ram and wants.disk_bytes <= disk and wants.gpus <= gpus:
            cpus, ram, disk, gpus = cpus - wants.cpus, ram - wants.ram_bytes, disk - wants.disk_bytes, gpus - wants.gpus
            admitted.start.append(candidate)
            _takes(may, candidate.record.owner)
        else:
            if candidate.record.owner not in told:
                admitted.wait.append((candidate, _reason(wants, room)))
                told.add(candidate.record.owner)
            closed = closed or now - candidate.record.created > PATIENCE
    return admitted


def _takes(may: dict[str, int], owner: str) -> bool:
    """Take one of an owner's, if there is one."""
    if may.get(owner, 1) <= 0:
        return False
    if owner in may:
        may[owner] -= 1
    return True


def _reason(wants: Limits, room: Room) -> str:
    # Without what is free at the moment: the words must stay the same from pass to pass, or each pass would write them again.
    asked, there = f"{wants.cpus:g} cores and {wants.ram_bytes / GB:g} GB", f"{room.total_cpus:g} cores and {room.total_ram_bytes / GB:.3g} GB"
    if wants.gpus:
        asked, there = f"{asked} and {wants.gpus} GPUs", f"{there} and {room.total_gpus} GPUs"
    return f"asks for {asked}; the {there} here are in use by tasks before it"
