"""A report is bounded, whatever a scanner or an image's author wrote into it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server import errors
from tes_server.model.verdict import Finding
from tes_server.scan import report
from tes_server.scan.report import ScanReport

TEXT = st.text(max_size=700)
FINDINGS = st.builds(
    Finding, id=TEXT, severity=st.sampled_from([*report.SEVERITIES, "important", "", "odd"]), package=TEXT, installed=TEXT, fixed=TEXT, title=TEXT, url=TEXT
)


def finding(name: str, severity: str = "HIGH", fixed: str = "", package: str = "p") -> Finding:
    return Finding(id=name, severity=severity, package=package, installed="1", fixed=fixed)


def test_the_worst_come_first_and_what_can_be_mended_before_the_rest() -> None:
    made = report.bounded(ScanReport(scanner="s"), [finding("a", "low"), finding("b"), finding("d", "critical"), finding("c", fixed="2")])
    assert [one.id for one in made.findings] == ["d", "c", "b", "a"]
    assert made.counts == {"CRITICAL": 1, "HIGH": 2, "LOW": 1}
    assert made.cut == {}


def test_the_same_finding_in_two_layers_counts_once() -> None:
    made = report.bounded(ScanReport(scanner="s"), [finding("a"), finding("a"), finding("a", package="q")])
    assert made.counts == {"HIGH": 2}
    rated = report.bounded(ScanReport(scanner="s"), [finding("a", "low"), finding("a", "high")])
    assert rated.counts == {"HIGH": 1, "LOW": 1}


def test_what_does_not_fit_is_counted() -> None:
    many = [finding(f"CVE-{number}", "HIGH" if number % 2 else "LOW", fixed="2" if number % 3 == 0 else "") for number in range(10_000)]
    made = report.bounded(ScanReport(scanner="s"), many)
    assert len(report.encode(made)) <= report.LARGEST
    assert made.counts == {"HIGH": 5000, "LOW": 5000}
    kept = [one.severity for one in made.findings]
    assert kept.count("HIGH") + made.cut["HIGH"] == 5000
    assert kept.count("LOW") + made.cut["LOW"] == 5000
    assert made.cut_fixable.get("HIGH", 0) == sum(1 for one in many if one.severity == "HIGH" and one.fixed) - sum(
        1 for one in made.findings if one.severity == "HIGH" and one.fixed
    )
    assert set(kept) == {"HIGH"}  # no low one was kept at the cost of a high one


@given(st.lists(FINDINGS, max_size=8), TEXT, st.lists(TEXT, max_size=25))
def test_nothing_makes_it_larger_than_its_bound(findings: list[Finding], text: str, lines: list[str]) -> None:
    whole = ScanReport(
        scanner="s",
        scanner_version=text,
        database=text,
        target=text,
        digests=tuple(lines),
        os=text,
        refused=tuple(lines),
        counts={"x": 1},
        findings=tuple(findings),
    )
    made = report.bounded(whole, findings)
    encoded = report.encode(made)
    assert len(encoded.encode()) <= report.LARGEST
    assert "\n" not in encoded
    assert report.decode(encoded) == made
    assert sum(made.counts.values()) == len(made.findings) + sum(made.cut.values())
    assert all(sign.isprintable() for one in made.findings for sign in one.package)


@pytest.mark.parametrize("text", ["", "null", "{}", '{"scanner": 1}', "[" * 100_000, b"\xff"])
def test_a_damaged_one_is_told(text: str | bytes) -> None:
    with pytest.raises(errors.ScanError, match="damaged"):
        report.decode(text)


def test_severities_of_all_kinds_of_scanners() -> None:
    assert list(map(report.severity, ["Critical", "important", "moderate", "Negligible", "unimportant", "", "weird"])) == [
        "CRITICAL", "HIGH", "MEDIUM", "LOW", "LOW", "UNKNOWN", "UNKNOWN",
    ]  # fmt: skip
    assert msgspec.json.encode(ScanReport(scanner="s")) == b'{"scanner":"s"}'
