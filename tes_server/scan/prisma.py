"""The registry scan of a Prisma Cloud Compute Console: for places where there is no container engine that twistcli could look into.

What runs is this server's own image (`runner.prisma_console`), which has the Console scan the digest in its registry and writes down the record that
comes of it. The Console must have that registry in its settings, and a Defender that scans it. Pure.
This module must never take the record of another digest: the Console keeps one for each tag it ever saw.
"""

from __future__ import annotations

import datetime

import msgspec

from tes_server import errors
from tes_server.model.verdict import Finding
from tes_server.scan import base
from tes_server.scan.base import LOGINS, NOTHING, REPORT, Options
from tes_server.scan.report import ScanReport, bounded, uncounted


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    """Go writes null for what is empty."""


class _Vulnerability(_Camel, frozen=True):
    cve: str = ""
    id: int | str = ""
    severity: str = ""
    status: str = ""
    package_name: str = ""
    package_version: str = ""
    description: str = ""
    link: str = ""


class Tag(_Camel, frozen=True):
    """Which image a record is about."""

    registry: str = ""
    repo: str = ""
    tag: str = ""
    digest: str = ""


class Record(_Camel, frozen=True):
    """One image of `GET /api/v1/registry`, as far as it is read here."""

    repo_tag: Tag | None = None
    repo_digests: list[str] | None = None
    vulnerabilities: list[_Vulnerability] | None = None
    vulnerability_distribution: dict[str, int] | None = None
    distro: str = ""
    creation_time: datetime.datetime | None = None
    scan_time: datetime.datetime | None = None
    scan_version: str = ""

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests by which the Console knows the image."""
        named = [name.rpartition("@")[2] for name in self.repo_digests or ()]
        return tuple(filter(None, (self.repo_tag.digest if self.repo_tag else "", *named)))


class Prisma:
    """See `base.Scanner`."""

    name = "prisma"
    exits = frozenset({0})
    reserved = frozenset({"--address", "--output", "--seconds"})
    instead = LOGINS
    needs = NOTHING
    dates = False

    def engine(self, image: str) -> bool:  # noqa: ARG002 - one way for all images
        """The Console fetches images itself."""
        return False

    def argv(self, image: str, options: Options) -> tuple[str, ...]:
        """Our own program; names of registries are those that the Console has them by."""
        program = (options.program or "python", "-m", "tes_server.runner.prisma_console")
        return (*program, "--address", options.console, "--output", REPORT, "--seconds", str(int(options.timeout)), *options.arguments, image)

    def env(self, options: Options) -> dict[str, str]:
        """TWISTLOCK_USER and TWISTLOCK_PASSWORD are the site's to give, as for twistcli."""
        return {"HOME": "/scan", **options.env}

    def read(self, raw: bytes) -> ScanReport:
        """What was found in the one image that the Console was asked about."""
        try:
            records = msgspec.json.decode(raw, type=list[Record])
        except msgspec.MsgspecError as cause:
            raise base.unreadable("the record of prisma", raw, cause) from cause
        if len(records) != 1 or not records[0].digests:
            raise errors.ScanError("the record of prisma is not about one image with a digest")
        record = records[0]
        scanned = base.moment(record.scan_time)
        if scanned is None:
            raise errors.ScanError("the record of prisma does not tell when the Console looked at the image")
        tag = record.repo_tag or Tag()
        report = ScanReport(
            scanner=self.name,
            scanner_version=record.scan_version,
            target=f"{tag.registry}/{tag.repo}".strip("/"),
            digests=record.digests,
            os=record.distro,
            created=base.moment(record.creation_time),
            scanned=scanned,
        )
        return uncounted(bounded(report, map(_finding, record.vulnerabilities or ())), record.vulnerability_distribution or {})


def _finding(one: _Vulnerability) -> Finding:
    return Finding(
        id=one.cve or f"prisma:{one.id}",
        severity=one.severity,
        package=one.package_name,
        installed=one.package_version,
        fixed=base.fixed_in(one.status),
        title=one.description,
        url=one.link,
    )
