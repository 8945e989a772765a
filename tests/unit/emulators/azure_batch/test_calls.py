"""What the emulated Azure Batch takes and refuses, asked by the SDK."""

from __future__ import annotations

import datetime
import time
from typing import Any

import azure.core.exceptions
import pytest
from azure.batch import BatchClient, models
from azure.core import MatchConditions

from tests.emulators.azure_batch.emulator import Emulator
from tests.unit.emulators.azure_batch.conftest import group, job, pool, quick, refusal, task

MINUTE = datetime.timedelta(minutes=1)
END: Any = {"terminateReason": "test"}
"""The SDK cannot send these calls without options, and does not export the models of these."""
REIMAGE: Any = {"nodeReimageOption": "requeue"}


# -- pools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"id": "a b"}, ("InvalidPropertyValue", 400)),
        ({"id": "a" * 65}, ("InvalidPropertyValue", 400)),
        ({"vm_size": "Standard_X1"}, ("InvalidPropertyValue", 400)),
        ({"task_slots_per_node": 17}, ("InvalidPropertyValue", 400)),
        ({"target_dedicated_nodes": -1}, ("InvalidPropertyValue", 400)),
        ({"enable_auto_scale": True, "auto_scale_formula": "$TargetDedicatedNodes = ;"}, ("AutoScalingFormulaSyntaxError", 400)),
        (
            {"enable_auto_scale": True, "auto_scale_formula": "$TargetDedicatedNodes=0;", "auto_scale_evaluation_interval": MINUTE},
            ("InvalidPropertyValue", 400),
        ),
        ({"enable_auto_scale": True, "auto_scale_formula": "$TargetDedicatedNodes=0;", "target_dedicated_nodes": 1}, ("InvalidPropertyValue", 400)),
    ],
)
def test_a_pool_that_azure_would_refuse(client: BatchClient, given: dict[str, Any], code: tuple[str, int]) -> None:
    assert refusal(client.create_pool, pool(**given)) == code


def test_pools_are_there_once_and_not_too_many(client: BatchClient) -> None:
    client.create_pool(pool("one"))
    assert refusal(client.create_pool, pool("ONE")) == ("PoolExists", 409)
    client.create_pool(pool("two"))
    client.create_pool(pool("three"))
    assert refusal(client.create_pool, pool("four")) == ("PoolQuotaReached", 409)
    assert [found.id for found in client.list_pools(max_results=2)] == ["one", "three", "two"]
    assert refusal(client.get_pool, "none") == ("PoolNotFound", 404)
    assert client.pool_exists("one") is True
    with pytest.raises(azure.core.exceptions.ResourceNotFoundError):  # where the SDK's documentation says False
        client.pool_exists("none")


def test_a_pool_is_told_of_as_it_was_made(client: BatchClient) -> None:
    start = models.BatchStartTask(command_line="/bin/true", wait_for_success=True)
    client.create_pool(pool(start_task=start, metadata=[models.BatchMetadataItem(name="hash", value="1")]))
    found = client.get_pool("spot")
    assert (found.vm_size, found.task_slots_per_node, found.state) == ("Standard_D4s_v3", 4, models.BatchPoolState.ACTIVE)
    assert found.start_task is not None
    assert found.start_task.command_line == "/bin/true"
    client.update_pool("spot", models.BatchPoolUpdateOptions(metadata=[models.BatchMetadataItem(name="hash", value="2")]))
    assert [(item.name, item.value) for item in client.get_pool("spot").metadata or []] == [("hash", "2")]
    assert [image.node_agent_sku_id for image in client.list_supported_images()] == ["batch.node.ubuntu 22.04"]


def test_what_a_pool_is_made_of_changes_while_it_has_no_nodes(emulator: Emulator, client: BatchClient) -> None:
    client.create_pool(pool(target_low_priority_nodes=1))
    emulator.wait_nodes("spot", 1, "idle")
    wanted = models.BatchPoolUpdateOptions(vm_size="Standard_D2s_v3", task_slots_per_node=8)
    assert refusal(client.update_pool, "spot", wanted) == ("OperationInvalidForCurrentState", 409)
    client.begin_resize_pool("spot", models.BatchPoolResizeOptions(target_low_priority_nodes=0), polling_interval=0).wait()
    client.update_pool("spot", wanted)
    assert (client.get_pool("spot").vm_size, client.get_pool("spot").task_slots_per_node) == ("Standard_D2s_v3", 8)
    assert refusal(client.update_pool, "spot", models.BatchPoolUpdateOptions(task_slots_per_node=9)) == ("InvalidPropertyValue", 400)


