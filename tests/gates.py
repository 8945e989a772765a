"""Gates of plans with a shell in place of a scanner: what it leaves is what Trivy would."""

from __future__ import annotations

import json
from typing import Any

from tes_server.model.task import Executor, Task
from tes_server.plan import scans
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Findings, Gate
from tes_server.scan.base import REPORT
from tes_server.scan.gate import OnError
from tes_server.scan.policy import Policy

DIGEST = "sha256:" + "a" * 64
FINDINGS = Findings("trivy", REPORT)


def report(*severities: str) -> str:
    """Trivy's report of so many findings."""
    found = [{"VulnerabilityID": f"CVE-{number}", "PkgName": "openssl", "Severity": severity} for number, severity in enumerate(severities)]
    body: dict[str, Any] = {"SchemaVersion": 2, "ArtifactName": "i", "ArtifactType": "container_image"}
    return json.dumps({**body, "Results": [{"Target": "t", "Vulnerabilities": found}]})


def leaves(text: str) -> str:
    """A script that leaves a report."""
    return f"printf '%s' '{text}' > {REPORT}"


def gate(
    scanner: str,
    *scripts: str,
    on_error: OnError = OnError.BLOCK,
    timeout: float = 60.0,
    env: dict[str, str] | None = None,
    secrets: tuple[str, ...] = (),
) -> Gate:
    """What a task passes whose images, `image-0` and so on, are scanned by these scripts in the image `scanner`."""
    tasks = [Task(executors=(Executor(image=scanner, command=("/bin/sh", "-c", script), env=env),)) for script in scripts]
    images = [scans.Image(f"image-{number}", DIGEST, task) for number, task in enumerate(tasks)]
    made = scans.gate(images, FINDINGS, Policy(scanner="trivy"), on_error, timeout, Capabilities(scan_secrets=secrets))
    assert made is not None
    return made
