"""What a policy makes of names and of reports."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server.model.verdict import Finding, Outcome, Verdict
from tes_server.scan import policy, report
from tes_server.scan.policy import Entry, Ignore, Policy
from tes_server.scan.report import ScanReport

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
DIGEST = "sha256:" + "a" * 64
IMAGE = "ghcr.io/team/tool:1"


def rules(**changes: object) -> Policy:
    return Policy(scanner="trivy", **changes)  # type: ignore[arg-type]


def found(*findings: Finding, **facts: object) -> ScanReport:
    return report.bounded(ScanReport(scanner="trivy", **facts), findings)  # type: ignore[arg-type]


def finding(name: str = "CVE-1", severity: str = "HIGH", fixed: str = "2", package: str = "zlib") -> Finding:
    return Finding(id=name, severity=severity, package=package, installed="1", fixed=fixed)


def judged(made: ScanReport, by: Policy, image: str = IMAGE) -> Verdict:
    return policy.judge(made, by, policy.key(DIGEST, image, by), image, NOW)


def accepted(days: int = 1, **changes: str) -> Ignore:
    return Ignore(**{"id": "CVE-1", "reason": "not reachable", **changes}, expires=(NOW + days * DAY).date())


def test_an_image_without_findings_passes_for_a_day() -> None:
    verdict = judged(found(), rules())
    assert verdict.outcome is Outcome.PASS
    assert verdict.expires_at == NOW + DAY
    assert verdict.reasons == ()


def test_one_line_for_each_severity_and_the_worst_named() -> None:
    verdict = judged(found(finding("CVE-1", "CRITICAL"), finding("CVE-2"), finding("CVE-3", fixed=""), finding("CVE-4", "LOW")), rules())
    assert verdict.outcome is Outcome.FAIL
    assert verdict.counts == {"CRITICAL": 1, "HIGH": 2, "LOW": 1}
    assert [line.partition(":")[0] for line in verdict.reasons] == ["1 CRITICAL finding (1 with a fix)", "2 HIGH findings (1 with a fix)"]
    assert [one.id for one in verdict.top] == ["CVE-1", "CVE-2", "CVE-3"]
    assert "rebuild" in verdict.reasons[0]


def test_only_what_can_be_mended() -> None:
    assert judged(found(finding(fixed="")), rules(fixable_only=True)).outcome is Outcome.PASS
    assert judged(found(finding(fixed="")), rules()).outcome is Outcome.FAIL
    assert "no fixed version" in judged(found(finding(fixed="")), rules()).reasons[0]


def test_severities() -> None:
    assert judged(found(finding(severity="MEDIUM")), rules()).outcome is Outcome.PASS
    assert judged(found(finding(severity="MEDIUM")), rules(severities=("MEDIUM",))).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (accepted(), Outcome.PASS),
        (accepted(0), Outcome.PASS),  # until the day's end
        (accepted(-1), Outcome.FAIL),
        (accepted(id="CVE-*"), Outcome.PASS),
        (accepted(id="CVE-2"), Outcome.FAIL),
        (accepted(package="zl*"), Outcome.PASS),
        (accepted(package="curl"), Outcome.FAIL),
        (accepted(image="ghcr.io/team"), Outcome.PASS),
        (accepted(image="docker.io"), Outcome.FAIL),
    ],
)
def test_exceptions(one: Ignore, outcome: Outcome) -> None:
    assert judged(found(finding()), rules(ignore=(one,))).outcome is outcome


def test_a_verdict_does_not_outlive_the_exception_that_it_rests_on() -> None:
    assert judged(found(finding()), rules(ignore=(accepted(0),))).expires_at == NOW.replace(hour=0) + DAY
    assert judged(found(finding()), rules(ignore=(accepted(0), accepted(5)))).expires_at == NOW + DAY
    assert judged(found(), rules(ignore=(accepted(0),))).expires_at == NOW + DAY


def test_an_exception_for_one_name_makes_another_key_than_for_others() -> None:
    by = rules(ignore=(accepted(image="ghcr.io/team"),))
    assert policy.key(DIGEST, IMAGE, by) != policy.key(DIGEST, "debian", by)
    assert policy.key(DIGEST, "debian", by) == policy.key(DIGEST, "debian:12", rules())
    assert judged(found(finding()), by, "debian").outcome is Outcome.FAIL


def test_names_of_one_repository_share_a_verdict_and_none_of_another_s() -> None:
    key = policy.key(DIGEST, IMAGE, rules())
    assert {policy.key(DIGEST, name, rules()) for name in ("ghcr.io/team/tool", f"ghcr.io/team/tool@{DIGEST}", "GHCR.io/team/tool:2")} == {key}
    for other in ("evil.example/team/tool:1", "ghcr.io/team/tool/x:1", "ghcr.io/evil/tool:1", DIGEST):
        assert policy.key(DIGEST, other, rules()) != key


@pytest.mark.parametrize(
    "changed",
    [
        {"severities": ("LOW",)}, {"fixable_only": True}, {"ignore": (accepted(),)}, {"end_of_life": False}, {"max_age_days": 3.0},
        {"database_days": 3.0}, {"verdict_seconds": 3.0}, {"error_seconds": 3.0}, {"setup": "other arguments"},
    ],
)  # fmt: skip
def test_another_policy_is_another_key(changed: dict[str, object]) -> None:
    assert policy.key(DIGEST, IMAGE, rules(**changed)) != policy.key(DIGEST, IMAGE, rules())
    assert policy.key(DIGEST, IMAGE, Policy(scanner="other")) != policy.key(DIGEST, IMAGE, rules())


def test_what_says_nothing_about_a_digest_leaves_the_key_alone() -> None:
    plain = policy.key(DIGEST, IMAGE, rules())
    assert plain.digest == DIGEST
    assert len(plain.policy) == 16
    assert policy.key(DIGEST, IMAGE, rules(allow=("ghcr.io",), deny=("quay.io",), exempt=("host",), pinned=True)) == plain
    one = rules(ignore=(accepted(), accepted(id="CVE-9")))
    other = rules(ignore=(accepted(id="CVE-9", reason="said otherwise"), accepted()))
    assert policy.key(DIGEST, IMAGE, one) == policy.key(DIGEST, IMAGE, other)


def test_findings_that_did_not_fit_count_against_the_image_though_exceptions_might_hold() -> None:
    many = found(*(finding(f"CVE-{number}") for number in range(5000)))
    assert many.cut
    verdict = judged(many, rules(ignore=(accepted(id="*"),)))
    assert verdict.outcome is Outcome.FAIL
    (reason,) = verdict.reasons
    number = many.cut["HIGH"]
    assert reason.startswith(f"{number} HIGH findings ({number} with a fix, {number} beyond the {len(many.findings)} that a report holds): rebuild")
    assert verdict.top


def test_what_can_be_mended_is_counted_before_the_list_is_cut() -> None:
    worst = [finding(f"CVE-{number}", "CRITICAL", fixed="") for number in range(5000)]
    many = found(*worst, finding("CVE-A", "HIGH"), finding("CVE-B", "HIGH", fixed=""), finding("CVE-C", "CRITICAL"))
    assert not [one for one in many.findings if one.severity == "HIGH"]
    critical, high = judged(many, rules()).reasons
    assert critical.startswith("5001 CRITICAL findings (1 with a fix, ")
    assert high == f"2 HIGH findings (1 with a fix, 2 beyond the {len(many.findings)} that a report holds): rebuild the image with the fixed versions"
    assert [line.partition(":")[0] for line in judged(many, rules(fixable_only=True)).reasons] == [
        "1 CRITICAL finding (1 with a fix)",
        f"1 HIGH finding (1 with a fix, 1 beyond the {len(many.findings)} that a report holds)",
    ]


def test_what_a_scanner_counts_and_does_not_name_is_neither_mended_nor_forgotten() -> None:
    told = report.uncounted(found(finding()), {"critical": 2, "high": 3, "total": 5})
    assert judged(told, rules(fixable_only=True)).reasons == (
        "2 CRITICAL findings (0 with a fix, 2 that trivy counts and does not name): look at the image with the scanner itself",
        "3 HIGH findings (1 with a fix, 2 that trivy counts and does not name): rebuild the image with the fixed versions",
    )


def test_a_look_of_long_ago_is_no_scan() -> None:
    by = rules(verdict_seconds=2 * 3600.0)
    assert judged(found(scanned=NOW - DAY / 24), by).expires_at == NOW + DAY / 24
    assert judged(found(scanned=NOW + DAY), by).expires_at == NOW + DAY / 12, "by a clock that is ahead"
    old = judged(found(scanned=NOW - DAY / 12), by)
    assert old.outcome is Outcome.ERROR
    assert old.message == "what trivy tells is from a look 2 hours ago, and a verdict holds for 2 (scan.verdict_hours): have it look at the image again"


def test_findings_without_a_fix_that_did_not_fit_do_not_count_where_only_others_do() -> None:
    many = found(*(finding(f"CVE-{number}", fixed="") for number in range(5000)))
    assert judged(many, rules(fixable_only=True)).outcome is Outcome.PASS


def test_a_system_at_its_end() -> None:
    verdict = judged(found(end_of_life=True, os="debian 8"), rules())
    assert verdict.outcome is Outcome.FAIL
    assert "debian 8 is at its end of life" in verdict.reasons[0]
    assert judged(found(end_of_life=True), rules(end_of_life=False)).outcome is Outcome.PASS
    assert judged(found(end_of_life=None), rules()).outcome is Outcome.PASS


def test_the_age_of_an_image() -> None:
    aged = found(created=NOW - 10 * DAY)
    assert judged(aged, rules(max_age_days=11.0)).outcome is Outcome.PASS
    assert judged(aged, rules(max_age_days=10.25)).expires_at == NOW + DAY / 4  # it becomes too old then
    refused = judged(aged, rules(max_age_days=9.0))
    assert refused.outcome is Outcome.FAIL
    assert "it is 10 days old" in refused.reasons[0]
    assert "does not tell" in judged(found(), rules(max_age_days=9.0)).reasons[0]


@pytest.mark.parametrize(("made", "words"), [(NOW - 4 * DAY, "is 4.0 days old"), (None, "does not tell how old"), (NOW - 2 * DAY, ""), (NOW + DAY, "")])
def test_an_old_database_is_no_verdict_but_an_error(made: datetime.datetime | None, words: str) -> None:
    verdict = judged(found(finding(), database_time=made), rules(database_days=3.0))
    assert words in verdict.message
    assert verdict.outcome is (Outcome.ERROR if words else Outcome.FAIL)
    if words:
        assert verdict.expires_at == NOW + datetime.timedelta(minutes=10)
        assert words in verdict.reasons[0]


def test_a_report_about_another_image_is_an_error() -> None:
    assert "another image" in judged(found(digests=("sha256:" + "b" * 64,)), rules()).message
    assert judged(found(digests=("sha256:" + "b" * 64, DIGEST)), rules()).outcome is Outcome.PASS


def test_what_the_scanner_itself_refuses_no_policy_takes() -> None:
    verdict = judged(found(refused=("over the Console's thresholds",)), rules(severities=()))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reasons == ("trivy: over the Console's thresholds",)


def test_a_scan_that_failed() -> None:
    verdict = policy.failed(policy.key(DIGEST, IMAGE, rules()), IMAGE, rules(error_seconds=60.0), "exit 1", NOW)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.message == "exit 1"
    assert verdict.expires_at == NOW + datetime.timedelta(minutes=1)
    assert IMAGE in verdict.reasons[0]


@pytest.mark.parametrize(
    ("changes", "image", "entry", "words"),
    [
        ({}, "debian", Entry.SCAN, ""),
        ({"exempt": ("host",)}, "host", Entry.EXEMPT, "exempt"),
        ({"exempt": ("host",), "deny": ("host",)}, "host", Entry.REFUSED, "denied"),
        ({"deny": ("docker.io",)}, "debian", Entry.REFUSED, "denied by the site (docker.io)"),
        ({"deny": ("docker.io",)}, f"debian@sha512:{'a' * 128}", Entry.REFUSED, "cannot read"),  # else it would slip through
        ({"deny": ("docker.io",)}, DIGEST, Entry.SCAN, ""),
        ({"allow": ("ghcr.io",)}, f"ghcr.io/x@sha512:{'a' * 128}", Entry.REFUSED, "not from where"),
        ({"allow": ("ghcr.io",)}, "debian", Entry.REFUSED, "not from where"),
        ({"allow": ("ghcr.io", "docker.io")}, "debian", Entry.SCAN, ""),
        ({"allow": ("ghcr.io",)}, DIGEST, Entry.REFUSED, "not from where"),
        ({"allow": ("ghcr.io",), "exempt": ("docker.io",)}, "debian", Entry.EXEMPT, "exempt"),
        ({"pinned": True}, "debian:12", Entry.REFUSED, "by a digest"),
        ({"pinned": True}, f"debian@{DIGEST}", Entry.SCAN, ""),
    ],
)
def test_names(changes: dict[str, object], image: str, entry: Entry, words: str) -> None:
    said = policy.admissible(image, rules(**changes))
    assert said.entry is entry
    assert words in said.reason
    assert bool(said.reason) == bool(words)


@given(
    st.lists(st.builds(finding, st.sampled_from(["CVE-1", "CVE-2"]), st.sampled_from(report.SEVERITIES), st.sampled_from(["", "2"])), max_size=6),
    st.sets(st.sampled_from(report.SEVERITIES)),
    st.booleans(),
    st.lists(st.builds(accepted, st.integers(-3, 3), id=st.sampled_from(["CVE-1", "CVE-*"])), max_size=2),
)
def test_it_passes_exactly_what_nothing_speaks_against(findings: list[Finding], severities: set[str], fixable_only: bool, ignore: list[Ignore]) -> None:
    by = rules(severities=tuple(severities), fixable_only=fixable_only, ignore=tuple(ignore))
    held = {one.id for one in ignore if one.expires >= NOW.date()}
    against = [one for one in findings if one.severity in severities and (one.fixed or not fixable_only) and "CVE-*" not in held and one.id not in held]
    verdict = judged(found(*findings), by)
    assert verdict.outcome is (Outcome.FAIL if against else Outcome.PASS)
    assert NOW < verdict.expires_at <= NOW + DAY


def test_a_scanners_own_words_are_kept_without_credentials_of_urls() -> None:
    made = policy.failed(
        policy.key("sha256:0a", "alpine", Policy(scanner="trivy")), "alpine", Policy(scanner="trivy"), "GET https://u:CANARY@h/?token=CANARY: 500", NOW
    )
    assert made.message == "GET https://***@h/?token=***: 500"
    assert "CANARY" not in repr(made)
