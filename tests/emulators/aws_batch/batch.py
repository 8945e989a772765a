"""The operations of AWS Batch. Each takes and gives what its name's operation does, and raises AwsError."""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.emulators.aws_batch import definitions, jobs
from tests.emulators.aws_batch.account import Account
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.protocol import AwsError, Json, client_error
from tests.emulators.aws_batch.world import Queue, arn

LARGEST = 30 * 1024
"""bytes of a SubmitJob request"""
MOST_JOBS = 100
"""of DescribeJobs"""
MOST_ENDS = 50
"""of TerminateJobs and CancelJobs"""
PAGE = 1000
FILTERED_PAGE = 100


class Batch:
    """The service of one account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def resource(self, operation: str, given: Json) -> str:
        """What an operation is about, as in messages of denied access."""
        if operation == "SubmitJob":
            return arn("job-definition", given["jobDefinition"].rpartition("/")[2])
        if operation in ("TerminateJob", "CancelJob"):
            return arn("job", given["jobId"])
        return arn("job-definition", given["jobDefinitionName"]) if operation == "RegisterJobDefinition" else "*"

    # -- job definitions ---------------------------------------------------------------------------------------------

    def register_job_definition(self, given: Json) -> Json:
        with self._account.lock:
            made = self._account.definitions.register(given, len(json.dumps(given)))
            return {name: made[name] for name in ("jobDefinitionName", "jobDefinitionArn", "revision")}

    def deregister_job_definition(self, given: Json) -> Json:
        with self._account.lock:
            found = self._account.definitions.find(given["jobDefinition"])
            if found is None or ":" not in given["jobDefinition"].rpartition("/")[2]:
                raise client_error(f"Job definition {given['jobDefinition']} does not exist, or has no revision.")
            found["status"] = "INACTIVE"
            return {}

    def describe_job_definitions(self, given: Json) -> Json:
        with self._account.lock:
            found = [copy.deepcopy(definition) for definition in self._account.definitions.all()]
        if asked := given.get("jobDefinitions"):
            names = [name.rpartition("job-definition/")[2] for name in asked]
            found = [one for one in found if one["jobDefinitionName"] in names or f"{one['jobDefinitionName']}:{one['revision']}" in names]
        if name := given.get("jobDefinitionName"):
            found = [one for one in found if one["jobDefinitionName"] == name]
        if status := given.get("status"):
            found = [one for one in found if one["status"] == status]
        return _page("jobDefinitions", found, given, 100)

    # -- jobs --------------------------------------------------------------------------------------------------------

    def submit_job(self, given: Json) -> Json:
        if (size := len(json.dumps(given))) > LARGEST:
            raise client_error(f"Job payload size {size} exceeds the limit of {LARGEST} bytes.")
        for name in ("arrayProperties", "nodeOverrides", "eksPropertiesOverride", "ecsPropertiesOverride", "consumableResourcePropertiesOverride"):
            if name in given:
                raise client_error(f"The emulator does not know {name}.")
        with self._account.lock:
            queue = self._queue(given["jobQueue"])
            definition = self._account.definitions.find(given["jobDefinition"])
            if definition is None:
                raise client_error(f"JobDefinition with arn/name {given['jobDefinition']} does not exist.")
            if definition["status"] != "ACTIVE":
                raise client_error(f"JobDefinition {definition['jobDefinitionArn']} is in INACTIVE status.")
            if not queue.enabled:
                raise client_error(f"Job Queue {arn('job-queue', queue.name)} is DISABLED, and cannot accept jobs.")
            job = _job(given, definition, queue)
            self._account.add(job)
        return {"jobArn": arn("job", job.id), "jobName": job.name, "jobId": job.id}

    def describe_jobs(self, given: Json) -> Json:
        if len(given["jobs"]) > MOST_JOBS:
            raise client_error(f"Number of jobs {len(given['jobs'])} is more than {MOST_JOBS}.")
        with self._account.lock:
            found = [self._account.jobs[job] for job in dict.fromkeys(_bare(name) for name in given["jobs"]) if job in self._account.jobs]
            return {"jobs": [copy.deepcopy(job.describe()) for job in found]}

    def list_jobs(self, given: Json) -> Json:
        if "jobQueue" not in given:
            raise client_error("One of jobQueue, arrayJobId or multiNodeJobId must be given; the emulator knows jobQueue.")
        filters = given.get("filters", [])
        if len(filters) > 1:
            raise client_error("The filters can have one entry only.")
        with self._account.lock:
            queue = self._queue(given["jobQueue"])
            latest = jobs.milliseconds() - self._account.lag * 1000
            found = [job for job in self._account.jobs.values() if job.queue == queue.name and job.created <= latest]
            status = given.get("jobStatus", "" if filters else "RUNNING")
            for entry in filters:
                # The status is looked at with this one filter, and with none.
                status = status if entry.get("name") == "SHARE_IDENTIFIER" else ""
                found = [job for job in found if _matches(job, entry)]
            found = [job for job in found if not status or job.status == status]
            found.sort(key=lambda job: (-job.created, job.id))
            return _page("jobSummaryList", [job.summary() for job in found], given, FILTERED_PAGE if filters else PAGE)

    def terminate_job(self, given: Json) -> Json:
        return self._end(given["jobId"], given["reason"], self._account.terminate)

    def cancel_job(self, given: Json) -> Json:
        return self._end(given["jobId"], given["reason"], self._account.cancel)

    def terminate_jobs(self, given: Json) -> Json:
        return self._end_all(given, self._account.terminate)

    def cancel_jobs(self, given: Json) -> Json:
        return self._end_all(given, self._account.cancel)

    def _end(self, name: str, reason: str, end: Callable[[Job, str], None]) -> Json:
        """Ids that nobody knows are no error."""
        with self._account.lock:
            job = self._account.jobs.get(_bare(name))
            if job is not None and not job.ended:
                end(job, reason)
        return {}

    def _end_all(self, given: Json, end: Callable[[Job, str], None]) -> Json:
        names: list[str] = given["jobs"]
        if not 0 < len(names) <= MOST_ENDS:
            raise client_error(f"Number of jobs must be between 1 and {MOST_ENDS}.")
        done: Json = {"successful": [], "errors": []}
        for name in names:
            try:
                self._end(name, given["reason"], end)
            except AwsError as error:
                done["errors"].append({"job": name, "code": error.code, "message": error.message})
            else:
                done["successful"].append(name)
        return done

    # -- queues and compute environments -------------------------------------------------------------------------------

    def describe_job_queues(self, given: Json) -> Json:
        asked = [name.rpartition("/")[2] for name in given.get("jobQueues", [])]
        with self._account.lock:
            found = [_described(queue) for queue in self._account.world.queues if not asked or queue.name in asked]
        return _page("jobQueues", found, given, 100)

    def describe_compute_environments(self, given: Json) -> Json:
        asked = [name.rpartition("/")[2] for name in given.get("computeEnvironments", [])]
        with self._account.lock:
            found = [self._account.fleet.settings(one.name) for one in self._account.world.environments if not asked or one.name in asked]
        return _page("computeEnvironments", found, given, 100)

    def _queue(self, name: str) -> Queue:
        for queue in self._account.world.queues:
            if name in (queue.name, arn("job-queue", queue.name)):
                return queue
        raise client_error(f"Job Queue {name} does not exist.")


def _bare(job: str) -> str:
    return job.rpartition("/")[2]


def _job(given: Json, definition: Json, queue: Queue) -> Job:
    definitions.check_name("jobName", given["jobName"])
    definitions.check_strategy(given.get("retryStrategy"))
    definitions.check_timeout(given.get("timeout"))
    definitions.check_tags(given.get("tags", {}))
    if bool(given.get("shareIdentifier")) != queue.fair:
        which = "must be specified for job queues with" if queue.fair else "cannot be specified for job queues without"
        raise client_error(f"shareIdentifier {which} a fair-share scheduling policy.")
    if not 0 <= given.get("schedulingPriorityOverride", 0) <= 9999:
        raise client_error("schedulingPriorityOverride must be between 0 and 9999.")
    if "schedulingPriorityOverride" in given and not queue.fair:
        raise client_error("schedulingPriorityOverride cannot be specified for job queues without a fair-share scheduling policy.")
    if len(given.get("dependsOn", [])) > 20:
        raise client_error("A job can depend upon a maximum of 20 jobs.")
    container, needs = _overridden(definition["containerProperties"], given.get("containerOverrides", {}))
    usual = {"timeout": {}, "retryStrategy": {}, "propagateTags": False, "schedulingPriorityOverride": definition.get("schedulingPriority", 0)}
    whole: Json = {**usual, **definition, **given}
    return Job(
        name=given["jobName"],
        queue=queue.name,
        definition=definition,
        container=container,
        needs=needs,
        strategy=whole["retryStrategy"],
        timeout=whole["timeout"].get("attemptDurationSeconds"),
        tags=given.get("tags", {}),
        propagate=whole["propagateTags"],
        parameters={**definition["parameters"], **given.get("parameters", {})},
        share=given.get("shareIdentifier", ""),
        priority=whole["schedulingPriorityOverride"],
        depends=tuple(entry["jobId"] for entry in given.get("dependsOn", []) if "jobId" in entry),
    )


def _overridden(container: Json, given: Json) -> tuple[Json, dict[str, int]]:
    """The container of a job, and what it needs of a host."""
    definitions.check_environment(given.get("environment", []))
    whole = {"command": [], "volumes": [], "mountPoints": [], "ulimits": [], "networkInterfaces": [], "secrets": [], **copy.deepcopy(container)}
    needs = definitions.check_resources(container.get("resourceRequirements", []))
    needs = {"VCPU": container.get("vcpus", 1), "MEMORY": container.get("memory", 4), **needs}
    needs |= definitions.check_resources(given.get("resourceRequirements", []))
    environment = {entry["name"]: entry.get("value", "") for entry in [*container.get("environment", []), *given.get("environment", [])]}
    whole["environment"] = [{"name": name, "value": value} for name, value in environment.items()]
    whole["resourceRequirements"] = [{"type": kind, "value": str(amount)} for kind, amount in needs.items()]
    if "command" in given:
        if "" in given["command"]:
            raise client_error("containerOverrides.command can't contain an empty string.")
        whole["command"] = given["command"]
    return whole, needs


def _matches(job: Job, entry: Json) -> bool:
    """One filter of ListJobs: names match whatever their case, a `*` at their end stands for any text."""
    name, values = entry.get("name"), entry.get("values", [])
    if name in ("BEFORE_CREATED_AT", "AFTER_CREATED_AT"):
        return any(job.created < int(value) if name == "BEFORE_CREATED_AT" else job.created > int(value) for value in values)
    if name == "SHARE_IDENTIFIER":
        return job.share in values
    if name == "JOB_NAME":
        text = job.name
    elif name == "JOB_DEFINITION":
        text = f"{job.definition['jobDefinitionName']}:{job.definition['revision']}"
        values = [value.rpartition("job-definition/")[2] for value in values]
        values = [value if ":" in value or value.endswith("*") else f"{value}:*" for value in values]
    else:
        raise client_error(f"The filter {name} is not valid.")
    return any(fnmatch.fnmatchcase(text.lower(), value.lower()) for value in values)


def _page(name: str, found: Sequence[Any], given: Json, most: int) -> Json:
    size = given.get("maxResults", most)
    token = given.get("nextToken", "0")
    if not token.isdecimal() or not size > 0:
        raise client_error("nextToken or maxResults is not valid.")
    first, last = int(token), int(token) + min(size, most)
    return {name: list(found[first:last]), **({"nextToken": str(last)} if last < len(found) else {})}


def _described(queue: Queue) -> Json:
    told = {
        "jobQueueName": queue.name,
        "jobQueueArn": arn("job-queue", queue.name),
        "state": "ENABLED" if queue.enabled else "DISABLED",
        "status": "VALID",
        "statusReason": "JobQueue Healthy",
        "priority": queue.priority,
        "jobQueueType": "ECS",
        "computeEnvironmentOrder": [
            {"order": number, "computeEnvironment": arn("compute-environment", name)} for number, name in enumerate(queue.environments, start=1)
        ],
    }
    return told | ({"schedulingPolicyArn": arn("scheduling-policy", "fair")} if queue.fair else {})
