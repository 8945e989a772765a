"""twistcli of Prisma Cloud Compute: its command line and the JSON that `--output-file` gets.

"Scan images with twistcli" in the administrator's guide of Prisma Cloud. It looks at images of a Docker engine, which must have them, and asks the
Console what is wrong with them. Pure.
This module must never read more from the exit code than it says: 1 is both "over the Console's thresholds" and "failed". The report tells which.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable

import msgspec

from tes_server import errors
from tes_server.model.verdict import Finding
from tes_server.scan import base
from tes_server.scan.base import LOGINS, NOTHING, REPORT, Options
from tes_server.scan.report import ScanReport, bounded, uncounted


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    """Go writes null for what is empty."""


class _Vulnerability(_Camel, frozen=True):
    id: str
    severity: str = ""
    status: str = ""
    package_name: str = ""
    package_version: str = ""
    description: str = ""
    link: str = ""


class _Layer(_Camel, frozen=True):
    created: str | int | None = None


class _Result(_Camel, frozen=True):
    name: str = ""
    distro: str = ""
    vulnerabilities: list[_Vulnerability] | None = None
    vulnerability_distribution: dict[str, int] | None = None
    compliance_distribution: dict[str, int] | None = None
    compliance_passed: bool = msgspec.field(default=True, name="complianceScanPassed")
    vulnerability_passed: bool = msgspec.field(default=True, name="vulnerabilityScanPassed")
    vulnerabilities_passed: bool = msgspec.field(default=True, name="vulnerabilitiesScanPassed")  # as the guide has it
    history: list[_Layer] | None = None


class _Report(msgspec.Struct, frozen=True, rename={"console": "consoleURL"}):
    results: list[_Result]
    console: str = ""


class Twistcli:
    """See `base.Scanner`."""

    name = "twistcli"
    exits = frozenset({0, 1})
    reserved = frozenset({"--address", "--output-file", "--tarball", "--docker-address"})
    instead = LOGINS
    needs = NOTHING
    dates = False

    def engine(self, image: str) -> bool:  # noqa: ARG002 - one way for all images
        """It pulls nothing."""
        return True

    def argv(self, image: str, options: Options) -> tuple[str, ...]:
        """`twistcli images scan`; the image stands last, since what follows it is not read."""
        return (
            options.program or "twistcli",
            *("images", "scan"),
            *("--address", options.console),
            "--details",
            *("--output-file", REPORT),
            *options.arguments,
            image,
        )

    def env(self, options: Options) -> dict[str, str]:
        """TWISTLOCK_USER and TWISTLOCK_PASSWORD are the site's to give."""
        return {"HOME": "/scan", **options.env}

    def read(self, raw: bytes) -> ScanReport:
        """What was found, and what the Console has against the image. More counted than listed is taken as cut."""
        try:
            read = msgspec.json.decode(raw, type=_Report)
        except msgspec.MsgspecError as cause:
            raise base.unreadable("the report of twistcli", raw, cause) from cause
        if len(read.results) != 1:
            raise errors.ScanError(f"the report of twistcli is about {len(read.results)} images, not about one")
        result = read.results[0]
        report = ScanReport(
            scanner=self.name,
            database=f"of the Console {base.host(read.console)}" if read.console else "",
            target=result.name,
            os=result.distro,
            created=_newest(layer.created for layer in result.history or ()),
            refused=_refused(result),
        )
        found = bounded(report, map(_finding, result.vulnerabilities or ()))
        return uncounted(found, result.vulnerability_distribution or {})


def _finding(one: _Vulnerability) -> Finding:
    return Finding(
        id=one.id,
        severity=one.severity,
        package=one.package_name,
        installed=one.package_version,
        fixed=base.fixed_in(one.status),
        title=one.description,
        url=one.link,
    )


def _refused(result: _Result) -> tuple[str, ...]:
    lines = []
    if not (result.vulnerability_passed and result.vulnerabilities_passed):
        lines.append("the Console's policy for vulnerabilities refuses the image")
    if not result.compliance_passed:
        found = ", ".join(f"{count} {name}" for name, count in (result.compliance_distribution or {}).items() if count and name != "total")
        lines.append(f"the Console's policy for compliance refuses the image ({found or 'it does not tell why'})")
    return tuple(lines)


def _newest(times: Iterable[str | int | None]) -> datetime.datetime | None:
    """When the last layer was made; None where none tells."""
    found = []
    for time in times:
        with contextlib.suppress(msgspec.ValidationError, ValueError, OverflowError, OSError):
            made = datetime.datetime.fromtimestamp(time, datetime.UTC) if isinstance(time, int) else msgspec.convert(time, datetime.datetime)
            found.append(base.moment(made))
    return max(filter(None, found), default=None)
