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


_CHOICE = {
    OnError.BLOCK: 'the site runs nothing that was not scanned (scan.on_error = "block")',
    OnError.ALLOW: 'the site lets it run all the same (scan.on_error = "allow")',
}


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


def decide(mode: Mode, on_error: OnError, verdict: Verdict | None, now: datetime.datetime, *, running: bool = False, image: str = "") -> Ruling:
    """What one image's verdict means for a task. `running`: a scan of it is under way. `image`: how the task names it; "" = as the verdict does."""
    if mode is Mode.OFF:
        return Ruling(Door.OPEN)
    if verdict is None or not verdict.fresh(now):
        return Ruling(Door.WAIT if running else Door.SCAN)
    if verdict.outcome is Outcome.PASS:
        return Ruling(Door.OPEN)
    opens = mode is Mode.WARN or (verdict.outcome is Outcome.ERROR and on_error is OnError.ALLOW)
    lines = told(verdict, image)
    if mode is Mode.ENFORCE and verdict.outcome is Outcome.ERROR:
        lines = (*lines[:-1], f"{lines[-1]}; {_CHOICE[on_error]}")
    return Ruling(Door.OPEN if opens else Door.SHUT, lines)


def unresolved(mode: Mode, on_error: OnError, image: str, message: str, *, waits: bool, waited: datetime.timedelta = datetime.timedelta()) -> Ruling:
    """What it means that nobody knows the digest of an image. `waits`: that may pass, and the task has not waited for too long yet.

    `waited`: for how long it has, where it may pass.
    """
    if mode is Mode.OFF:
        return Ruling(Door.OPEN)
    reason = f"image {image} was not scanned, its digest could not be found: {nameless(message, image)}"
    if mode is Mode.WARN:
        return Ruling(Door.OPEN, (reason,))
    if waits:
        return Ruling(Door.WAIT, (reason,))
    if waited:
        reason = f"{reason}; that was waited for {waited / datetime.timedelta(minutes=1):.0f} minutes"
    return Ruling(Door.OPEN if on_error is OnError.ALLOW else Door.SHUT, (f"{reason}; {_CHOICE[on_error]}",))


def nameless(message: str, image: str) -> str:
    """What was said of an image, in a line that has its name already."""
    return message.removeprefix(f"{image}: ").replace(f"{image!r} is ", "it is ", 1)


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


def told(verdict: Verdict, image: str = "") -> tuple[str, ...]:
    """What a verdict that does not pass says to people: a line for each reason, then the worst findings, then who says so. `image` as in `decide`."""
    name = image or verdict.image
    if verdict.outcome is Outcome.ERROR:
        which = "" if name.endswith(verdict.key.digest) else f"its digest is {verdict.key.digest}"
        return ("; ".join(filter(None, (f"image {name} could not be scanned: {verdict.message}", which, kept(verdict) if verdict.scan else ""))),)
    found = ", ".join(_finding(one.id, one.package, one.installed, one.fixed) for one in verdict.top)
    return (
        *(f"image {name}: {reason}" for reason in verdict.reasons),
        *((f"image {name}: the worst are {found}",) if found else ()),
        f"image {name} is {verdict.key.digest}, refused by {_scan(verdict)}",
    )


def kept(verdict: Verdict) -> str:
    """How long a scan that failed stands in the way of the next one, and what ends that."""
    return (
        f"the failure is kept until {verdict.expires_at:%Y-%m-%d %H:%M} UTC (scan {verdict.scan}), `tes-server scan refresh {verdict.image}` scans anew at once"
    )


def passed(verdict: Verdict, image: str) -> str:
    """Which image runs, and who had nothing against it. `image` as the task names it."""
    return f"{image} is {verdict.key.digest}, passed {_scan(verdict)}"


def _scan(verdict: Verdict) -> str:
    by = f"{verdict.scanner} {verdict.scanner_version}".strip() + (f", database {verdict.database}" if verdict.database else "")
    which = "" if verdict.scan else " that came first in this task"
    return f"the scan of {verdict.scanned_at:%Y-%m-%d %H:%M} UTC{which} ({by})"


def _finding(name: str, package: str, installed: str, fixed: str) -> str:
    where = f"{package} {installed}".strip()
    mend = f", fixed in {fixed}" if fixed else ""
    return f"{name} ({where}{mend})" if where or mend else name


def _lines(rulings: Iterable[Ruling]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for one in rulings for line in one.reasons))