def test_resizes_within_the_quota_and_what_is_told_of_the_rest(emulator: Emulator, client: BatchClient) -> None:
    client.create_pool(pool(target_low_priority_nodes=1))
    emulator.wait_nodes("spot", 1, "idle")
    client.begin_resize_pool("spot", models.BatchPoolResizeOptions(target_low_priority_nodes=6), polling_interval=0).wait()
    found = client.get_pool("spot")
    assert (found.current_low_priority_nodes, found.target_low_priority_nodes) == (4, 6)  # 16 cores
    assert [error.code for error in found.resize_errors or []] == ["AccountLowPriorityCoreQuotaReached"]
    client.begin_resize_pool("spot", models.BatchPoolResizeOptions(target_low_priority_nodes=0), polling_interval=0).wait()
    assert (client.get_pool("spot").resize_errors, list(client.list_nodes("spot"))) == (None, [])


def test_a_quota_that_is_exhausted_by_others(emulator: Emulator, client: BatchClient) -> None:
    emulator.bad_days.exhaust("spot")
    client.create_pool(pool(target_low_priority_nodes=1))
    emulator.account.wait(lambda: emulator.account.pool("spot").errors)
    assert [error.code for error in client.get_pool("spot").resize_errors or []] == ["AccountCoreQuotaReached"]
    emulator.bad_days.mend()
    emulator.wait_nodes("spot", 1, "idle")
    assert client.get_pool("spot").resize_errors is None


@pytest.mark.parametrize(("state", "code"), [("unusable", "NodeNotResponding"), ("starttaskfailed", "StartTaskFailed")])
def test_nodes_that_never_get_ready(emulator: Emulator, client: BatchClient, state: str, code: str) -> None:
    emulator.bad_days.stick("spot", state)
    client.create_pool(pool(target_low_priority_nodes=1))
    emulator.wait_nodes("spot", 1, state)
    (node,) = client.list_nodes("spot", filter=f"state eq '{state}'")
    assert [error.code for error in node.errors or []] == [code]
    emulator.bad_days.mend()
    client.begin_reimage_node("spot", node.id, REIMAGE, polling_interval=0).wait()
    emulator.wait_nodes("spot", 1, "idle")


def test_a_pool_that_is_deleted_loses_its_nodes(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    emulator.wait(busy, "a", "running")
    client.begin_delete_pool("spot", polling_interval=0).wait()
    assert refusal(client.get_pool, "spot") == ("PoolNotFound", 404)
    assert emulator.task(busy, "a").state == "active"


# -- autoscale ---------------------------------------------------------------------------------------------------------

FORMULA = """
wanted = min(4, ceil($PendingTasks / $TaskSlotsPerNode));
$TargetLowPriorityNodes = wanted;
$NodeDeallocationOption = taskcompletion;
"""


def test_a_formula_scales_its_pool_up_and_down(emulator: Emulator, client: BatchClient) -> None:
    five = datetime.timedelta(minutes=5)  # 3 s of this world
    client.create_pool(pool(enable_auto_scale=True, auto_scale_formula=FORMULA, auto_scale_evaluation_interval=five))
    client.create_job(job())
    client.create_task_collection("job", group(*(f"t{number}" for number in range(6))))
    assert refusal(client.begin_resize_pool, "spot", models.BatchPoolResizeOptions(target_low_priority_nodes=1)) == ("OperationInvalidForCurrentState", 409)
    emulator.wait_nodes("spot", 2, "running")
    run = client.get_pool("spot").auto_scale_run
    assert run is not None
    assert run.results == "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=2;$NodeDeallocationOption=taskcompletion;wanted=2"
    for number in range(6):
        emulator.bad_days.finish("job", f"t{number}")
    emulator.wait_nodes("spot", 0)


def test_enabling_evaluates_at_once_but_not_too_often(emulator: Emulator, client: BatchClient) -> None:
    client.create_pool(pool())
    options = models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetLowPriorityNodes = 1;")
    assert refusal(client.evaluate_pool_auto_scale, "spot", models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="x=1;")) == ("AutoScaleNotEnabled", 409)
    client.enable_pool_auto_scale("spot", options)
    emulator.wait_nodes("spot", 1, "idle")
    emulator.account.pool("spot").enabled = time.monotonic()
    assert refusal(client.enable_pool_auto_scale, "spot", options) == ("TooManyEnableAutoScaleRequests", 503)
    client.disable_pool_auto_scale("spot")
    assert client.get_pool("spot").enable_auto_scale is False


