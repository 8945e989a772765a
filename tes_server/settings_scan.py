"""The settings of image scans; `scan_rules` makes them what the gate, the scanner and the policy are told. Data only."""

from __future__ import annotations

import datetime
from typing import Literal

from tes_server.settings_parts import Amount, Part, Pause

Mode = Literal["off", "warn", "enforce"]
Severity = Literal["CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN"]


class IgnoreSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Findings that the site has looked at and accepts for a while."""

    id: str
    """Their id, e.g. `CVE-2026-1234`, or a shell pattern of ids."""
    reason: str
    """Why they are accepted, for whoever reads this later."""
    expires: datetime.date
    """The last day (UTC) on which they are: `2027-01-31`."""
    package: str = ""
    """Shell pattern of the package's name; empty = any."""
    image: str = ""
    """The images for which they are, as in `scan.policy.allow`; empty = all."""


class ScanPolicySettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What images must be like."""

    severities: tuple[Severity, ...] = ("CRITICAL", "HIGH")
    """Severities of which an image may have no finding. Empty = all findings are taken."""
    fixable_only: bool = False
    """Findings count only where a fixed version is known."""
    ignore: tuple[IgnoreSettings, ...] = ()
    """Findings that do not count, e.g. `[[scan.policy.ignore]]` tables with `id`, `reason` and `expires`."""
    allow: tuple[str, ...] = ()
    """Registries, parts of them, or images that tasks may use: `docker.io/library`, `*.azurecr.io`, `ghcr.io/team/tool:1.*`. Each holds for all that lies below
    it; `*` stays between two slashes. Empty = all."""
    deny: tuple[str, ...] = ()
    """The same for those that tasks may not use, also where `allow` or `scan.exempt` name them."""
    pinned: bool = False
    """Tasks must name images by their digest."""
    max_age_days: Amount = 0.0
    """Days after which an image, by what it says of itself, is too old; 0 = never."""
    end_of_life: bool = True
    """Refuse images whose system gets no fixes any more, where the scanner tells."""


class ScanSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images are scanned before anything of them runs ([image-scanning.md](image-scanning.md))."""

    mode: Mode = "off"
    """"off" looks up and scans nothing; "warn" runs tasks with what was found in their log; "enforce" runs only those whose images all pass."""
    backends: dict[str, Mode] = {}
    """The mode of tasks on some backends (`local`, `kubernetes`, `aws_batch`, `azure_batch`), in place of `mode`."""
    owners: dict[str, Mode] = {}
    """The mode of tasks of some owners, in place of all others; keys are shell patterns, the first that holds counts."""
    on_error: Literal["block", "allow"] = "block"
    """What "enforce" makes of a scan that fails, and of an image whose digest cannot be found: refuse the task, or run it with a warning."""
    scanner: Literal["trivy", "twistcli", "prisma", "grype"] = "trivy"
    """What scans. twistcli looks at images of a Docker engine, and needs one where tasks run: this machine's, or the nodes' of AWS Batch and Azure Batch.
    prisma has the Prisma Console scan them in their registries."""
    image: str = ""
    """The scanner's own image, by digest: `docker.io/aquasec/trivy@sha256:…`; for prisma this server's. It is trusted as it is."""
    program: str = ""
    """Path of the scanner's program in that image; empty = by its usual name (`trivy`, `twistcli`, `grype`) on the PATH. prisma: of Python."""
    place: Literal["job", "task"] = "job"
    """"job": each image is scanned once, by a job of its own. "task": and again first in every task, as a second lock."""
    server: str = ""
    """Trivy: url of a Trivy server that holds the database. Empty = each scan fetches a database."""
    console: str = ""
    """twistcli and prisma: url of the Prisma Cloud Compute Console."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the scanner. None that leaves findings out, nor a password: the first is for `scan.policy`, the second for `env`."""
    env: dict[str, str] = {}
    """Further environment of the scanner's container. Secrets are named `secret://NAME` or `secret://NAME/KEY`, and listed by the backend's `scan_secrets`."""
    verdict_hours: Pause = 24.0
    """Hours for which what a scan found holds."""
    error_minutes: Pause = 10.0
    """Minutes after which a scan that failed is made again, once a task needs it."""
    database_days: Amount = 7.0
    """Oldest database (days) that is believed; 0 = any. Reports of twistcli and prisma do not tell: the Console has it."""
    timeout: Pause = 900.0
    """Seconds after which a scan is given up."""
    cpus: Pause = 1.0
    """Cores of a scan."""
    ram_gb: Pause = 2.0
    """Memory (10^9 bytes) of a scan."""
    disk_gb: Amount = 10.0
    """Disk (10^9 bytes) that a scan asks for: the image's layers, and the scanner's database."""
    registries: dict[str, str] = {}
    """Urls at which this server and the scanner reach some registries, by the name that images call them: `{"127.0.0.1:5000" = "http://10.0.0.1:5000"}`."""
    docker_config: str = ""
    """Docker's config.json with this server's own logins of registries, for looking up digests. Empty = where Docker has it."""
    architectures: dict[str, str] = {}
    """Architecture of the machines of some backends: `{kubernetes = "arm64"}`. Without it: this machine's for `local`, amd64 for the others."""
    exempt: tuple[str, ...] = ()
    """Images that need no scan, as in `scan.policy.allow`; `host` are this machine's own programs in the sandbox."""
    policy: ScanPolicySettings = ScanPolicySettings()
    """What images must be like."""
