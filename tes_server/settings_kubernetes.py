"""The settings of tasks in a Kubernetes cluster; `cluster_rules` makes them what the backend is told. Data only."""

from __future__ import annotations

from typing import Literal

from tes_server.settings_parts import Amount, Count, Number, Part, Pause


class ClaimSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One PersistentVolumeClaim that tasks in the cluster may read and write, as `file://` urls and absolute paths."""

    name: str
    """Name of the claim (ReadWriteMany, or ReadOnlyMany with `read_only`)."""
    path: str
    """The absolute path by which tasks name what is on it."""
    read_only: bool = False
    """Tasks may only read it: reference data."""


class GpuSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GPUs of one type."""

    resource: str = "nvidia.com/gpu"
    """The resource that counts them."""
    labels: dict[str, str] = {}
    """Labels of the nodes that have them."""
    taints: dict[str, str] = {}
    """Taints (NoSchedule) of those nodes: key and value; an empty value stands for any."""


class KubernetesSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Running tasks as pods of a Kubernetes cluster (`pip install 'tes-server[kubernetes]'`)."""

    namespace: str = ""
    """Namespace of the tasks' pods. Empty = no tasks run in a cluster."""
    kubeconfig: str = ""
    """Path of a kubeconfig. Empty = the cluster that this server runs in, with its pod's service account."""
    context: str = ""
    """Context of the kubeconfig; empty = its current one."""
    image: str = ""
    """This server's own image, which moves inputs and outputs in each pod."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the nodes pull images."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets with logins of private registries."""
    owner_pull_secrets: dict[str, tuple[str, ...]] = {}
    """More of them for the tasks of some owners, by name or shell pattern: `{"lab-*" = ["lab-registry"]}`. A node that has an image gives it to everybody's
    tasks, unless `pull_policy` is "Always"."""
    service_account: str = ""
    """Service account of the tasks' pods. Executors get no token of it."""
    service_accounts: tuple[str, ...] = ()
    """Service accounts that tasks may choose by backend_parameters `service_account`, in place of that one."""
    identity_client_id: str = ""
    """AKS: client id of the workload identity that moves inputs and outputs. Executors do not have it."""
    identity_tenant_id: str = ""
    """AKS: tenant of that identity."""
    stage_secrets: tuple[str, ...] = ()
    """Secrets whose keys become environment variables where inputs and outputs are moved: credentials that [[storage]] tables name."""
    stage_environment: dict[str, str] = {}
    """Further environment variables there."""
    secrets: dict[str, str] = {}
    """What tasks may name as `secret://NAME/KEY` in `executors[].env`: the Secret in their namespace, which has the key KEY; or `SECRET/KEY`, for
    `secret://NAME` alone."""
    scan_secrets: dict[str, str] = {}
    """The same for scans of images (`scan.env`), which tasks may not name. No name is in both."""
    stage_ram_gb: Pause = 2.0
    """Most memory (10^9 bytes) for moving inputs and outputs of one task."""
    one_container: bool = True
    """Tasks of one executor with no inputs, outputs or redirects run as pods of one container, where there is no `spool.url`: on nodes with this server's
    own processor architecture, and with the right to get and create ConfigMaps."""
    claims: tuple[ClaimSettings, ...] = ()
    """Shared volumes, e.g. `[[kubernetes.claims]]` tables with `name` and `path`."""
    storage_class: str = ""
    """Storage class of the volume of a task that asks for much disk. Empty = all use their node's disk."""
    storage_claim: str = ""
    """In place of a storage class: a shared volume (ReadWriteMany) on which such a task has a directory of its own below `tes-tasks/`."""
    storage_from_gb: Pause = 100.0
    """Tasks that ask for at least so much disk (10^9 bytes) get a volume of that class, or a directory of that claim."""
    max_cpus: Amount = 0.0
    """Cores that one task may ask for, those of the largest node; 0 = any, and a task too large waits until `wait_capacity` is over."""
    max_ram_gb: Amount = 0.0
    """Memory (10^9 bytes) that one task may ask for; 0 = any."""
    max_disk_gb: Amount = 0.0
    """Disk (10^9 bytes) that one task may ask for; 0 = any."""
    max_gpus: Count = 0
    """GPUs that one task may ask for."""
    gpu: GpuSettings = GpuSettings()
    """GPUs of tasks that name no `gpu_type`."""
    gpu_types: dict[str, GpuSettings] = {}
    """GPUs by `gpu_type`, each a table like `gpu`."""
    cpu_limit: bool = True
    """Executors may not use more cores than the task asked for, even if the node has them to spare."""
    spot_labels: dict[str, str] = {}
    """Labels of spot nodes, which preemptible tasks prefer. Without them and `spot_taints`: those of AKS."""
    spot_taints: dict[str, str] = {}
    """Taints (NoSchedule) of spot nodes, which only preemptible tasks tolerate: key and value; an empty value stands for any."""
    selectors: dict[str, str] = {}
    """Keys of backend_parameters by which tasks choose nodes, and the node label of each: `node_pool = "kubernetes.azure.com/agentpool"`."""
    tag_labels: tuple[str, ...] = ()
    """Tags of tasks that become labels of their pods (`tag.tes-server/…`), for cost reports."""
    priority_class: str = ""
    """PriorityClass of the tasks' pods."""
    queue: str = ""
    """Kueue: the LocalQueue in which tasks wait."""
    profile: Literal["default", "restricted"] = "default"
    """Powers of executors: "default" are those of the container runtime, which most images need; "restricted" runs all as `uid`, without any."""
    uid: Number = 1000
    """User of all containers with the profile "restricted"."""
    user_namespaces: bool = False
    """Root in a task's pod is nobody on its node (`hostUsers: false`)."""
    grace: Amount = 10.0
    """Seconds between TERM and KILL when a command is stopped."""
    save_seconds: Pause = 3600.0
    """Seconds that the outputs of a task may take after its `max_runtime`."""
    node_patience: Pause = 45.0
    """Seconds after which a node that does not answer loses its tasks."""
    ttl: Number = 3600
    """Seconds that a finished Job is kept: with `spool.url` longer than a minute or two, without longer than this server is ever away."""
    wait_image: Pause = 300.0
    """Seconds that a task waits for an image that cannot be pulled."""
    wait_config: Pause = 60.0
    """Seconds that a task waits while the cluster refuses its pod or container."""
    wait_start: Pause = 900.0
    """Seconds that a task waits for its volumes."""
    wait_capacity: Pause = 86400.0
    """Seconds that a task waits for a node, quota or its turn in the queue."""