def test_a_formula_is_tried_out(client: BatchClient) -> None:
    client.create_pool(pool(enable_auto_scale=True, auto_scale_formula="$TargetLowPriorityNodes = 0;"))

    def tried(formula: str) -> models.AutoScaleRun:
        return client.evaluate_pool_auto_scale("spot", models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=formula))

    good = tried("$TargetLowPriorityNodes = 7;")
    assert (good.error, "$TargetLowPriorityNodes=7" in (good.results or "")) == (None, True)
    bad = tried("$TargetLowPriorityNodes = $Nothing;")
    assert bad.error is not None
    assert bad.error.code == "AutoScalingFormulaEvaluationError"
    assert refusal(tried, "$TargetLowPriorityNodes") == ("AutoScalingFormulaSyntaxError", 400)
    assert client.get_pool("spot").target_low_priority_nodes == 0


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_jobs_are_there_once_and_not_too_many(client: BatchClient) -> None:
    """A pool that does not exist is no error."""
    for name in ("a", "b", "c"):
        client.create_job(job(name, on="none"))
    assert refusal(client.create_job, job("A", on="none")) == ("JobExists", 409)
    assert refusal(client.create_job, job("d", on="none")) == ("ActiveJobAndScheduleQuotaReached", 409)
    client.begin_terminate_job("a", END, polling_interval=0).wait()
    ended = client.get_job("a")
    assert (ended.state, ended.execution_info and ended.execution_info.termination_reason) == (models.BatchJobState.COMPLETED, "test")
    client.create_job(job("d", on="none"))
    assert [found.id for found in client.list_jobs(filter="state eq 'active' and startswith(id, 'd')", select=["id", "state"])] == ["d"]
    client.begin_delete_job("a", polling_interval=0).wait()
    assert refusal(client.get_job, "a") == ("JobNotFound", 404)


@pytest.mark.parametrize(
    "given",
    [
        {"priority": 1001},
        {"pool_info": models.BatchPoolInfo()},
        {"common_environment_settings": [models.EnvironmentSetting(name="AZ_BATCH_X", value="1")]},
    ],
)
def test_a_job_that_azure_would_refuse(client: BatchClient, given: dict[str, Any]) -> None:
    assert refusal(client.create_job, job(**given)) == ("InvalidPropertyValue", 400)


def test_a_job_that_has_ended_takes_no_tasks(client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    client.begin_terminate_job(busy, END, polling_interval=0).wait()
    assert refusal(client.create_task, busy, task("b")) == ("JobCompleted", 409)
    assert refusal(client.create_task_collection, busy, group("b")) == ("JobCompleted", 409)
    assert refusal(client.begin_terminate_job, busy, END) == ("JobCompleted", 409)
    (found,) = client.list_tasks(busy)
    assert (found.state, found.execution_info and found.execution_info.result) == (models.BatchTaskState.COMPLETED, models.BatchTaskExecutionResult.FAILURE)


def test_a_disabled_job_starts_nothing(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    emulator.wait(busy, "a", "running")
    client.begin_disable_job(busy, models.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=0).wait()
    found = client.get_task(busy, "a")
    assert (found.state, found.execution_info and found.execution_info.requeue_count) == (models.BatchTaskState.ACTIVE, 1)
    client.begin_enable_job(busy, polling_interval=0).wait()
    emulator.wait(busy, "a", "running")


def test_a_job_ends_with_its_tasks_if_told_so(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    client.update_job(busy, models.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    emulator.wait(busy, "a", "running")
    emulator.bad_days.finish(busy, "a")
    emulator.account.wait(lambda: emulator.account.job(busy).state == "completed")
    assert emulator.account.job(busy).why == "AllTasksComplete"


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"id": "a.b"}, "InvalidPropertyValue"),
        ({"required_slots": 257}, "InvalidPropertyValue"),
        ({"environment_settings": [models.EnvironmentSetting(name="az_batch_x", value="1")]}, "InvalidPropertyValue"),
        ({"environment_settings": [models.EnvironmentSetting(name="A", value="1")] * 2}, "InvalidPropertyValue"),
        ({"constraints": models.BatchTaskConstraints(max_task_retry_count=-2)}, "InvalidPropertyValue"),
        ({"container_settings": models.BatchTaskContainerSettings(image_name="x", container_host_batch_bind_mounts=[])}, "InvalidPropertyValue"),
    ],
)
def test_a_task_that_azure_would_refuse(client: BatchClient, busy: str, given: dict[str, Any], code: str) -> None:
    assert refusal(client.create_task, busy, task(**{"name": "x", **given}) if "id" not in given else task(given["id"])) == (code, 400)


