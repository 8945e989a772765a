"""What the renderer is told about the cluster: plain data, from the settings. This module must never hold a credential, only names of Secrets."""

from __future__ import annotations

import msgspec

from tes_server.plan.steps import Plan
from tes_server.runner.pod import PodSite

MiB = 1024 * 1024


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one container asks for and may not exceed: cores and bytes. 0 = not said."""

    cpus: float = 0.0
    ram_bytes: int = 0
    most_cpus: float = 0.0
    most_ram_bytes: int = 0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A PersistentVolumeClaim that `file://` urls and live mounts may lead to: what is at `path` for this site is its root."""

    name: str
    path: str
    read_only: bool = False


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """A taint that pods are to tolerate. `value` "" = whatever it has."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one kind: the labels that they bear and the taints that keep others away."""

    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs of one type: the resource that counts them, and their nodes."""

    resource: str = "nvidia.com/gpu"
    pool: Pool = Pool()


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The Azure workload identity of stage containers."""

    client_id: str
    tenant_id: str
    authority: str = "https://login.microsoftonline.com/"


class SecretKey(msgspec.Struct, frozen=True):
    """A Secret in the tasks' namespace, and the key of it that is meant; "" = whoever asks for it names the key."""

    secret: str
    key: str = ""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """tes-step in the cluster: the ConfigMap that holds it, and the nodes that it runs on."""

    name: str
    architecture: str


AKS_SPOT = Pool(
    labels={"kubernetes.azure.com/scalesetpriority": "spot"},
    taints=(Taint(key="kubernetes.azure.com/scalesetpriority", value="spot"),),
)
"""How AKS marks the nodes of a spot pool."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as the site's settings have it. Times in seconds."""

    namespace: str
    server: str
    """value of the label that tells the Jobs of several servers in one namespace apart"""
    image: str
    """of the stage containers: this server's own"""
    shared: PodSite = PodSite()
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    owner_pull_secrets: dict[str, tuple[str, ...]] = {}
    """the same for the tasks of some owners, by their names or patterns"""
    service_account: str = ""
    identity: Identity | None = None
    stage_environment: dict[str, str] = {}
    stage_secrets: tuple[str, ...] = ()
    """Secrets whose keys become variables of stage containers: credentials of stores"""
    secrets: dict[str, SecretKey] = {}
    """what executors may name as `secret://NAME`, and where it is kept"""
    scan_secrets: dict[str, SecretKey] = {}
    """the same for scanners of images, who have no other, and nobody else has these"""
    stage: Share = Share(cpus=0.02, ram_bytes=64 * MiB, most_cpus=2.0, most_ram_bytes=2048 * MiB)
    token: Share = Share(cpus=0.001, ram_bytes=4 * MiB)
    """what executors behind the first ask for; they may use what the task may"""
    cpu_limit: bool = True
    """executors may not use more than the task's cores"""
    claims: tuple[Claim, ...] = ()
    storage_class: str = ""
    """of volumes for tasks that ask for `storage_from` bytes of disk and more; "" = the node's disk for all"""
    storage_claim: str = ""
    """in place of a class: the PersistentVolumeClaim on which such tasks have directories"""
    storage_from: int = 100_000_000_000
    spot: Pool = AKS_SPOT
    gpu: Gpu = Gpu()
    """for tasks that name no `gpu_type`"""
    gpu_types: dict[str, Gpu] = {}
    """by `gpu_type`"""
    selectors: dict[str, str] = {}
    """keys of backend_parameters that choose nodes, and the node label of each"""
    tag_labels: tuple[str, ...] = ()
    """tags of tasks that become labels of pods: for cost reports"""
    priority_class: str = ""
    queue: str = ""
    """Kueue's LocalQueue"""
    restricted: bool = False
    """all containers run as user `uid` without any capability"""
    uid: int = 1000
    user_namespaces: bool = False
    """pods have user namespaces of their own: root in a container is nobody on the node"""
    grace: float = 10.0
    """between TERM and KILL of a command"""
    pod_grace: float = 60.0
    """between TERM and KILL of a pod: `grace` and the time for the report"""
    save_seconds: float = 3600.0
    """a pod is ended for good so long after its max_runtime: what stage-out has for the outputs"""
    program: Program | None = None
    """for pods of one container; None = there are none"""
    node_patience: float = 45.0
    """a node that does not answer keeps its pods so long"""
    ttl: int = 3600
    """a finished Job keeps its name and its report so long: longer than a lease and the submit window together, and than this server is ever
    away, unless there is a spool"""

    def claims_disk(self, plan: Plan) -> bool:
        """True if a task gets a volume of its own class."""
        return bool(self.storage_class) and plan.limits.disk_bytes >= self.storage_from

    def shares_disk(self, plan: Plan) -> bool:
        """True if a task gets a directory of the shared claim.

        None whose executors copy results out of their own images: they have the whole directory then, and a link put there in place of a part
        would lead the next executor's mount of that part to the files of other tasks (the kubelet follows links within a volume).
        """
        return bool(self.storage_claim) and plan.limits.disk_bytes >= self.storage_from and not any(step.copies for step in plan.executors)

    def uses_node(self, plan: Plan) -> bool:
        """True if a task's files are on its node's disk."""
        return not self.claims_disk(plan) and not self.shares_disk(plan)

    def gpu_of(self, gpu_type: str) -> Gpu | None:
        """How GPUs of a type are had here; None for a type that nobody has."""
        return self.gpu_types.get(gpu_type) if gpu_type else self.gpu
