"""What scanners are told, and what their reports come to, by reports written down in the scanners' own formats."""

from __future__ import annotations

import datetime
import json
import pathlib
from typing import Any

import msgspec
import pytest

from tes_server import errors
from tes_server.model.verdict import Finding, Outcome
from tes_server.scan import base, policy
from tes_server.scan.base import Options, Scanner
from tes_server.scan.policy import Policy
from tes_server.scan.scanners import SCANNERS

DATA = pathlib.Path(__file__).parents[2] / "data" / "scan"
DIGEST = "sha256:" + "a" * 64
IMAGE = f"127.0.0.1:5000/tes-test/old@{DIGEST}"
TRIVY, TWISTCLI, PRISMA, GRYPE = (SCANNERS[name] for name in ("trivy", "twistcli", "prisma", "grype"))
REGISTRIES = {"127.0.0.1:5000": "http://10.213.0.1:5000"}


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name).read_text())
    return found


def raw(document: object) -> bytes:
    return json.dumps(document).encode()


def utc(*when: int) -> datetime.datetime:
    return datetime.datetime(*when, tzinfo=datetime.UTC)  # type: ignore[misc, arg-type]


# -- Trivy ------------------------------------------------------------------------------------------------------------


def test_trivy_by_a_server() -> None:
    argv = TRIVY.argv(IMAGE, Options(server="http://trivy:4954", timeout=90.5, arguments=("--pkg-types", "os")))
    assert argv == (
        "trivy", "image", "--format", "json", "--output", "/scan/report.json", "--scanners", "vuln", "--exit-code", "0", "--image-src", "remote",
        "--timeout", "90s", "--server", "http://trivy:4954", "--pkg-types", "os", IMAGE,
    )  # fmt: skip


def test_trivy_by_itself_tells_of_its_database_after_the_report() -> None:
    argv = TRIVY.argv(IMAGE, Options(program="/opt/trivy", registries=REGISTRIES))
    assert argv[:2] == ("sh", "-c")
    assert "version --format json" in argv[2]
    assert argv[3:5] == ("/opt/trivy", "image")
    assert argv[-1] == f"10.213.0.1:5000/tes-test/old@{DIGEST}"


def test_trivy_s_environment() -> None:
    env = TRIVY.env(Options(env={"TRIVY_TOKEN": "secret://trivy/token", "TRIVY_CACHE_DIR": "/elsewhere"}))
    assert env["TRIVY_TOKEN"] == "secret://trivy/token"
    assert env["TRIVY_CACHE_DIR"] == "/elsewhere"
    assert "TRIVY_INSECURE" not in env
    assert TRIVY.env(Options(registries=REGISTRIES))["TRIVY_INSECURE"] == "true"


def test_a_report_of_trivy_with_a_server() -> None:
    read = TRIVY.read(raw(recorded("trivy.json")))
    assert read.scanner == "trivy"
    assert read.scanner_version == "0.72.1"
    assert read.database_time == utc(2026, 11, 22, 6, 15, 12, 520115)
    assert read.database == "of 2026-11-22 06:15"
    assert read.target == IMAGE
    assert read.digests == (DIGEST, "sha256:" + "b" * 64)
    assert read.os == "debian 10.13"
    assert read.end_of_life is True
    assert read.created == utc(2024, 5, 14, 1, 28, 26, 123457)
    assert read.counts == {"CRITICAL": 2, "HIGH": 1, "LOW": 1}
    assert read.findings[0] == Finding(
        id="CVE-2199-0001",
        severity="CRITICAL",
        package="zlib1g",
        installed="1:1.2.11.dfsg-1",
        fixed="1:1.2.11.dfsg-1+deb10u2",
        title="zlib: heap-based buffer over-read in inflate",
        url="https://avd.example/nvd/cve-2199-0001",
    )
    assert [one.id for one in read.findings] == ["CVE-2199-0001", "secret:aws-access-key-id", "CVE-2199-0002", "TEMP-0841856-B18BAF"]
    assert "****" not in repr(read)  # nothing of a secret itself


