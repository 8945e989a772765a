"""The operations on jobs. Each is named as the SDK's method is, and raises BatchError."""

from __future__ import annotations

import copy

from tests.emulators.azure_batch.account import JOB_ENDED, Account
from tests.emulators.azure_batch.protocol import BatchError, Json, invalid, now
from tests.emulators.azure_batch.records import Job
from tests.emulators.azure_batch.requests import Reply, Request, check_conditions, check_environment, check_name, check_range, created, listed, one

UNKNOWN = ("jobManagerTask", "jobReleaseTask", "networkConfiguration")
"""of a job: the emulator does not know it"""


class JobCalls:
    """Everything under the account's lock."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def create_job(self, request: Request) -> Reply:
        given = request.body
        name = check_name(given["id"])
        for unknown in UNKNOWN:
            if unknown in given:
                raise invalid(unknown, "...", "the emulator does not know it")
        _check(given)
        if name.lower() in self._account.jobs:
            raise BatchError("JobExists", 409, "The specified job already exists.")
        if sum(job.state != "completed" for job in self._account.jobs.values()) >= self._account.world.active_jobs:
            raise BatchError("ActiveJobAndScheduleQuotaReached", 409, "The active job and job schedule quota for the account has been reached.")
        job = Job(id=name, url=f"{self._account.url}/jobs/{name}", spec=copy.deepcopy(given), state="active")
        self._account.jobs[name.lower()] = job
        return created(job)

    def get_job(self, request: Request) -> Reply:
        job = self._account.job(request.path["jobId"])
        return one(request, job, job.told(), "BatchJob")

    def list_jobs(self, request: Request) -> Reply:
        return listed(request, [job.told() for job in self._account.jobs.values()], "BatchJob")

    def update_job(self, request: Request) -> Reply:
        """PATCH: what is not given stays."""
        job = self._open(request)
        _check(request.body)
        self._check_all_complete(job, request.body)
        job.spec |= copy.deepcopy(request.body)
        job.touch()
        self._account.lock.notify_all()
        return Reply()

    def replace_job(self, request: Request) -> Reply:
        """PUT: what is not given is as it usually is."""
        job = self._open(request)
        given = {name: value for name, value in request.body.items() if name in ("priority", "constraints", "poolInfo", "metadata", "onAllTasksComplete")}
        _check(given)
        self._check_all_complete(job, given)
        for name in ("priority", "constraints", "metadata", "onAllTasksComplete"):
            job.spec.pop(name, None)
        job.spec |= copy.deepcopy(given)
        job.touch()
        return Reply()

    def _check_all_complete(self, job: Job, given: Json) -> None:
        if job.spec.get("onAllTasksComplete") == "terminatejob" and given.get("onAllTasksComplete") == "noaction":
            raise invalid("onAllTasksComplete", "noaction", "cannot be changed from terminatejob to noaction")

    def disable_job(self, request: Request) -> Reply:
        job = self._open(request)
        job.disabling = request.body["disableTasks"]
        self._account.move(job, "disabling")
        for task in list(job.tasks.values()):
            if task.run is not None and job.disabling != "wait":
                if job.disabling == "terminate":
                    self._account.end(task)
                else:
                    run = task.run
                    self._account.requeue(run, asked=True)
                    self._account.stop(run)
        return Reply()

    def enable_job(self, request: Request) -> Reply:
        job = self._open(request, "disabled", "disabling", "active")
        self._account.move(job, "active")
        return Reply()

    def terminate_job(self, request: Request) -> Reply:
        job = self._open(request)
        self._end(job, "terminating", request.body.get("terminateReason", "UserTerminate"))
        return Reply()

    def delete_job(self, request: Request) -> Reply:
        job = self._account.job(request.path["jobId"])
        check_conditions(request, job)
        if job.state == "deleting":
            raise BatchError("JobBeingDeleted", 409, "The specified job has been marked for deletion and is being garbage collected.")
        self._end(job, "deleting", "UserDelete")
        return Reply()

    def _end(self, job: Job, state: str, why: str) -> None:
        job.why = why
        self._account.move(job, state)
        for task in list(job.tasks.values()):
            self._account.end(task, JOB_ENDED)

    def settle(self) -> None:
        """Jobs whose tasks have all stopped: disabled, completed or gone."""
        for name, job in list(self._account.jobs.items()):
            if job.state == "active" and job.spec.get("onAllTasksComplete") == "terminatejob" and all(task.state == "completed" for task in job.tasks.values()):
                self._end(job, "terminating", "AllTasksComplete")
            if job.state not in ("disabling", "terminating", "deleting") or any(task.run is not None for task in job.tasks.values()):
                continue
            if job.state == "disabling":
                self._account.move(job, "disabled")
            elif job.state == "terminating":
                job.ended = now()
                self._account.move(job, "completed")
            else:
                del self._account.jobs[name]
                self._account.lock.notify_all()

    def get_job_task_counts(self, request: Request) -> Reply:
        job = self._account.job(request.path["jobId"])
        counts, slots = (dict.fromkeys(("active", "running", "completed", "succeeded", "failed"), 0) for _ in range(2))
        for task in job.tasks.values():
            states = ["running" if task.state == "preparing" else task.state]
            if task.state == "completed":
                states.append("failed" if task.failed else "succeeded")
            for state in states:
                counts[state] += 1
                slots[state] += task.slots
        return Reply({"taskCounts": counts, "taskSlotCounts": slots})

    def list_job_preparation_and_release_task_status(self, request: Request) -> Reply:
        job = self._account.job(request.path["jobId"])
        if "jobPreparationTask" not in job.spec:
            raise BatchError("JobPreparationTaskNotSpecified", 409, "The specified job does not have job preparation task.")
        found = [
            {"poolId": pool.id, "nodeId": node.id, "nodeUrl": node.url, "jobPreparationTaskExecutionInfo": node.prepared[job.id]}
            for pool in self._account.pools.values()
            for node in pool.nodes.values()
            if job.id in node.prepared
        ]
        return listed(request, found, "BatchJobPreparationAndReleaseTaskStatus", key="nodeId")

    def _open(self, request: Request, *states: str) -> Job:
        """One that can be changed. BatchError 409: it is no more."""
        job = self._account.job(request.path["jobId"])
        check_conditions(request, job)
        check_open(job)
        if states and job.state not in states:
            raise BatchError("OperationInvalidForCurrentState", 409, "The specified operation is not valid for the current state of the resource.")
        return job


def check_open(job: Job) -> None:
    """BatchError 409: it takes no tasks and no changes."""
    if job.state == "completed":
        raise BatchError("JobCompleted", 409, "The specified job is already in a completed state.")
    if job.state == "terminating":
        raise BatchError("JobBeingTerminated", 409, "The specified job is being terminated.")
    if job.state == "deleting":
        raise BatchError("JobBeingDeleted", 409, "The specified job has been marked for deletion and is being garbage collected.")


def _check(given: Json) -> None:
    check_range("priority", given.get("priority", 0), -1000, 1000)
    check_environment(given.get("commonEnvironmentSettings", []))
    if "poolInfo" in given and ("poolId" in given["poolInfo"]) == ("autoPoolSpecification" in given["poolInfo"]):
        raise invalid("poolInfo", given["poolInfo"], "exactly one of poolId and autoPoolSpecification must be given")
    if "autoPoolSpecification" in given.get("poolInfo", {}):
        raise invalid("autoPoolSpecification", "...", "the emulator does not know it")
