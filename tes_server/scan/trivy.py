"""Trivy, with its own database or that of a Trivy server: its command line and its JSON report.

https://trivy.dev/docs/latest/references/configuration/cli/trivy_image/ and .../configuration/reporting/#json. A report tells of the database of a
server only (since 0.70); without one a second document follows the report, what `trivy version` says. Pure.
This module must never let Trivy judge: it exits with 0 whatever it finds, so that any other exit says that the scan failed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from tes_server import errors
from tes_server.model.verdict import Finding
from tes_server.scan import base
from tes_server.scan.base import HIDES, REPORT, SHOWS, Options
from tes_server.scan.report import ScanReport, bounded

SEPARATOR = b"\x1e"
"""Stands before a further JSON document (RFC 7464); no JSON text holds it."""

_AND_VERSION = f"""\"$0" "$@" && {{ printf '\\036' && "$0" version --format json; }} >>{REPORT}"""
"""Written by a shell, which Trivy's image has. The scan's exit code is the script's unless the scan went well."""

_SCHEMA = 2
"""Of the JSON report, since Trivy 0.20."""


class _Part(msgspec.Struct, frozen=True, rename="pascal"):
    """Go writes null for what is empty."""


class _Vulnerability(_Part, frozen=True):
    id: str = msgspec.field(name="VulnerabilityID")
    pkg_name: str = ""
    installed_version: str = ""
    fixed_version: str = ""
    severity: str = ""
    title: str = ""
    url: str = msgspec.field(default="", name="PrimaryURL")


class _Secret(_Part, frozen=True):
    rule: str = msgspec.field(name="RuleID")
    severity: str = ""
    title: str = ""


class _Result(_Part, frozen=True):
    target: str = ""
    vulnerabilities: list[_Vulnerability] | None = None
    secrets: list[_Secret] | None = None


class _System(_Part, frozen=True):
    family: str = ""
    name: str = ""
    ended: bool = msgspec.field(default=False, name="EOSL")


class _Config(msgspec.Struct, frozen=True):
    created: datetime.datetime | None = None


class _Metadata(_Part, frozen=True):
    system: _System | None = msgspec.field(default=None, name="OS")
    image_id: str = msgspec.field(default="", name="ImageID")
    repo_digests: list[str] | None = None
    image_config: _Config | None = None


class _Database(_Part, frozen=True):
    updated: datetime.datetime | None = msgspec.field(default=None, name="UpdatedAt")


class _Version(_Part, frozen=True):
    version: str = ""
    database: _Database | None = msgspec.field(default=None, name="VulnerabilityDB")


class _Trivy(_Version, frozen=True):
    server: _Version | None = None


class _Report(_Part, frozen=True):
    schema: int = msgspec.field(name="SchemaVersion")
    artifact_name: str = ""
    artifact_type: str = ""
    metadata: _Metadata | None = None
    results: list[_Result] | None = None
    trivy: _Trivy | None = None


_INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("--severity", "-s", "TRIVY_SEVERITY"), HIDES.format("scan.policy.severities")),
    **dict.fromkeys(("--ignore-unfixed", "TRIVY_IGNORE_UNFIXED"), HIDES.format("scan.policy.fixable_only")),
    **dict.fromkeys(("--ignore-status", "TRIVY_IGNORE_STATUS"), HIDES.format("scan.policy.fixable_only, scan.policy.ignore")),
    **dict.fromkeys(("TRIVY_EXIT_ON_EOL",), "would have the scan fail: use scan.policy.end_of_life"),
    **dict.fromkeys(("TRIVY_SERVER",), "is for the server to give: use scan.server"),
    "--username": SHOWS.format("TRIVY_USERNAME"),
    "--password": SHOWS.format("TRIVY_PASSWORD"),
    "--registry-token": SHOWS.format("TRIVY_REGISTRY_TOKEN"),
    "--token": SHOWS.format("TRIVY_TOKEN"),
}

_NEEDS: Mapping[str, str] = {"--scanners": "vuln", "--security-checks": "vuln"}


