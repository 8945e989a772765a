"""The REST operations that the emulator knows: by the SDK's names, without `begin_`."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple


class Route(NamedTuple):
    """`takes`, `gives`: the SDK's models of request and answer; `several`: a page of them."""

    name: str
    method: str
    path: str
    status: int
    takes: str = ""
    gives: str = ""
    several: bool = False


POOL, NODE, JOB, TASK = "/pools/{poolId}", "/pools/{poolId}/nodes/{nodeId}", "/jobs/{jobId}", "/jobs/{jobId}/tasks/{taskId}"
ROUTES = (
    Route("create_pool", "POST", "/pools", 201, takes="BatchPoolCreateOptions"),
    Route("list_pools", "GET", "/pools", 200, gives="BatchPool", several=True),
    Route("get_pool", "GET", POOL, 200, gives="BatchPool"),
    Route("pool_exists", "HEAD", POOL, 200),
    Route("update_pool", "PATCH", POOL, 200, takes="BatchPoolUpdateOptions"),
    Route("replace_pool_properties", "POST", f"{POOL}/updateproperties", 204, takes="BatchPoolReplaceOptions"),
    Route("delete_pool", "DELETE", POOL, 202),
    Route("resize_pool", "POST", f"{POOL}/resize", 202, takes="BatchPoolResizeOptions"),
    Route("stop_pool_resize", "POST", f"{POOL}/stopresize", 202),
    Route("enable_pool_auto_scale", "POST", f"{POOL}/enableautoscale", 200, takes="BatchPoolEnableAutoScaleOptions"),
    Route("disable_pool_auto_scale", "POST", f"{POOL}/disableautoscale", 200),
    Route("evaluate_pool_auto_scale", "POST", f"{POOL}/evaluateautoscale", 200, takes="BatchPoolEvaluateAutoScaleOptions", gives="AutoScaleRun"),
    Route("list_pool_node_counts", "GET", "/nodecounts", 200, gives="BatchPoolNodeCounts", several=True),
    Route("list_supported_images", "GET", "/supportedimages", 200, gives="BatchSupportedImage", several=True),
    Route("create_job", "POST", "/jobs", 201, takes="BatchJobCreateOptions"),
    Route("list_jobs", "GET", "/jobs", 200, gives="BatchJob", several=True),
    Route("get_job", "GET", JOB, 200, gives="BatchJob"),
    Route("update_job", "PATCH", JOB, 200, takes="BatchJobUpdateOptions"),
    Route("replace_job", "PUT", JOB, 200, takes="BatchJob"),
    Route("disable_job", "POST", f"{JOB}/disable", 202, takes="BatchJobDisableOptions"),
    Route("enable_job", "POST", f"{JOB}/enable", 202),
    Route("terminate_job", "POST", f"{JOB}/terminate", 202, takes="BatchJobTerminateOptions"),
    Route("delete_job", "DELETE", JOB, 202),
    Route("get_job_task_counts", "GET", f"{JOB}/taskcounts", 200, gives="BatchTaskCountsResult"),
    Route(
        "list_job_preparation_and_release_task_status",
        "GET",
        f"{JOB}/jobpreparationandreleasetaskstatus",
        200,
        gives="BatchJobPreparationAndReleaseTaskStatus",
        several=True,
    ),
    Route("create_task", "POST", f"{JOB}/tasks", 201, takes="BatchTaskCreateOptions"),
    Route("create_task_collection", "POST", f"{JOB}/addtaskcollection", 200, takes="BatchTaskGroup", gives="BatchCreateTaskCollectionResult"),
    Route("list_tasks", "GET", f"{JOB}/tasks", 200, gives="BatchTask", several=True),
    Route("get_task", "GET", TASK, 200, gives="BatchTask"),
    Route("replace_task", "PUT", TASK, 200, takes="BatchTask"),
    Route("delete_task", "DELETE", TASK, 200),
    Route("terminate_task", "POST", f"{TASK}/terminate", 204),
    Route("reactivate_task", "POST", f"{TASK}/reactivate", 204),
    Route("list_task_files", "GET", f"{TASK}/files", 200, gives="BatchNodeFile", several=True),
    Route("download_task_file", "GET", f"{TASK}/files/{{filePath}}", 200),
    Route("get_task_file_properties", "HEAD", f"{TASK}/files/{{filePath}}", 200),
    Route("list_nodes", "GET", f"{POOL}/nodes", 200, gives="BatchNode", several=True),
    Route("get_node", "GET", NODE, 200, gives="BatchNode"),
    Route("remove_nodes", "POST", f"{POOL}/removenodes", 202, takes="BatchNodeRemoveOptions"),
    Route("reboot_node", "POST", f"{NODE}/reboot", 202, takes="BatchNodeRebootOptions"),
    Route("reimage_node", "POST", f"{NODE}/reimage", 202, takes="BatchNodeReimageOptions"),
    Route("disable_node_scheduling", "POST", f"{NODE}/disablescheduling", 200, takes="BatchNodeDisableSchedulingOptions"),
    Route("enable_node_scheduling", "POST", f"{NODE}/enablescheduling", 200),
    Route("list_node_files", "GET", f"{NODE}/files", 200, gives="BatchNodeFile", several=True),
    Route("download_node_file", "GET", f"{NODE}/files/{{filePath}}", 200),
    Route("get_node_file_properties", "HEAD", f"{NODE}/files/{{filePath}}", 200),
)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{'.+' if found[1] == 'filePath' else '[^/]+'})", path))


_PATTERNS = [(route, _pattern(route.path)) for route in ROUTES]


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
    """The operation that is asked for, and what its path names."""
    for route, pattern in _PATTERNS:
        found = pattern.fullmatch(path) if route.method == method else None
        if found is not None:
            return route, {name: urllib.parse.unquote(value) for name, value in found.groupdict().items()}
    return None
