"""The settings of tasks as AWS Batch jobs; `aws_rules` makes them what the backend is told. Data only."""

from __future__ import annotations

from tes_server.settings_parts import Amount, Count, HostMountSettings, Part, Pause


class RoleSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An IAM role for the tasks of some owners: with it their inputs and outputs are moved and their secrets read."""

    role: str
    """ARN of the role."""
    owners: tuple[str, ...] = ()
    """Whose tasks get it; `*` stands for any text."""
    outputs: tuple[str, ...] = ()
    """Tasks get it whose outputs all lie at or below one of these urls."""


class QueueSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A job queue that tasks may choose by backend_parameters `queue`."""

    queue: str
    """Name or ARN of the job queue with on-demand capacity."""
    spot: str = ""
    """That of the one with Spot capacity; empty = preemptible tasks go to the first, too."""


class AwsBatchSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Running tasks as AWS Batch jobs on EC2 compute environments (`pip install 'tes-server[aws]'`). Needs `spool.url`."""

    queue: str = ""
    """Name or ARN of the job queue with on-demand capacity. Empty = no tasks run on AWS Batch."""
    spot_queue: str = ""
    """That of the one with Spot capacity, for preemptible tasks. Empty = they run on the first, too."""
    queues: dict[str, QueueSettings] = {}
    """Further queues, by the name that tasks give as backend_parameters `queue`."""
    region: str = ""
    """AWS region. Empty = AWS_REGION, or the profile's."""
    profile: str = ""
    """Profile of the AWS configuration files. Empty = the usual search for credentials."""
    image: str = ""
    """This server's own image, which runs the tasks on the hosts."""
    job_role: str = ""
    """ARN of the IAM role with which inputs and outputs are moved. Executors do not have it. Empty = the hosts' own."""
    execution_role: str = ""
    """ARN of the IAM role with which the container agent pulls `image` and writes its log. Empty = the hosts' own."""
    roles: tuple[RoleSettings, ...] = ()
    """Roles in place of `job_role`; the first that holds for a task counts."""
    events: str = ""
    """Url of the SQS queue that gets the job state changes from EventBridge. Empty = jobs are asked for every `poll` seconds."""
    poll: Pause = 30.0
    """Seconds between two looks at all jobs where no events come."""
    sweep: Pause = 600.0
    """Seconds between two looks at all jobs where events come."""
    work: str = "/var/lib/tes-server"
    """Directory of the hosts in which tasks run: on the largest disk that they have. The template's reaper looks after /var/lib/tes-server alone."""
    network: str = "bridge"
    """Docker network of the tasks' containers: bridge, or none."""
    grace: Pause = 10.0
    """Seconds between TERM and KILL of a command: at least ten less than the hosts' ECS_CONTAINER_STOP_TIMEOUT (90 in our template)."""
    reap_seconds: Amount = 30.0
    """Seconds after which the containers of a runner that is dead are gone: the hosts' reaper looks for them every few seconds."""
    overhead_mib: Count = 256
    """Memory (MiB) that each job reserves for its runner, beside the task's."""
    max_cpus: Amount = 0.0
    """Most cores of one task: what the largest host offers. 0 = no bound known."""
    max_ram_gb: Amount = 0.0
    """Most memory of one task, 10^9 bytes. 0 = no bound known."""
    max_disk_gb: Amount = 0.0
    """Most disk of one task, 10^9 bytes. 0 = no bound known."""
    max_gpus: Count = 0
    """Most GPUs of one task."""
    save_seconds: Amount = 3600.0
    """Seconds after its max_runtime in which a task's outputs are saved."""
    wait_config: Pause = 900.0
    """Seconds that a task waits while AWS Batch says that its queue or compute environment is misconfigured; then it ends."""
    wait_capacity: Amount = 0.0
    """Seconds that a task waits for capacity; 0 = for ever."""
    mounts: tuple[HostMountSettings, ...] = ()
    """Directories of the hosts that tasks may name."""
    environment: dict[str, str] = {}
    """Further environment variables of the runner: endpoints, proxies."""
    secrets: dict[str, str] = {}
    """What tasks may name as `secret://NAME` in `executors[].env`: the ARN of each in AWS Secrets Manager."""
    scan_secrets: dict[str, str] = {}
    """The same for scans of images (`scan.env`), which tasks may not name. No name is in both."""
    share: str = ""
    """Share identifier of all jobs, for queues with a fair-share policy. `owner` = the task's owner."""
    shares: tuple[str, ...] = ()
    """Share identifiers that tasks may choose by backend_parameters `share`."""
    priorities: dict[str, Count] = {}
    """Scheduling priorities (0 to 9999) within a share that tasks may choose by backend_parameters `priority`, by the name that they give."""
    tag_tags: tuple[str, ...] = ()
    """Tags of tasks that become tags of jobs, for cost reports."""
    log_group: str = ""
    """CloudWatch log group for what runners say. Empty = /aws/batch/job."""