def test_a_report_of_trivy_by_itself() -> None:
    document = recorded("trivy.json")
    document["Trivy"] = {"Version": "0.69.3"}
    read = TRIVY.read(raw(document) + b"\n\x1e" + (DATA / "trivy-version.json").read_bytes())
    assert read.scanner_version == "0.69.3"
    assert read.database_time == utc(2026, 11, 21, 6, 12, 1, 400000)
    del document["Trivy"]  # before 0.69.1
    assert TRIVY.read(raw(document)).database_time is None
    assert TRIVY.read(raw(document)).scanner_version == ""


def test_a_report_of_trivy_about_an_image_in_which_it_knows_nothing() -> None:
    read = TRIVY.read(
        raw({"SchemaVersion": 2, "ArtifactName": "x", "ArtifactType": "container_image", "Metadata": {"ImageConfig": {"created": "0001-01-01T00:00:00Z"}}})
    )
    assert read.counts == {}
    assert read.end_of_life is None
    assert read.created is None


# -- twistcli ---------------------------------------------------------------------------------------------------------


def test_twistcli_names_the_image_last() -> None:
    argv = TWISTCLI.argv(IMAGE, Options(console="https://console.example:8083", arguments=("--publish=false",), registries=REGISTRIES))
    assert argv == (
        "twistcli", "images", "scan", "--address", "https://console.example:8083", "--details", "--output-file", "/scan/report.json", "--publish=false",
        IMAGE,  # as the engine knows it
    )  # fmt: skip
    assert TWISTCLI.env(Options(env={"TWISTLOCK_USER": "u"})) == {"HOME": "/scan", "TWISTLOCK_USER": "u"}
    assert TWISTCLI.exits == {0, 1}


def test_a_report_of_twistcli() -> None:
    read = TWISTCLI.read(raw(recorded("twistcli.json")))
    assert read.os == "Debian GNU/Linux 10 (buster)"
    assert read.created == utc(2024, 5, 14, 1, 28, 26)
    assert read.database == "of the Console console.example:8083"
    assert read.counts == {"CRITICAL": 1, "HIGH": 1}
    assert [(one.id, one.severity, one.fixed) for one in read.findings] == [
        ("CVE-2199-0001", "CRITICAL", "1:1.2.11.dfsg-1+deb10u2"),
        ("CVE-2199-0002", "HIGH", ""),
    ]
    assert read.refused == ("the Console's policy for vulnerabilities refuses the image", "the Console's policy for compliance refuses the image (1 high)")
    assert read.cut == {}


def test_what_twistcli_counts_and_does_not_list_is_not_lost() -> None:
    document = recorded("twistcli.json")
    document["results"][0]["vulnerabilityDistribution"] = {"critical": 4, "high": 1, "medium": 2, "total": 7}
    read = TWISTCLI.read(raw(document))
    assert read.counts == {"CRITICAL": 4, "HIGH": 1, "MEDIUM": 2}
    assert read.unlisted == {"CRITICAL": 3, "MEDIUM": 2}
    assert read.cut == read.cut_fixable == {}


def test_what_the_console_passes() -> None:
    document = recorded("twistcli.json")
    document["results"][0].update(
        complianceScanPassed=True, vulnerabilityScanPassed=True, vulnerabilities=None, vulnerabilityDistribution=None, history=[{"created": 7}]
    )
    read = TWISTCLI.read(raw(document))
    assert read.refused == ()
    assert read.counts == {}
    assert read.created == utc(1970, 1, 1, 0, 0, 7)


# -- the registry scan of a Prisma Console ----------------------------------------------------------------------------


def test_prisma_is_a_program_of_ours() -> None:
    argv = PRISMA.argv(IMAGE, Options(console="https://console.example:8083", timeout=90.5, registries=REGISTRIES))
    assert argv == (
        "python", "-m", "tes_server.runner.prisma_console", "--address", "https://console.example:8083", "--output", "/scan/report.json", "--seconds", "90",
        IMAGE,
    )  # fmt: skip
    assert not PRISMA.engine(IMAGE)


