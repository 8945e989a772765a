"""From the settings to what the AWS Batch backend is told, and whether that makes sense.

On the hosts a `file://` url leads to a directory that they all have, never to one of this machine. This module must never talk to AWS.
"""

from __future__ import annotations

import json

from tes_server import errors, node_rules
from tes_server.backends.aws_batch import definition, names, render
from tes_server.backends.aws_batch.calls import LONGEST
from tes_server.backends.aws_batch.classify import Bounds
from tes_server.backends.aws_batch.site import Mount, Queues, Role, Site
from tes_server.plan.compiler import GB
from tes_server.plan.policy import Capabilities, Target, Values
from tes_server.settings import Settings

SUBMIT_WINDOW = 2 * LONGEST
"""Seconds within which a submit has ended: a call that begins in its first half has."""

RUN = ("AWS_BATCH_JOB_ID",)
"""What names one start of one job: AWS Batch never starts ours twice."""

JOB_LOG = "/aws/batch/job"

HIGHEST_PRIORITY = 9999


def enabled(settings: Settings) -> bool:
    """True if tasks run on AWS Batch."""
    return bool(settings.aws_batch.queue)


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other: SettingsError with the key at fault. Asks nobody."""
    batch = settings.aws_batch
    if not batch.image:
        raise errors.SettingsError("must name this server's own image", "aws_batch.image")
    if not names.server(settings.server.id):
        raise errors.SettingsError("must hold letters or digits: it is part of the jobs' names", "server.id")
    node_rules.check(settings, batch, "aws_batch")
    for name, queue in batch.queues.items():
        if not queue.queue:
            raise errors.SettingsError("must name a job queue", f"aws_batch.queues.{name}.queue")
    for name, priority in batch.priorities.items():
        if priority > HIGHEST_PRIORITY:
            raise errors.SettingsError(f"must be at most {HIGHEST_PRIORITY}", f"aws_batch.priorities.{name}")
    if batch.priorities and not (batch.share or batch.shares):
        raise errors.SettingsError("mean something only within a share: aws_batch.share names none", "aws_batch.priorities")
    if len(batch.tag_tags) > names.MOST_TAGS:
        raise errors.SettingsError(f"must be at most {names.MOST_TAGS}: a job has up to 50 tags, and some are this server's", "aws_batch.tag_tags")
    for number, key in enumerate(batch.tag_tags):
        if not names.is_tag(key):
            raise errors.SettingsError(f"is no key of a tag on AWS: {key!r}", f"aws_batch.tag_tags[{number}]")
    for number, role in enumerate(batch.roles):
        if not (role.owners or role.outputs):
            raise errors.SettingsError("must name owners or outputs: else no task gets it", f"aws_batch.roles[{number}]")
    size = len(json.dumps(definition.definition(site(settings), batch.job_role)))
    if size > definition.LARGEST:
        what = f"the job definition has {size} bytes with these settings, AWS Batch takes {definition.LARGEST}"
        raise errors.SettingsError(f"{what}: name fewer [[storage]] tables, secrets or variables", "aws_batch")


def target(settings: Settings) -> Target:
    """What tasks for AWS Batch are checked against."""
    batch = settings.aws_batch
    capabilities = Capabilities(
        cpus=batch.max_cpus,
        ram_bytes=int(batch.max_ram_gb * GB),
        disk_bytes=int(batch.max_disk_gb * GB),
        gpus=batch.max_gpus,
        parameters=_parameters(settings),
        plan_bytes=render.PLAN_BYTES,
        submit_window=SUBMIT_WINDOW,
        secrets=tuple(sorted(batch.secrets)),
        scan_secrets=tuple(sorted(batch.scan_secrets)),
        engine_socket=True,
    )
    return Target(policy=node_rules.policy(settings, batch.mounts), capabilities=capabilities)


def _parameters(settings: Settings) -> dict[str, Values]:
    """The backend_parameters that tasks may use: from lists of the site alone."""
    batch = settings.aws_batch
    lists = {render.QUEUE: tuple(batch.queues), render.SHARE: batch.shares, render.PRIORITY: tuple(batch.priorities)}
    return {key: Values(choices=choices) for key, choices in lists.items() if choices}


def bounds(settings: Settings) -> Bounds:
    """How long jobs may wait."""
    batch = settings.aws_batch
    return Bounds(config=batch.wait_config, capacity=batch.wait_capacity, reap=batch.reap_seconds)


def site(settings: Settings) -> Site:
    """AWS Batch as the renderer has it."""
    batch = settings.aws_batch
    return Site(
        server=names.server(settings.server.id),
        queues=Queues(regular=batch.queue, spot=batch.spot_queue),
        chosen={name: Queues(regular=queues.queue, spot=queues.spot) for name, queues in batch.queues.items()},
        node=node_rules.site(settings, batch, RUN),
        image=batch.image,
        job_role=batch.job_role,
        execution_role=batch.execution_role,
        roles=tuple(Role(arn=role.role, owners=role.owners, outputs=role.outputs) for role in batch.roles),
        # What older container agents do not tell: a bucket without a region is looked for there.
        environment={**({"AWS_REGION": batch.region} if batch.region else {}), **batch.environment},
        mounts=tuple(Mount(path=node_rules.directory(mount.path), read_only=mount.read_only) for mount in batch.mounts),
        overhead_mib=batch.overhead_mib,
        save_seconds=batch.save_seconds,
        share=batch.share,
        priorities=batch.priorities,
        tag_tags=batch.tag_tags,
        log_group=batch.log_group or JOB_LOG,
    )
