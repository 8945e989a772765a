"""Names that this backend gives: labels, annotations, containers, volumes. Pure."""

from __future__ import annotations

import re

MANAGED = "app.kubernetes.io/managed-by"
MANAGER = "tes-server"

SERVER = "tes-server/server"
"""Label: which server made it."""

TASK = "tes-server/task"
"""Label: the id of the task."""

ATTEMPT = "tes-server/attempt"
"""Label: the number of the attempt."""

OWNER = "tes-server/owner"
"""Annotation: the owner of the task, in any letters."""

STOPPED = "tes-server/stopped"
"""Annotation of a Job that we stopped: why, as JSON (`classify.Stop`)."""

SECRETS = "tes-server/secrets"
"""Annotation of a Job whose order is in Secrets: how many."""

CLAIM = "tes-server/claim"
"""Annotation of a Job whose pod has a volume of its own class: given back with the pod."""

ALONE = "tes-server/alone"
"""Annotation of a pod of one container: how its end is judged, as JSON (`alone.Alone`)."""

ARCHITECTURE = "kubernetes.io/arch"
"""Label of nodes."""

UNDISTURBED = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of pods: an autoscaler that wants their node gone waits until they have ended. What half a day has computed is worth more than a node."""

QUEUE = "kueue.x-k8s.io/queue-name"

JOB_NAME = "batch.kubernetes.io/job-name"
"""Label that the Job controller gives pods."""

SCAN_TOOLS = "scan-tools"
STAGE_IN = "stage-in"
STAGE_OUT = "stage-out"

CONTROL = "control"
TASK_VOLUME = "task"
IDENTITY = "identity"
ORDER = "order"
SCAN = "scan"
PROGRAM = "tes-step"
"""A volume, and the one file in it."""

LONGEST_LABEL = 63

LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
"""What Kubernetes takes as the value of a label."""


ATTEMPT_NAME = re.compile(r"[a-z0-9]{1,40}-[1-9][0-9]{0,8}")
"""Names of Jobs that are attempts (`run.job_name`)."""


def executor(index: int) -> str:
    """The container of executor `index`."""
    return f"executor-{index}"


def index_of(container: str) -> int | None:
    """The inverse of `executor`; None for other containers."""
    match = re.fullmatch(r"executor-(\d{1,6})", container)
    return int(match[1]) if match else None


def scan(number: int) -> str:
    """The container of the scan of the task's image `number`."""
    return f"scan-{number}"


def is_scan(container: str) -> bool:
    """Whether a container is a scanner's."""
    return re.fullmatch(r"scan-\d{1,6}", container) is not None


def root(number: int) -> str:
    """The volume of mount `number` of a pod of one container."""
    return f"root-{number}"


def claim(number: int) -> str:
    """The volume of the site's claim `number`."""
    return f"claim-{number}"


def secret(job: str, number: int) -> str:
    """The Secret with part `number` of a Job's order."""
    return f"{job}-{number}"


def count(annotation: str) -> int:
    """The number that `SECRETS` says; 0 where somebody has written something else."""
    return int(annotation) if re.fullmatch(r"[0-9]{1,3}", annotation) else 0


def label_value(text: str) -> str:
    """Any text as the value of a label, as much of it as fits (Kubernetes: 63 letters, digits, `-_.`, ends alphanumeric)."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:LONGEST_LABEL].strip("-_.")
