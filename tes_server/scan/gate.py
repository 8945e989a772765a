"""Whether a task may start: what the mode makes of what is known about an image at this moment. Pure; `now` is an argument.

It must never open in mode ENFORCE without a verdict that passes and holds now, but for images that the policy exempts and, with `on_error = allow`, failures.
"""

from __future__ import annotations

import datetime
import enum
import fnmatch
from collections.abc import Iterable, Mapping

import msgspec

from tes_server.model.verdict import Outcome, Verdict


class Mode(enum.StrEnum):
    """What a site makes of verdicts."""

    OFF = "off"  #: nothing is looked up or scanned
    WARN = "warn"  #: tasks run, with what was found in their log
    ENFORCE = "enforce"  #: tasks run only with verdicts that pass


class OnError(enum.StrEnum):
    """What becomes of a task in mode ENFORCE whose image could not be scanned or found."""

    BLOCK = "block"
    ALLOW = "allow"


class Door(enum.StrEnum):
    """What is to be done about a task."""

    OPEN = "OPEN"  #: it may start
    SCAN = "SCAN"  #: there is no verdict that holds: a scan is to be begun, or found under way
    WAIT = "WAIT"  #: hold it back; what is missing is on its way
    SHUT = "SHUT"  #: it may not run: refuse it with the reasons


class Ruling(msgspec.Struct, frozen=True):
    """What is to be done, and why in lines for people; with OPEN they are warnings."""

    door: Door
    reasons: tuple[str, ...] = ()


class Modes(msgspec.Struct, frozen=True, kw_only=True):
    """Which mode a task is under."""

    default: Mode = Mode.OFF
    backends: Mapping[str, Mode] = {}
    owners: Mapping[str, Mode] = {}
    """by shell pattern; the first that holds"""

    def of(self, backend: str, owner: str) -> Mode:
        """The mode of an owner's tasks on a backend: the owner's own, else the backend's, else the site's."""
        for pattern, mode in self.owners.items():
            if fnmatch.fnmatchcase(owner, pattern):
                return mode
        return self.backends.get(backend, self.default)

    @property
    def active(self) -> bool:
        """True if any task may be under another mode than OFF."""
        return any(mode is not Mode.OFF for mode in (self.default, *self.backends.values(), *self.owners.values()))


def decide(mode: Mode, on_error: OnError, verdict: Verdict | None, now: datetime.datetime, *, running: bool = False) -> Ruling:
    """What one image's verdict means for a task. `running`: a scan of it is under way."""
    if mode is Mode.OFF:
        return Ruling(Door.OPEN)
    if verdict is None or not verdict.fresh(now):
        return Ruling(Door.WAIT if running else Door.SCAN)
    if verdict.outcome is Outcome.PASS:
        return Ruling(Door.OPEN)
    opens = mode is Mode.WARN or (verdict.outcome is Outcome.ERROR and on_error is OnError.ALLOW)
    return Ruling(Door.OPEN if opens else Door.SHUT, told(verdict))


def unresolved(mode: Mode, on_error: OnError, image: str, message: str, *, waits: bool) -> Ruling:
    """What it means that nobody knows the digest of an image. `waits`: that may pass, and the task has not waited for too long yet."""
    if mode is Mode.OFF:
        return Ruling(Door.OPEN)
    reasons = (f"image {image} was not scanned, its digest could not be found: {message}",)
    if mode is Mode.WARN:
        return Ruling(Door.OPEN, reasons)
    if waits:
        return Ruling(Door.WAIT, reasons)
    return Ruling(Door.OPEN if on_error is OnError.ALLOW else Door.SHUT, reasons)


def refused(mode: Mode, reason: str) -> Ruling:
    """What it means that the policy does not take an image by its name."""
    return Ruling(Door.SHUT if mode is Mode.ENFORCE else Door.OPEN, (reason,) if mode is not Mode.OFF else ())


def together(rulings: Iterable[Ruling]) -> Ruling:
    """The ruling for a task from those for its images: SHUT wins, then SCAN, then WAIT; the reasons of those that win, and of all if it opens."""
    given = tuple(rulings)
    for door in (Door.SHUT, Door.SCAN, Door.WAIT):
        if alike := [one for one in given if one.door is door]:
            return Ruling(door, _lines(alike))
    return Ruling(Door.OPEN, _lines(given))


def told(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict that does not pass says to people: a line for each reason, then the worst findings, then who says so."""
    if verdict.outcome is Outcome.ERROR:
        return verdict.reasons or (f"image {verdict.image} could not be scanned: {verdict.message}",)
    found = ", ".join(_finding(one.id, one.package, one.installed, one.fixed) for one in verdict.top)
    by = f"{verdict.scanner} {verdict.scanner_version}".strip() + (f", database {verdict.database}" if verdict.database else "")
    return (
        *(f"image {verdict.image}: {reason}" for reason in verdict.reasons),
        *((f"image {verdict.image}: the worst are {found}",) if found else ()),
        f"image {verdict.image} is {verdict.key.digest}, scanned {verdict.scanned_at:%Y-%m-%d %H:%M} UTC by {by}",
    )


def _finding(name: str, package: str, installed: str, fixed: str) -> str:
    where = f"{package} {installed}".strip()
    mend = f", fixed in {fixed}" if fixed else ""
    return f"{name} ({where}{mend})" if where or mend else name


def _lines(rulings: Iterable[Ruling]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for one in rulings for line in one.reasons))
