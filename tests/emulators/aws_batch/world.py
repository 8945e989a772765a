"""What there is in the emulated account: compute environments with their hosts, job queues, secrets, and how fast things go. Data only."""

from __future__ import annotations

import dataclasses

ACCOUNT = "123456789012"
KIND = "aws-batch"
REGION = "us-east-1"
KEY = "EMULATOR"
SECRET = "emulator-secret"  # of an account that does not exist
"""The access key that `Emulator.environment` names: it may do everything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What a host offers to jobs; `memory` in MiB."""

    vcpus: int = 4
    memory: int = 7680
    gpus: int = 0
    instance_type: str = "c6i.xlarge"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """A compute environment: so many hosts, all alike. One that is lost is replaced."""

    name: str
    spot: bool = False
    hosts: int = 2
    size: Size = Size()
    enabled: bool = True
    kind: str = ""
    """`computeResources.type`; empty = SPOT or EC2"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queue:
    """A job queue; `fair` = it has a fair-share scheduling policy, jobs need a share identifier."""

    name: str
    environments: tuple[str, ...]
    priority: int = 1
    fair: bool = False
    enabled: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The account. Seconds throughout."""

    environments: tuple[Environment, ...] = (Environment(name="spot-hosts", spot=True), Environment(name="regular-hosts"))
    queues: tuple[Queue, ...] = (
        Queue(name="spot", environments=("spot-hosts",)),
        Queue(name="regular", environments=("regular-hosts",)),
        Queue(name="fair", environments=("regular-hosts",), fair=True),
    )
    events: str = "tes-events"
    """the SQS queue that the EventBridge rule sends job state changes to"""
    visibility: float = 30.0
    """its visibility time-out"""
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)
    """name -> SecretString"""
    boot: float = 0.5
    """until a lost host is replaced"""
    stop: float = 30.0
    """between TERM and KILL of a job's container (ECS_CONTAINER_STOP_TIMEOUT)"""
    pace: float = 0.0
    """how long a job is PENDING, and then RUNNABLE, before it can be placed: real ones take seconds to minutes"""
    second: float = 1.0
    """how long a second of job time-outs takes: a test may not have the 60 that are the least"""
    submits: float = 50.0
    """SubmitJob calls a second that are answered"""


def arn(kind: str, name: str, service: str = "batch") -> str:
    """The name of a resource of this account."""
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{kind}/{name}"
