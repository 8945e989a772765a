"""Whether a task may start, over all modes, outcomes and moments."""

from __future__ import annotations

import datetime
import itertools

import msgspec
import pytest

from tes_server.model.verdict import Finding, Outcome, ScanKey, Verdict
from tes_server.scan import gate
from tes_server.scan.gate import Door, Mode, Modes, OnError, Ruling

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def verdict(outcome: Outcome, expires: datetime.datetime = NOW + HOUR) -> Verdict:
    return Verdict(
        key=ScanKey("sha256:" + "a" * 64, "0" * 16),
        outcome=outcome,
        image="debian:12",
        scanner="trivy",
        scanner_version="0.70.0",
        database="2026-11-22",
        scanned_at=NOW - HOUR,
        expires_at=expires,
        reasons=("2 HIGH findings (1 with a fix): rebuild it",) if outcome is Outcome.FAIL else (),
        top=(Finding(id="CVE-1", severity="HIGH", package="zlib", installed="1", fixed="2"), Finding(id="CVE-2", severity="HIGH")),
        message="exit 1" if outcome is Outcome.ERROR else "",
    )


@pytest.mark.parametrize(
    ("mode", "on_error", "outcome", "late", "running"), list(itertools.product(Mode, OnError, [None, *Outcome], [False, True], [False, True]))
)
def test_enforce_opens_only_for_a_fresh_pass(mode: Mode, on_error: OnError, outcome: Outcome | None, late: bool, running: bool) -> None:
    known = None if outcome is None else verdict(outcome, NOW if late else NOW + HOUR)
    ruling = gate.decide(mode, on_error, known, NOW, running=running)
    if mode is Mode.OFF:
        assert ruling == Ruling(Door.OPEN)
    elif outcome in (None, Outcome.FORGOTTEN) or late:
        assert ruling == Ruling(Door.WAIT if running else Door.SCAN)
    elif outcome is Outcome.PASS:
        assert ruling == Ruling(Door.OPEN)
    elif mode is Mode.WARN:
        assert ruling.door is Door.OPEN
        assert ruling.reasons
    else:
        assert ruling.door is (Door.OPEN if outcome is Outcome.ERROR and on_error is OnError.ALLOW else Door.SHUT)
        assert ruling.reasons


def test_what_a_refusal_says() -> None:
    first, worst, who = gate.told(verdict(Outcome.FAIL))
    assert first == "image debian:12: 2 HIGH findings (1 with a fix): rebuild it"
    assert worst == "image debian:12: the worst are CVE-1 (zlib 1, fixed in 2), CVE-2"
    digest = "sha256:" + "a" * 64
    by = "the scan of 2026-11-22 11:00 UTC that came first in this task (trivy 0.70.0, database 2026-11-22)"
    assert who == f"image debian:12 is {digest}, refused by {by}"
    assert gate.told(verdict(Outcome.ERROR)) == (f"image debian:12 could not be scanned: exit 1; its digest is {digest}",)
    assert gate.passed(verdict(Outcome.PASS), "d") == f"d is {digest}, passed {by}"


def test_a_failure_that_is_kept_says_until_when_and_what_ends_it() -> None:
    kept = msgspec.structs.replace(verdict(Outcome.ERROR), scan="abc")
    (line,) = gate.told(kept, f"debian@{kept.key.digest}")
    assert line == (
        f"image debian@{kept.key.digest} could not be scanned: exit 1; the failure is kept until {kept.expires_at:%Y-%m-%d %H:%M} UTC (scan abc), "
        "`tes-server scan refresh debian:12` scans anew at once"
    )
    for on_error in OnError:
        (line,) = gate.decide(Mode.ENFORCE, on_error, kept, NOW).reasons
        assert line.endswith(f'(scan.on_error = "{on_error}")')
        assert gate.decide(Mode.WARN, on_error, kept, NOW).reasons == gate.told(kept)


def test_a_task_is_told_of_the_image_as_it_names_it() -> None:
    for line in gate.decide(Mode.ENFORCE, OnError.BLOCK, verdict(Outcome.FAIL), NOW, image="debian:12-slim").reasons:
        assert line.startswith("image debian:12-slim")


@pytest.mark.parametrize(
    ("mode", "on_error", "waits", "door"),
    [
        (Mode.OFF, OnError.BLOCK, False, Door.OPEN),
        (Mode.WARN, OnError.BLOCK, True, Door.OPEN),
        (Mode.ENFORCE, OnError.BLOCK, True, Door.WAIT),
        (Mode.ENFORCE, OnError.ALLOW, True, Door.WAIT),
        (Mode.ENFORCE, OnError.BLOCK, False, Door.SHUT),
        (Mode.ENFORCE, OnError.ALLOW, False, Door.OPEN),
    ],
)
def test_a_digest_that_is_not_known(mode: Mode, on_error: OnError, waits: bool, door: Door) -> None:
    ruling = gate.unresolved(mode, on_error, "debian", "debian: the registry says 429", waits=waits, waited=datetime.timedelta(minutes=10))
    assert ruling.door is door
    if mode is Mode.OFF:
        assert ruling.reasons == ()
        return
    (reason,) = ruling.reasons
    first, *more = reason.split("; ")
    assert first == "image debian was not scanned, its digest could not be found: the registry says 429"
    assert ("that was waited for 10 minutes" in more) == (mode is Mode.ENFORCE and not waits)
    assert f'(scan.on_error = "{on_error}")' in reason or mode is Mode.WARN or waits


def test_no_image_is_named_twice() -> None:
    assert gate.nameless("r.example/x:1: nobody answers", "r.example/x:1") == "nobody answers"
    assert gate.nameless("'X' is not the name of an image: it is large", "X") == "it is not the name of an image: it is large"
    assert gate.nameless("the registry says no", "X") == "the registry says no"


def test_a_name_that_is_refused() -> None:
    assert gate.refused(Mode.ENFORCE, "denied") == Ruling(Door.SHUT, ("denied",))
    assert gate.refused(Mode.WARN, "denied") == Ruling(Door.OPEN, ("denied",))
    assert gate.refused(Mode.OFF, "denied") == Ruling(Door.OPEN)


@pytest.mark.parametrize(
    "order", list(itertools.permutations([Ruling(Door.OPEN, ("o",)), Ruling(Door.WAIT, ("w",)), Ruling(Door.SCAN), Ruling(Door.SHUT, ("s",))]))
)
def test_of_several_images_the_worst_counts(order: tuple[Ruling, ...]) -> None:
    assert gate.together(order) == Ruling(Door.SHUT, ("s",))
    assert gate.together([one for one in order if one.door is not Door.SHUT]).door is Door.SCAN
    assert gate.together([Ruling(Door.OPEN, ("a", "b")), Ruling(Door.OPEN, ("b",))]) == Ruling(Door.OPEN, ("a", "b"))
    assert gate.together([]) == Ruling(Door.OPEN)


def test_whose_mode_counts() -> None:
    modes = Modes(default=Mode.WARN, backends={"local": Mode.OFF}, owners={"trusted-*": Mode.OFF, "*@guests": Mode.ENFORCE})
    assert modes.of("kubernetes", "x") is Mode.WARN
    assert modes.of("local", "x") is Mode.OFF
    assert modes.of("kubernetes", "trusted-1") is Mode.OFF
    assert modes.of("local", "a@guests") is Mode.ENFORCE
