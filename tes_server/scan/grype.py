"""Grype: its command line and its JSON report. https://oss.anchore.com/docs/reference/grype/ (configuration, JSON). Pure.

This module must never let Grype judge: without `--fail-on` it exits with 0 whatever it finds.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from tes_server import errors
from tes_server.model.verdict import Finding
from tes_server.scan import base
from tes_server.scan.base import HIDES, NOTHING, REPORT, Options
from tes_server.scan.report import ScanReport, bounded


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    """Go writes null for what is empty."""


class _Fix(_Camel, frozen=True):
    versions: list[str] | None = None
    state: str = ""


class _Vulnerability(_Camel, frozen=True):
    id: str
    severity: str = ""
    data_source: str = ""
    description: str = ""
    fix: _Fix | None = None


class _Artifact(_Camel, frozen=True):
    name: str = ""
    version: str = ""


class _Match(_Camel, frozen=True):
    vulnerability: _Vulnerability
    artifact: _Artifact = _Artifact()


class _Target(_Camel, frozen=True):
    user_input: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    manifest_digest: str = ""
    repo_digests: list[str] | None = None


class _Source(_Camel, frozen=True):
    type: str = ""
    target: _Target | str | None = None


class _Distro(_Camel, frozen=True):
    name: str = ""
    version: str = ""


class _Status(_Camel, frozen=True):
    built: datetime.datetime | None = None


class _Database(_Camel, frozen=True):
    built: datetime.datetime | None = None  # until 0.87
    status: _Status | None = None


class _Descriptor(_Camel, frozen=True):
    name: str = ""
    version: str = ""
    db: _Database | None = None


class _Report(_Camel, frozen=True):
    matches: list[_Match] | None
    descriptor: _Descriptor
    source: _Source | None = None
    distro: _Distro | None = None


_INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("--only-fixed", "--only-notfixed", "GRYPE_ONLY_FIXED", "GRYPE_ONLY_NOTFIXED"), HIDES.format("scan.policy.fixable_only")),
    **dict.fromkeys(("--ignore-states", "GRYPE_IGNORE_STATES"), HIDES.format("scan.policy.fixable_only, scan.policy.ignore")),
    **dict.fromkeys(("GRYPE_FAIL_ON_SEVERITY",), "would have the scan fail: use scan.policy.severities"),
}


class Grype:
    """See `base.Scanner`."""

    name = "grype"
    exits = frozenset({0})
    reserved = frozenset({"--output", "-o", "--file", "--fail-on", "-f", "--from", "--template", "-t", "--distro"})
    instead = _INSTEAD
    needs = NOTHING
    dates = True

    def engine(self, image: str) -> bool:
        """Images in registries Grype fetches itself."""
        return base.is_local(image)

    def argv(self, image: str, options: Options) -> tuple[str, ...]:
        """`grype registry:IMAGE`, or `docker:ID`."""
        name, _ = base.reached(image, options.registries)
        source = "docker" if base.is_local(image) else "registry"
        return (options.program or "grype", *("--output", "json"), *("--file", REPORT), *options.arguments, f"{source}:{name}")

    def env(self, options: Options) -> dict[str, str]:
        """Its database is the scan's own, unless the site says where there is one."""
        plain = any(url.startswith("http://") for url in options.registries.values())
        return {
            "HOME": "/scan",
            "GRYPE_CHECK_FOR_APP_UPDATE": "false",
            "GRYPE_DB_CACHE_DIR": "/scan/cache",
            **({"GRYPE_REGISTRY_INSECURE_USE_HTTP": "true"} if plain else {}),
            **options.env,
        }

    def read(self, raw: bytes) -> ScanReport:
        """What was found. A finding that a distribution will not mend has no fix."""
        try:
            read = msgspec.json.decode(raw, type=_Report)
        except msgspec.MsgspecError as cause:
            raise base.unreadable("the report of grype", raw, cause) from cause
        source = read.source or _Source()
        if source.type not in ("", "image"):
            raise errors.ScanError(f"grype looked at a {source.type}, not at an image")
        target = source.target if isinstance(source.target, _Target) else _Target()
        database = read.descriptor.db or _Database()
        built = database.status.built if database.status else database.built
        distro = read.distro or _Distro()
        report = ScanReport(
            scanner=self.name,
            scanner_version=read.descriptor.version,
            database=f"of {built:%Y-%m-%d %H:%M}" if built else "",
            database_time=built.astimezone(datetime.UTC) if built else None,
            target=target.user_input,
            digests=base.known(target.image_id, target.manifest_digest, *(name.rpartition("@")[2] for name in target.repo_digests or ())),
            os=f"{distro.name} {distro.version}".strip(),
        )
        return bounded(report, map(_finding, read.matches or ()))


def _finding(one: _Match) -> Finding:
    found = one.vulnerability
    fix = found.fix or _Fix()
    return Finding(
        id=found.id,
        severity=found.severity,
        package=one.artifact.name,
        installed=one.artifact.version,
        fixed=", ".join(fix.versions or ()) if fix.state == "fixed" else "",
        title=found.description,
        url=found.data_source,
    )