class Trivy:
    """See `base.Scanner`."""

    name = "trivy"
    exits = frozenset({0})
    reserved = frozenset({"--format", "-f", "--output", "-o", "--exit-code", "--exit-on-eol", "--server", "--image-src", "--input", "--template", "-t"})
    instead = _INSTEAD
    needs = _NEEDS
    dates = True

    def engine(self, image: str) -> bool:
        """Images in registries Trivy fetches itself."""
        return base.is_local(image)

    def argv(self, image: str, options: Options) -> tuple[str, ...]:
        """`trivy image`, with its version and its database told after the report where no server does that."""
        program = options.program or "trivy"
        shell = () if options.server else ("sh", "-c", _AND_VERSION)
        name, _ = base.reached(image, options.registries)
        return (
            *shell,
            program,
            "image",
            *("--format", "json"),
            *("--output", REPORT),
            *("--scanners", "vuln"),
            *("--exit-code", "0"),
            *("--image-src", "docker" if base.is_local(image) else "remote"),
            *("--timeout", f"{max(1, int(options.timeout))}s"),
            *(("--server", options.server) if options.server else ()),
            *options.arguments,
            name,
        )

    def env(self, options: Options) -> dict[str, str]:
        """Options as variables, where an older Trivy does not know the argument. Its cache is the scan's own: two at one cache wait for each other."""
        plain = any(url.startswith("http://") for url in options.registries.values())
        return {
            "HOME": "/scan",
            "TRIVY_CACHE_DIR": "/scan/cache",
            "TRIVY_DISABLE_TELEMETRY": "true",
            "TRIVY_NO_PROGRESS": "true",
            "TRIVY_SKIP_VERSION_CHECK": "true",
            **({"TRIVY_INSECURE": "true"} if plain else {}),
            **options.env,
        }

    def read(self, raw: bytes) -> ScanReport:
        """Vulnerabilities, and secrets where the site has Trivy look for them; without the secrets themselves."""
        first, _, second = raw.partition(SEPARATOR)
        try:
            read = msgspec.json.decode(first, type=_Report)
            own = msgspec.json.decode(second, type=_Version) if second.strip() else read.trivy or _Version()
        except msgspec.MsgspecError as cause:
            raise base.unreadable("the report of trivy", first, cause) from cause
        if read.schema != _SCHEMA:
            raise errors.ScanError(f"the report of trivy is of schema {read.schema}, only {_SCHEMA} is known here: use another version of it")
        if read.artifact_type not in ("", "container_image"):
            raise errors.ScanError(f"trivy looked at a {read.artifact_type}, not at an image")
        metadata = read.metadata or _Metadata()
        system = metadata.system or _System()
        server = read.trivy.server if read.trivy else None
        database = (server or own).database or _Database()
        results = read.results or []
        report = ScanReport(
            scanner=self.name,
            scanner_version=own.version or (read.trivy.version if read.trivy else ""),
            database=f"of {database.updated:%Y-%m-%d %H:%M}" if database.updated else "",
            database_time=base.moment(database.updated),
            target=read.artifact_name,
            digests=base.known(metadata.image_id, *(name.rpartition("@")[2] for name in metadata.repo_digests or ())),
            os=f"{system.family} {system.name}".strip(),
            end_of_life=system.ended if metadata.system else None,
            created=base.moment(metadata.image_config.created) if metadata.image_config else None,
        )
        return bounded(report, [*_vulnerabilities(results), *_secrets(results)])


def _vulnerabilities(results: list[_Result]) -> list[Finding]:
    return [
        Finding(id=one.id, severity=one.severity, package=one.pkg_name, installed=one.installed_version, fixed=one.fixed_version, title=one.title, url=one.url)
        for result in results
        for one in result.vulnerabilities or ()
    ]


def _secrets(results: list[_Result]) -> list[Finding]:
    return [
        Finding(id=f"secret:{one.rule}", severity=one.severity, package=result.target, title=one.title) for result in results for one in result.secrets or ()
    ]
