"""The hosts of the compute environments: what is free on them, and what is lost with them."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import uuid
from typing import Any

from tests.emulators.aws_batch.world import Environment, Size, World, arn


@dataclasses.dataclass(eq=False)
class Host:
    """An EC2 instance. Whoever reads or changes one holds the account's lock."""

    environment: str
    spot: bool
    size: Size
    id: str = dataclasses.field(default_factory=lambda: "i-" + secrets.token_hex(8).rjust(17, "0"))
    instance: str = dataclasses.field(default_factory=lambda: arn("container-instance", f"AWSBatch/{uuid.uuid4().hex}", "ecs"))
    draining: bool = False
    leaving: threading.Event = dataclasses.field(default_factory=threading.Event)
    """what ends on it now ends because of it: AWS Batch hears of the host, and of no exit code"""
    lost: threading.Event = dataclasses.field(default_factory=threading.Event)
    """it runs nothing any more"""
    noticed: threading.Event = dataclasses.field(default_factory=threading.Event)
    """AWS Batch knows that it is lost"""
    runs: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    """what each job on it has, by job id"""
    gpus: dict[str, str] = dataclasses.field(default_factory=dict)
    """UUID of each GPU -> the job that has it, or nothing"""

    def __post_init__(self) -> None:
        self.gpus = {f"GPU-{uuid.uuid4()}": "" for _ in range(self.size.gpus)}

    def free(self, kind: str) -> int:
        whole = {"VCPU": self.size.vcpus, "MEMORY": self.size.memory, "GPU": self.size.gpus}[kind]
        return whole - sum(needs.get(kind, 0) for needs in self.runs.values())

    def takes(self, needs: dict[str, int]) -> bool:
        return not self.draining and all(self.free(kind) >= amount for kind, amount in needs.items())

    def take(self, job: str, needs: dict[str, int]) -> list[str]:
        """Reserve it; the GPUs that the job has."""
        self.runs[job] = needs
        given = [gpu for gpu, owner in self.gpus.items() if not owner][: needs.get("GPU", 0)]
        self.gpus.update(dict.fromkeys(given, job))
        return given

    def leave(self, job: str) -> None:
        self.runs.pop(job, None)
        self.gpus.update({gpu: "" for gpu, owner in self.gpus.items() if owner == job})


class Fleet:
    """All hosts, environment by environment. Whoever uses it holds the account's lock."""

    def __init__(self, world: World) -> None:
        self._environments = {environment.name: environment for environment in world.environments}
        self.hosts: dict[str, Host] = {}
        for environment in world.environments:
            for _ in range(environment.hosts):
                self.boot(environment.name)

    def boot(self, environment: str) -> Host:
        """Another host."""
        kind: Environment = self._environments[environment]
        host = Host(kind.name, kind.spot, kind.size)
        self.hosts[host.id] = host
        return host

    def remove(self, host: Host) -> None:
        self.hosts.pop(host.id, None)

    def place(self, environments: tuple[str, ...], needs: dict[str, int]) -> Host | None:
        """The first host with room, environments in their order: the fullest one, so that large jobs find room elsewhere."""
        for name in environments:
            fitting = [host for host in self.hosts.values() if host.environment == name and host.takes(needs)]
            if fitting:
                return min(fitting, key=lambda host: host.free("VCPU"))
        return None

    def could_ever(self, environments: tuple[str, ...], needs: dict[str, int]) -> bool:
        """Whether an empty host of these environments has room."""
        sizes = [self._environments[name].size for name in environments]
        return any(needs["VCPU"] <= size.vcpus and needs["MEMORY"] <= size.memory and needs.get("GPU", 0) <= size.gpus for size in sizes)

    def settings(self, environment: str) -> dict[str, Any]:
        """As DescribeComputeEnvironments tells of it."""
        kind = self._environments[environment]
        running = [host for host in self.hosts.values() if host.environment == environment]
        return {
            "computeEnvironmentName": kind.name,
            "computeEnvironmentArn": arn("compute-environment", kind.name),
            "ecsClusterArn": arn("cluster", f"AWSBatch-{kind.name}", "ecs"),
            "type": "MANAGED",
            "state": "ENABLED" if kind.enabled else "DISABLED",
            "status": "VALID",
            "statusReason": "ComputeEnvironment Healthy",
            "containerOrchestrationType": "ECS",
            "computeResources": {
                "type": kind.kind or ("SPOT" if kind.spot else "EC2"),
                "allocationStrategy": "SPOT_PRICE_CAPACITY_OPTIMIZED" if kind.spot else "BEST_FIT_PROGRESSIVE",
                "minvCpus": 0,
                "maxvCpus": kind.hosts * kind.size.vcpus,
                "desiredvCpus": sum(host.size.vcpus for host in running),
                "instanceTypes": [kind.size.instance_type],
                "subnets": ["subnet-0e1a2b3c4d5e6f708"],
                "securityGroupIds": ["sg-0e1a2b3c4d5e6f708"],
                "instanceRole": arn("instance-profile", "tes-hosts", "iam").replace(":us-east-1:", "::"),
            },
        }
