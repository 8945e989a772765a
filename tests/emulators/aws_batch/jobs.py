"""A job: what was submitted, how far it is, and how DescribeJobs and ListJobs tell of it."""

from __future__ import annotations

import dataclasses
import fnmatch
import time
import uuid
from typing import Any

from tests.emulators.aws_batch.protocol import Json
from tests.emulators.aws_batch.world import arn

ENDED = ("SUCCEEDED", "FAILED")
WAITING = ("SUBMITTED", "PENDING", "RUNNABLE")
EXITED = "Essential container in task exited"


def milliseconds() -> int:
    """Since 1970, as AWS Batch tells times."""
    return int(time.time() * 1000)


@dataclasses.dataclass(eq=False, kw_only=True)
class Job:
    """Whoever reads or changes one holds the account's lock."""

    name: str
    queue: str
    definition: Json
    container: Json
    """containerProperties with the overrides of the submission"""
    needs: dict[str, int]
    """VCPU, MEMORY (MiB), GPU"""
    strategy: Json
    timeout: int | None
    tags: dict[str, str]
    propagate: bool
    parameters: dict[str, str]
    share: str = ""
    priority: int = 0
    depends: tuple[str, ...] = ()
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    created: int = dataclasses.field(default_factory=milliseconds)
    status: str = "SUBMITTED"
    reason: str = ""
    since: float = dataclasses.field(default_factory=time.monotonic)
    """when the status changed last"""
    cancelled: bool = False
    terminated: bool = False
    stopping: str = ""
    """the reason that TerminateJob gave"""
    attempts: list[Json] = dataclasses.field(default_factory=list)
    """those that have ended"""
    now: Json = dataclasses.field(default_factory=dict)
    """container details of the attempt that runs, or of the last one: exitCode, reason, taskArn, containerInstanceArn, logStreamName"""
    started: int | None = None
    stopped: int | None = None
    host: Any = None
    """the host of the attempt that runs"""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def attempt(self) -> int:
        """Number of the attempt that runs or is next, from 1."""
        return len(self.attempts) + 1

    def tried_again(self, reason: str) -> bool:
        """Whether the strategy wants another attempt after this one's end: the first rule that matches decides, and none means yes."""
        if self.attempt >= self.strategy.get("attempts", 1) or self.terminated:
            return False
        seen = {"onStatusReason": reason, "onReason": self.now.get("reason", ""), "onExitCode": str(self.now.get("exitCode", ""))}
        for rule in self.strategy.get("evaluateOnExit", []):
            if all(fnmatch.fnmatchcase(seen[name].lower(), rule[name].lower()) for name in seen if name in rule):
                return str(rule["action"]).upper() == "RETRY"
        return True

    def describe(self) -> Json:
        """As DescribeJobs and the events of state changes tell of it."""
        told: Json = {
            "jobArn": arn("job", self.id),
            "jobName": self.name,
            "jobId": self.id,
            "jobQueue": arn("job-queue", self.queue),
            "status": self.status,
            "attempts": self.attempts,
            "createdAt": self.created,
            "retryStrategy": {"attempts": 1, "evaluateOnExit": [], **self.strategy},
            "dependsOn": [{"jobId": depended} for depended in self.depends],
            "jobDefinition": self.definition["jobDefinitionArn"],
            "parameters": self.parameters,
            "container": {**self.container, **self.now},
            "tags": {"resourceArn": arn("job", self.id), **self.tags} if self.tags else {},
            "propagateTags": self.propagate,
            "platformCapabilities": ["EC2"],
            "eksAttempts": [],
            "isCancelled": self.cancelled,
            "isTerminated": self.terminated,
        }
        if not self.tags:
            del told["tags"]
        optional = {
            "statusReason": self.reason or None,
            "startedAt": self.started,
            "stoppedAt": self.stopped,
            "shareIdentifier": self.share or None,
            "schedulingPriority": self.priority if self.share else None,
            "timeout": {"attemptDurationSeconds": self.timeout} if self.timeout else None,
        }
        return told | {name: value for name, value in optional.items() if value is not None}

    def summary(self) -> Json:
        """As ListJobs tells of it."""
        told: Json = {
            "jobArn": arn("job", self.id),
            "jobId": self.id,
            "jobName": self.name,
            "createdAt": self.created,
            "status": self.status,
            "jobDefinition": self.definition["jobDefinitionArn"],
            "isCancelled": self.cancelled,
            "isTerminated": self.terminated,
        }
        container = {name: self.now[name] for name in ("exitCode", "reason") if name in self.now}
        optional = {
            "statusReason": self.reason or None,
            "startedAt": self.started,
            "stoppedAt": self.stopped,
            "shareIdentifier": self.share or None,
            "container": container or None,
        }
        return told | {name: value for name, value in optional.items() if value is not None}