def test_a_collection_adds_each_task_by_itself(client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("b"))
    added = client.create_task_collection(busy, group("a", "B", "c d"))
    told = [(one.task_id, one.status, one.error and one.error.code) for one in added.result_values or []]
    status = models.BatchTaskAddStatus
    assert told == [("a", status.SUCCESS, None), ("B", status.CLIENT_ERROR, "TaskExists"), ("c d", status.CLIENT_ERROR, "InvalidPropertyValue")]
    assert refusal(client.create_task, busy, task("A")) == ("TaskExists", 409)
    assert refusal(client.create_task_collection, busy, group(*(f"t{number}" for number in range(101)))) == ("InvalidPropertyValue", 400)
    large = group("l", environment_settings=[models.EnvironmentSetting(name="A", value="x" * 1024 * 1024)])
    assert refusal(client.create_task_collection, busy, large) == ("RequestBodyTooLarge", 413)
    assert refusal(client.create_task_collection, "none", group("a")) == ("JobNotFound", 404)


def test_a_task_from_active_to_its_end(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a", required_slots=2))
    emulator.wait(busy, "a", "running")
    running = client.get_task(busy, "a")
    assert (running.previous_state, running.required_slots) == (models.BatchTaskState.PREPARING, 2)
    assert running.node_info is not None
    (node,) = client.list_nodes("spot", filter="state eq 'running'")
    assert (running.node_info.node_id, running.node_info.pool_id) == (node.id, "spot")
    assert (node.running_tasks_count, node.running_task_slots_count, node.is_dedicated) == (1, 2, False)
    emulator.bad_days.finish(busy, "a")
    ended = client.get_task(busy, "a")
    info = ended.execution_info
    assert info is not None
    assert (ended.state, info.exit_code, info.result, info.failure_info) == (models.BatchTaskState.COMPLETED, 0, models.BatchTaskExecutionResult.SUCCESS, None)
    assert (ended.node_info and ended.node_info.node_id, info.start_time <= info.end_time) == (node.id, True)  # type: ignore[operator]
    assert refusal(client.terminate_task, busy, "a") == ("TaskCompleted", 409)
    assert refusal(client.reactivate_task, busy, "a") == ("TaskSucceeded", 409)


def _runs(emulator: Emulator, retries: int) -> bool:
    found = emulator.task("job", "a")
    return bool(found.state == "running" and found.info["retryCount"] == retries)


def test_a_task_that_fails_is_tried_again_as_it_says(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a", constraints=models.BatchTaskConstraints(max_task_retry_count=1)))
    for retries in (0, 1):
        emulator.account.wait(lambda retries=retries: _runs(emulator, retries))  # type: ignore[misc]
        emulator.bad_days.finish(busy, "a", 3)
    info = client.get_task(busy, "a").execution_info
    assert info is not None
    assert (info.exit_code, info.retry_count, info.failure_info and info.failure_info.code) == (3, 1, "FailureExitCode")
    client.reactivate_task(busy, "a")
    emulator.wait(busy, "a", "running")


def test_an_image_that_cannot_be_had(emulator: Emulator, client: BatchClient, busy: str) -> None:
    emulator.bad_days.fail_image("tes-test/busybox")
    client.create_task(busy, task("a"))
    info = emulator.wait(busy, "a", "completed").info
    assert ("exitCode" in info, info["result"]) == (False, "failure")
    assert (info["failureInfo"]["code"], info["failureInfo"]["category"]) == ("ContainerInvalidImage", "usererror")


def test_a_task_is_ended(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task_collection(busy, group("a", "b", constraints=models.BatchTaskConstraints(max_wall_clock_time=datetime.timedelta(seconds=30))))
    emulator.wait(busy, "a", "running")
    client.terminate_task(busy, "a")
    emulator.wait(busy, "b", "completed")  # after 0.3 s
    for name in ("a", "b"):
        info = client.get_task(busy, name).execution_info
        assert info is not None
        assert info.failure_info is not None
        assert (info.exit_code, info.failure_info.code, info.failure_info.category) == (None, "TaskEnded", models.BatchErrorSourceCategory.USER_ERROR)
    client.delete_task(busy, "a")
    assert refusal(client.get_task, busy, "a") == ("TaskNotFound", 404)


def test_what_has_changed_since(emulator: Emulator, client: BatchClient, busy: str) -> None:
    """The list that a control plane asks for."""
    client.create_task_collection(busy, group(*(f"t{number}" for number in range(8))))
    emulator.account.wait(lambda: all(emulator.task(busy, f"t{number}").state == "running" for number in range(8)))
    since = datetime.datetime.now(datetime.UTC)
    emulator.bad_days.finish(busy, "t3")
    asked = ["id", "state", "stateTransitionTime", "executionInfo", "nodeInfo"]
    emulator.calls.reset()
    found = list(client.list_tasks(busy, select=asked, filter=f"stateTransitionTime ge DateTime'{since:%Y-%m-%dT%H:%M:%S.%fZ}'"))
    assert [one.as_dict().keys() for one in found] == [set(asked)]
    assert [(one.id, one.state) for one in found] == [("t3", models.BatchTaskState.COMPLETED)]
    assert emulator.calls.seen == {"list_tasks": 1}
    assert refusal(lambda: list(client.list_tasks(busy, filter="nonsense eq 1"))) == ("InvalidQueryParameterValue", 400)


def test_counts(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task_collection(busy, group(*(f"t{number}" for number in range(5)), required_slots=2))
    emulator.wait(busy, "t3", "running")
    emulator.bad_days.finish(busy, "t0")
    emulator.bad_days.finish(busy, "t1", 1)
    emulator.wait(busy, "t4", "running")
    counts = client.get_job_task_counts(busy)
    assert counts.task_counts.as_dict() == {"active": 0, "running": 3, "completed": 2, "succeeded": 1, "failed": 1}
    assert counts.task_slot_counts.running == 6
    (nodes,) = client.list_pool_node_counts(filter="poolId eq 'spot'")
    assert nodes.low_priority is not None
    assert (nodes.low_priority.running, nodes.low_priority.total) == (2, 2)


def test_files_of_a_task(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    run = emulator.wait(busy, "a", "running").run
    assert run is not None
    (run.directory / "stdout.txt").write_text("hello")
    assert [found.name for found in client.list_task_files(busy, "a")] == ["stdout.txt"]
    assert b"".join(client.download_task_file(busy, "a", "stdout.txt")) == b"hello"
    assert b"".join(client.download_task_file(busy, "a", "stdout.txt", ocp_range="bytes=1-2")) == b"el"
    assert client.get_task_file_properties(busy, "a", "stdout.txt").content_length == 5
    with pytest.raises(azure.core.exceptions.ResourceNotFoundError):  # of a stream, the SDK has not read the error
        client.download_task_file(busy, "a", "../../x")
    emulator.bad_days.preempt(run.node.id, restore=None)
    emulator.wait(busy, "a", "running")
    emulator.bad_days.finish(busy, "a")


# -- bad days ----------------------------------------------------------------------------------------------------------


def test_a_preempted_node_and_where_its_task_goes(emulator: Emulator, client: BatchClient, busy: str) -> None:
    """Nothing counts it; the node has its old name when it is back."""
    client.create_task(busy, task("a"))
    first = emulator.wait(busy, "a", "running").run
    assert first is not None
    emulator.bad_days.preempt(restore=None)
    second = emulator.account.wait(lambda: (run := emulator.task(busy, "a").run) is not None and run is not first and run)
    assert second.node.id != first.node.id
    info = client.get_task(busy, "a").execution_info
    assert info is not None
    assert (info.requeue_count, info.retry_count) == (0, 0)
    assert [node.id for node in client.list_nodes("spot", filter="state eq 'preempted'")] == [first.node.id]
    emulator.bad_days.preempt()
    third = emulator.account.wait(lambda: (run := emulator.task(busy, "a").run) is not None and run is not second and run)
    assert third.node.id == second.node.id


def test_a_node_that_is_lost_but_lives(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    first = emulator.wait(busy, "a", "running").run
    assert first is not None
    emulator.bad_days.lose(first.node.id, alive=True)
    second = emulator.account.wait(lambda: (run := emulator.task(busy, "a").run) is not None and run is not first and run)
    assert (second.node.id != first.node.id, first.life.is_set()) == (True, False)


def test_nodes_let_their_tasks_end_if_told_so(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    run = emulator.wait(busy, "a", "running").run
    assert run is not None
    options = models.BatchPoolResizeOptions(target_low_priority_nodes=0, node_deallocation_option="taskcompletion")
    client.begin_resize_pool("spot", options)
    emulator.wait_nodes("spot", 1)
    assert (emulator.task(busy, "a").run, client.get_pool("spot").allocation_state) == (run, models.AllocationState.RESIZING)
    emulator.bad_days.finish(busy, "a")
    emulator.wait_nodes("spot", 0)
    assert emulator.task(busy, "a").info["exitCode"] == 0


def test_removed_nodes_give_their_tasks_back(emulator: Emulator, client: BatchClient, busy: str) -> None:
    client.create_task(busy, task("a"))
    run = emulator.wait(busy, "a", "running").run
    assert run is not None
    client.begin_remove_nodes("spot", models.BatchNodeRemoveOptions(node_ids=[run.node.id]), polling_interval=0).wait()
    emulator.account.wait(lambda: emulator.task(busy, "a").info["requeueCount"] == 1)
    assert [node.id == run.node.id for node in emulator.nodes("spot")] == [False]


def test_answers_get_lost_after_the_write(emulator: Emulator, client: BatchClient, busy: str) -> None:
    emulator.bad_days.lose_answers()
    with pytest.raises(azure.core.exceptions.ServiceResponseError):
        client.create_task_collection(busy, group("a"))
    again = client.create_task_collection(busy, group("a"))
    assert [one.error and one.error.code for one in again.result_values or []] == ["TaskExists"]


def test_throttling_and_failures(emulator: Emulator, client: BatchClient, busy: str) -> None:
    for begin, code in (
        (emulator.bad_days.throttle, ("TooManyRequests", 429)),
        (emulator.bad_days.busy, ("ServerBusy", 503)),
        (emulator.bad_days.fail, ("InternalError", 500)),
    ):
        begin(times=1)
        assert refusal(client.get_job, busy) == code
    emulator.bad_days.throttle(times=1, retry_after=0)
    emulator.calls.reset()
    with quick(emulator) as patient:
        assert patient.get_job(busy).id == busy
    assert (emulator.calls.seen, emulator.calls.refused) == ({"get_job": 2}, {"get_job TooManyRequests": 1})
    emulator.bad_days.fail("list_*", every=2)
    assert [found.id for found in client.list_jobs()] == [busy]
    assert refusal(lambda: list(client.list_jobs())) == ("InternalError", 500)
    emulator.bad_days.mend()


def test_conditions(client: BatchClient, busy: str) -> None:
    etag = client.get_job(busy).etag
    client.update_job(busy, models.BatchJobUpdateOptions(priority=1), etag=etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(azure.core.exceptions.ResourceModifiedError) as caught:
        client.update_job(busy, models.BatchJobUpdateOptions(priority=2), etag=etag, match_condition=MatchConditions.IfNotModified)
    assert (caught.value.status_code, client.get_job(busy).priority) == (412, 1)


def test_by_hand(emulator: Emulator, client: BatchClient, busy: str) -> None:
    """What `curl` calls."""
    client.create_task(busy, task("a"))
    emulator.wait(busy, "a", "running")
    assert emulator.administer("finish", {"job": busy, "task": "a", "code": 2}) is None
    state = emulator.administer("state", {})
    assert [(name, how) for name, how, _ in state["tasks"]] == [("job/a", "completed")]
    assert emulator.administer("calls", {})["seen"]["create_task"] == 1
    with pytest.raises(AttributeError):
        emulator.administer("_account", {})
