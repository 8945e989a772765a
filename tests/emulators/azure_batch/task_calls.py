"""The operations on tasks. Each is named as the SDK's method is, and raises BatchError."""

from __future__ import annotations

import copy
import json

from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.job_calls import check_open
from tests.emulators.azure_batch.protocol import BatchError, Json, duration, invalid, stamp
from tests.emulators.azure_batch.records import Job, Task
from tests.emulators.azure_batch.requests import Reply, Request, check_conditions, check_environment, check_name, check_range, created, listed, one

MOST = 100
"""of a collection"""
LARGEST = 1024 * 1024
"""bytes of a collection"""
UNKNOWN = ("multiInstanceSettings", "applicationPackageReferences", "resourceFiles", "outputFiles", "dependsOn", "exitConditions")
"""of a task: the emulator does not know it"""


class TaskCalls:
    """Everything under the account's lock."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def create_task(self, request: Request) -> Reply:
        job = self._account.job(request.path["jobId"])
        check_open(job)
        return created(self._add(job, request.body))

    def create_task_collection(self, request: Request) -> Reply:
        """Each task is added, or not, by itself."""
        job = self._account.job(request.path["jobId"])
        check_open(job)
        given = request.body["value"]
        if len(given) > MOST:
            raise invalid("value", len(given), f"a collection has at most {MOST} tasks")
        if len(json.dumps(request.body)) > LARGEST:
            raise BatchError("RequestBodyTooLarge", 413, "The size of the request body exceeds the maximum size permitted.", {"MaxLimit": str(LARGEST)})
        return Reply({"value": [self._result(job, one) for one in given]})

    def _result(self, job: Job, given: Json) -> Json:
        try:
            task = self._add(job, given)
        except BatchError as error:
            told = {"code": error.code, "message": {"lang": "en-us", "value": error.message}}
            return {"status": "clienterror", "taskId": given["id"], "error": told, "location": f"{job.url}/tasks/{given['id']}"}
        return {"status": "success", "taskId": task.id, "eTag": task.etag, "lastModified": stamp(task.modified), "location": task.url}

    def _add(self, job: Job, given: Json) -> Task:
        name = check_name(given["id"])
        _check(given)
        if name.lower() in job.tasks:
            raise BatchError("TaskExists", 409, "The specified task already exists.")
        if name == job.spec.get("jobPreparationTask", {}).get("id", "jobpreparation"):
            raise BatchError("TaskIdSameAsJobPreparationTask", 409, "The specified task id is same as the job preparation task.")
        task = Task(id=name, url=f"{job.url}/tasks/{name}", spec=copy.deepcopy(given), state="active", key=(job.id.lower(), name.lower()))
        self._account.add(job, task)
        return task

    def get_task(self, request: Request) -> Reply:
        task = self._task(request)
        return one(request, task, task.told(), "BatchTask")

    def list_tasks(self, request: Request) -> Reply:
        job = self._account.job(request.path["jobId"])
        return listed(request, [task.told() for task in job.tasks.values()], "BatchTask")

    def replace_task(self, request: Request) -> Reply:
        """Only its constraints."""
        task = self._task(request)
        if task.state == "completed":
            raise BatchError("TaskCompleted", 409, "The specified task is already in a completed state.")
        if "constraints" in request.body:
            task.spec["constraints"] = request.body["constraints"]
        task.touch()
        return Reply()

    def delete_task(self, request: Request) -> Reply:
        """What it runs is stopped; nobody hears of it any more."""
        task = self._task(request)
        job = self._account.job(request.path["jobId"])
        job.waiting.pop(task.key[1], None)
        del job.tasks[task.key[1]]
        if task.run is not None:
            run = task.run
            self._account.leave(run)
            self._account.stop(run)
        self._account.lock.notify_all()
        return Reply()

    def terminate_task(self, request: Request) -> Reply:
        task = self._task(request)
        if task.state == "completed":
            raise BatchError("TaskCompleted", 409, "The specified task is already in a completed state.")
        self._account.end(task)
        return Reply()

    def reactivate_task(self, request: Request) -> Reply:
        """Of one that has failed."""
        task = self._task(request)
        job = self._account.job(request.path["jobId"])
        check_open(job)
        if task.state != "completed":
            words = "The specified task is not in a completed state, and the requested operation can be performed only on completed tasks."
            raise BatchError("TaskNotCompleted", 409, words)
        if not task.failed:
            words = "The specified task has already completed successfully, and the requested operation cannot be performed on successful tasks."
            raise BatchError("TaskSucceeded", 409, words)
        task.info = {"retryCount": 0, "requeueCount": 0}
        job.waiting[task.key[1]] = task
        self._account.move(task, "active")
        return Reply()

    def _task(self, request: Request) -> Task:
        task = self._account.task(request.path["jobId"], request.path["taskId"])
        check_conditions(request, task)
        return task


def _check(given: Json) -> None:
    for unknown in UNKNOWN:
        if given.get(unknown):
            raise invalid(unknown, "...", "the emulator does not know it")
    check_range("requiredSlots", given.get("requiredSlots", 1), 1, 256)
    check_environment(given.get("environmentSettings", []))
    names = [entry["name"] for entry in given.get("environmentSettings", [])]
    if len(set(names)) < len(names):
        raise invalid("environmentSettings", names, "a name stands there twice")
    settings = given.get("containerSettings", {})
    mounts = settings.get("containerHostBatchBindMounts")
    if mounts == [] and settings.get("workingDirectory", "taskWorkingDirectory") != "containerImageDefault":
        raise invalid("workingDirectory", settings.get("workingDirectory"), "must be containerImageDefault where no path of the node is mounted")
    constraints = given.get("constraints", {})
    if "maxWallClockTime" in constraints and not duration(constraints["maxWallClockTime"]) > 0:
        raise invalid("maxWallClockTime", constraints["maxWallClockTime"], "must be more than nothing")
    check_range("maxTaskRetryCount", constraints.get("maxTaskRetryCount", 0), -1, 2_147_483_647)