def test_a_record_of_the_console() -> None:
    read = PRISMA.read((DATA / "prisma.json").read_bytes())
    assert read.target == "127.0.0.1:5000/tes-test/old"
    assert read.digests == (DIGEST, DIGEST)
    assert read.created == utc(2024, 5, 14, 1, 28, 26)
    assert read.counts == {"CRITICAL": 1, "HIGH": 1}
    assert [(one.id, one.fixed) for one in read.findings] == [("CVE-2199-0001", "1:1.2.11.dfsg-1+deb10u2"), ("prisma:410", "")]
    assert read.cut == {}
    assert read.scanned == utc(2026, 11, 22, 9, 30, 1, 93000)


@pytest.mark.parametrize("time", [None, "0001-01-01T00:00:00Z"])
def test_a_record_of_nobody_knows_when_is_none(time: str | None) -> None:
    record = msgspec.json.decode((DATA / "prisma.json").read_bytes())
    record[0]["scanTime"] = time
    with pytest.raises(errors.ScanError, match="prisma does not tell when"):
        PRISMA.read(raw(record))


# -- Grype ------------------------------------------------------------------------------------------------------------


def test_grype() -> None:
    argv = GRYPE.argv(IMAGE, Options(registries=REGISTRIES, arguments=("--scope", "all-layers"), program="/grype"))
    assert argv == (
        "/grype", "--output", "json", "--file", "/scan/report.json", "--scope", "all-layers", f"registry:10.213.0.1:5000/tes-test/old@{DIGEST}",
    )  # fmt: skip
    assert GRYPE.env(Options(registries=REGISTRIES))["GRYPE_REGISTRY_INSECURE_USE_HTTP"] == "true"


def test_a_report_of_grype() -> None:
    read = GRYPE.read(raw(recorded("grype.json")))
    assert read.scanner_version == "0.104.0"
    assert read.database_time == utc(2026, 11, 22, 6, 40, 13)
    assert read.digests == (DIGEST, "sha256:" + "b" * 64)
    assert read.os == "debian 10"
    assert [(one.id, one.severity, one.fixed) for one in read.findings] == [
        ("CVE-2199-0001", "CRITICAL", "1:1.2.11.dfsg-1+deb10u2"),
        ("CVE-2199-0002", "LOW", ""),
    ]
    before = recorded("grype.json")
    before["descriptor"]["db"] = {"built": "2024-01-02T03:04:05Z", "schemaVersion": 5}
    assert GRYPE.read(raw(before)).database_time == utc(2024, 1, 2, 3, 4, 5)


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCANNERS)
@pytest.mark.parametrize(
    "garbage", [b"", b"null", b"[]", b"{}", b"FATAL\terror", b'{"results": [], "SchemaVersion": 1}', b"[{}]", b"[{}, {}]", b"\x00\xff", b"[" * 100_000, b"\x1e"]
)
def test_garbage_is_no_report(name: str, garbage: bytes) -> None:
    with pytest.raises(errors.ScanError, match=name):
        SCANNERS[name].read(garbage)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("trivy", {"SchemaVersion": 2, "ArtifactType": "filesystem"}),
        ("trivy", {"SchemaVersion": 3}),
        ("trivy", {"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"Severity": "HIGH"}]}]}),
        ("grype", {"matches": [], "descriptor": {}, "source": {"type": "directory", "target": "/"}}),
        ("twistcli", {"results": [{}, {}]}),
    ],
)
def test_a_report_about_something_else_is_no_report(name: str, document: object) -> None:
    with pytest.raises(errors.ScanError, match=name):
        SCANNERS[name].read(raw(document))


