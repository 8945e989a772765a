"""What a task that may start is told of its images, and what of that is told again when it has ended."""

from __future__ import annotations

import datetime

from tes_server.control import clearance
from tes_server.control.clearance import Cleared, Image
from tes_server.digests.base import Resolved
from tes_server.model.verdict import Outcome, ScanKey, Verdict
from tes_server.scan import gate
from tes_server.scan.gate import Door, Mode, OnError, Ruling

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)
DIGEST = "sha256:" + "a" * 64


def image(outcome: Outcome, mode: Mode) -> Image:
    until = NOW + datetime.timedelta(hours=1)
    verdict = Verdict(key=ScanKey(DIGEST, "0" * 16), outcome=outcome, image="other:1", scanner="trivy", scanned_at=NOW, expires_at=until, scan="s", message="m")
    ruling = gate.decide(mode, OnError.ALLOW, verdict, NOW, image="tool:1")
    return Image("tool:1", ruling, Resolved("tool:1", DIGEST, f"r/tool@{DIGEST}"), verdict=verdict)


def codes(mode: Mode, *images: Image) -> list[str]:
    cleared = clearance.settle(mode, images)
    assert isinstance(cleared, Cleared)
    return [line.partition(": ")[0] for line in cleared.lines]


def test_only_what_passed_or_needs_none_is_said_to_be_scanned() -> None:
    for mode in (Mode.WARN, Mode.ENFORCE):
        assert codes(mode, image(Outcome.PASS, mode)) == ["SCANNED"]
        assert codes(mode, image(Outcome.ERROR, mode)) == ["SCAN_WARNING"]
        assert codes(mode, Image("host", Ruling(Door.OPEN), exempt="image host is exempt from scans (host)")) == ["SCANNED"]
    assert codes(Mode.WARN, image(Outcome.FAIL, Mode.WARN)) == ["SCAN_WARNING"]


def test_the_digest_of_an_image_is_told_once() -> None:
    cleared = clearance.settle(Mode.ENFORCE, [image(Outcome.PASS, Mode.ENFORCE)])
    assert isinstance(cleared, Cleared)
    assert cleared.metadata == {"digest_tool:1": DIGEST}
    other = "sha256:" + "b" * 64
    ran = {"tool:1": f"r/tool@{DIGEST}", "else:1": f"r/else@{DIGEST}"}
    assert clearance.ran(ran, cleared.metadata) == {"image_else:1": f"r/else@{DIGEST}"}
    assert clearance.ran({"tool:1": DIGEST}, cleared.metadata) == {}
    assert clearance.ran({"tool:1": other}, cleared.metadata) == {"image_tool:1": other}, "a local engine's id is something else"
