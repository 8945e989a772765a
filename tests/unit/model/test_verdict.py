"""Verdicts: how long they hold, which of two is kept, and that they survive their JSON."""

from __future__ import annotations

import datetime

import msgspec
import pytest

from tes_server.model import principal
from tes_server.model.verdict import Finding, Outcome, ScanKey, Verdict

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
KEY = ScanKey("sha256:" + "a" * 64, "0123456789abcdef")


def verdict(outcome: Outcome = Outcome.PASS, *, at: datetime.datetime = NOW) -> Verdict:
    return Verdict(
        key=KEY,
        outcome=outcome,
        image="alpine:3",
        scanner="trivy",
        scanned_at=at,
        expires_at=at + datetime.timedelta(hours=24),
    )


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.FAIL, Outcome.ERROR])
def test_holds_until_it_expires(outcome: Outcome) -> None:
    made = verdict(outcome)
    assert made.fresh(NOW)
    assert made.fresh(made.expires_at - datetime.timedelta(microseconds=1))
    assert not made.fresh(made.expires_at)


def test_forgotten_never_holds() -> None:
    assert not verdict(Outcome.FORGOTTEN).fresh(NOW)


def test_the_later_scan_is_kept() -> None:
    first, later = verdict(), verdict(Outcome.FAIL, at=NOW + datetime.timedelta(seconds=1))
    assert later.supersedes(first)
    assert not first.supersedes(later)
    assert first.supersedes(None)
    assert verdict(Outcome.FAIL).supersedes(first)


def test_what_is_taken_back_does_not_hold_and_is_newer() -> None:
    made = verdict()
    for now in (NOW - datetime.timedelta(hours=1), NOW, NOW + datetime.timedelta(hours=1)):
        back = made.taken_back(now)
        assert not back.fresh(now)
        assert not made.supersedes(back)
        assert back.scanned_at >= now


def test_survives_json() -> None:
    made = msgspec.structs.replace(
        verdict(Outcome.FAIL),
        counts={"CRITICAL": 1},
        reasons=("1 critical finding",),
        top=(Finding(id="CVE-2026-1", severity="CRITICAL", package="openssl", installed="3.0", fixed="3.1"),),
    )
    assert msgspec.json.decode(msgspec.json.encode(made), type=Verdict) == made


def test_the_owner_of_scans_is_nobody_who_asks() -> None:
    assert principal.SCANS != principal.ANONYMOUS
    assert principal.fault_of(principal.SCANS.owner)