@pytest.mark.parametrize("name", SCANNERS)
def test_a_report_that_was_cut_off_is_no_report(name: str) -> None:
    whole = (DATA / f"{name}.json").read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        with pytest.raises(errors.ScanError, match=name):
            SCANNERS[name].read(whole[:length])
    with pytest.raises(errors.ScanError, match="it ends in the middle"):
        SCANNERS[name].read(whole[:-1])
    with pytest.raises(errors.ScanError, match="it is empty"):
        SCANNERS[name].read(b" ")
    with pytest.raises(errors.ScanError, match="it is no JSON"):
        SCANNERS[name].read(b"<html>")
    assert SCANNERS[name].read(whole).counts


def test_the_words_of_prisma_s_programs_about_fixes() -> None:
    assert base.fixed_in("fixed in 1.2, 1.3") == "1.2, 1.3"
    assert [base.fixed_in(status) for status in ("needed", "", "will not fix", "fixed in ")] == [""] * 4


def test_images_of_a_local_engine() -> None:
    assert not TRIVY.engine(IMAGE)
    assert TRIVY.engine(DIGEST)
    assert TRIVY.argv(DIGEST, Options(server="http://t"))[11] == "docker"
    assert TWISTCLI.engine(IMAGE)
    assert not GRYPE.engine(IMAGE)
    assert GRYPE.argv(DIGEST, Options())[-1] == f"docker:{DIGEST}"


@pytest.mark.parametrize("scanner", [TRIVY, GRYPE])
def test_an_engine_s_image_is_known_by_its_id_also_where_it_has_other_digests(scanner: Scanner) -> None:
    image, other = f"sha256:{'1' * 64}", f"r.example/x@sha256:{'2' * 64}"
    trivy = {"SchemaVersion": 2, "ArtifactType": "container_image", "Metadata": {"ImageID": image, "RepoDigests": [other]}}
    grype = {
        "matches": [],
        "descriptor": {"name": "grype"},
        "source": {"type": "image", "target": {"imageID": image, "manifestDigest": f"sha256:{'3' * 64}", "repoDigests": [other]}},
    }
    read = scanner.read(msgspec.json.encode(trivy if scanner is TRIVY else grype))
    rules, now = Policy(scanner=scanner.name), utc(2026, 11, 22)
    outcomes = {digest: policy.judge(read, rules, policy.key(digest, "x", rules), "x", now).outcome for digest in (image, other[-71:], f"sha256:{'4' * 64}")}
    assert list(outcomes.values()) == [Outcome.PASS, Outcome.PASS, Outcome.ERROR]


def test_what_tells_no_digest_is_not_known_by_an_id_alone() -> None:
    assert TRIVY.read(b'{"SchemaVersion": 2, "Metadata": {"ImageID": "sha256:%s"}}' % (b"1" * 64)).digests == ()


def test_how_a_registry_is_reached() -> None:
    assert base.reached(IMAGE, {}) == (IMAGE, False)
    assert base.reached("ghcr.io/a/b@x", {"ghcr.io": "https://mirror.example/ghcr/"}) == ("mirror.example/ghcr/a/b@x", False)
    assert base.reached(IMAGE, REGISTRIES) == (f"10.213.0.1:5000/tes-test/old@{DIGEST}", True)
    assert base.reached(DIGEST, REGISTRIES) == (DIGEST, False)


def test_arguments_that_a_site_may_not_give() -> None:
    for scanner in SCANNERS.values():
        given = {name for word in scanner.argv(IMAGE, Options(server="http://t", console="https://c")) for name in base.flags(word)}
        assert given & scanner.reserved
        assert not scanner.reserved & scanner.instead.keys()
    assert [base.flags(word) for word in ("--token=x", "-token", "-fjson", "-s", "os", "-", "--", "-1")] == [
        ("--token",), ("-t", "--token"), ("-f", "--fjson"), ("-s",), (), (), ("--",), ("-1",),
    ]  # fmt: skip
    assert base.lacking(("--pkg-types", "os", "--scanners", "vuln,secret"), TRIVY.needs) is None
    assert base.lacking(("--pkg-types", "os", "--scanners", "secret"), TRIVY.needs) == 2
    assert base.lacking(("--scanners=vuln", "--scanners="), TRIVY.needs) == 1
    assert base.lacking(("--scanners",), TRIVY.needs) == 0
