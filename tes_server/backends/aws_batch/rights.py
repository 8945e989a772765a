"""Whether AWS lets this server do what it must, and whether its queues can run jobs, asked before any task needs it. Changes nothing there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tes_server.backends.aws_batch import names
from tes_server.backends.aws_batch.calls import Calls, Refused
from tes_server.backends.aws_batch.site import Site

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The id of no job."""

NOTHING = "tes-server-doctor-asks"
"""The name of no job definition."""

Call = Callable[[str, Mapping[str, Any]], dict[str, Any]]


def faults(server: Calls, site: Site, events: str) -> list[str]:
    """Every fault in words: missing permissions, queues that are missing, disabled or without hosts, the queue of events. Raises Unavailable if AWS is away."""
    found = [*_denied(server, site, events), *_queues(server, site)]
    return list(dict.fromkeys(found))


def _denied(server: Calls, site: Site, events: str) -> Iterator[str]:
    """Each call that is needed, as one that does nothing: a request that is at fault is refused only after the caller's rights were looked at."""
    queue = site.queues.regular
    nothing_asked = {"jobName": NOTHING, "jobDefinition": NOTHING, "tags": {names.SERVER_TAG: site.server}, "propagateTags": True}
    asked: list[tuple[str, Call, str, Mapping[str, Any]]] = [
        ("batch:DescribeJobQueues", server.batch, "describe_job_queues", {"jobQueues": [queue]}),
        ("batch:DescribeComputeEnvironments", server.batch, "describe_compute_environments", {"maxResults": 1}),
        ("batch:DescribeJobDefinitions", server.batch, "describe_job_definitions", {"jobDefinitionName": NOTHING, "status": "ACTIVE"}),
        ("batch:RegisterJobDefinition", server.batch, "register_job_definition", {"jobDefinitionName": NOTHING, "type": "container"}),
        *(("batch:SubmitJob", server.batch, "submit_job", {**nothing_asked, "jobQueue": name}) for name in site.every_queue()),
        ("batch:DescribeJobs", server.batch, "describe_jobs", {"jobs": [NOBODY]}),
        ("batch:ListJobs", server.batch, "list_jobs", {"jobQueue": queue, "jobStatus": "RUNNING", "maxResults": 1}),
        ("batch:TerminateJob", server.batch, "terminate_job", {"jobId": NOBODY, "reason": NOTHING}),
    ]
    if events:
        nothing = [{"Id": "0", "ReceiptHandle": NOTHING}]
        asked += [
            ("sqs:GetQueueAttributes", server.sqs, "get_queue_attributes", {"QueueUrl": events, "AttributeNames": ["ApproximateNumberOfMessages"]}),
            ("sqs:ReceiveMessage", server.sqs, "receive_message", {"QueueUrl": events, "VisibilityTimeout": 0, "WaitTimeSeconds": 0}),
            ("sqs:DeleteMessage", server.sqs, "delete_message_batch", {"QueueUrl": events, "Entries": nothing}),
            (
                "sqs:ChangeMessageVisibility",
                server.sqs,
                "change_message_visibility_batch",
                {"QueueUrl": events, "Entries": [{**nothing[0], "VisibilityTimeout": 0}]},
            ),
        ]
    for right, call, operation, request in asked:
        try:
            call(operation, request)
        except Refused as cause:
            if cause.denied:
                yield f"{right} is not allowed: {cause.public}"
            elif not cause.ours or (right.startswith("sqs:") and "NonExistentQueue" in cause.code):
                yield f"{right}: {cause.public}"


def _queues(server: Calls, site: Site) -> Iterator[str]:
    """Each queue is there, takes jobs, and has a compute environment that can run them."""
    wanted = site.every_queue()
    try:
        found = server.batch("describe_job_queues", {"jobQueues": list(wanted)})["jobQueues"]
    except Refused:
        return  # told above
    for name in wanted:
        queue = next((queue for queue in found if name in (queue["jobQueueName"], queue["jobQueueArn"])), None)
        if queue is None:
            yield f"there is no job queue {name} in {server.region}"
        elif queue["state"] != "ENABLED" or queue.get("status", "VALID") != "VALID":
            yield f"job queue {name} is {queue['state']}, {queue.get('status', '')} {queue.get('statusReason', '')}".rstrip()
        else:
            yield from _environments(server, name, [str(part["computeEnvironment"]) for part in queue["computeEnvironmentOrder"]])


def _environments(server: Calls, queue: str, wanted: list[str]) -> Iterator[str]:
    try:
        found = server.batch("describe_compute_environments", {"computeEnvironments": wanted})["computeEnvironments"]
    except Refused:
        return
    for part in found:
        name, kind = part["computeEnvironmentName"], part.get("computeResources", {}).get("type", "")
        if kind.startswith("FARGATE") or part.get("containerOrchestrationType") == "EKS":
            yield f"compute environment {name} of job queue {queue} is {kind or 'of EKS'}: tasks need hosts of EC2, whose Docker socket runs their containers"
        elif part.get("state", "ENABLED") != "ENABLED" or part.get("status", "VALID") != "VALID":
            yield f"compute environment {name} of job queue {queue} is {part.get('state')}, {part.get('status')} {part.get('statusReason', '')}".rstrip()
