"""The operations on nodes, and on files of nodes and tasks. Each is named as the SDK's method is, and raises BatchError."""

from __future__ import annotations

import mimetypes
import pathlib
import re
from collections.abc import Callable, Iterator

from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.protocol import BatchError, Json, not_found, now, stamp
from tests.emulators.azure_batch.records import Node, Run, Task
from tests.emulators.azure_batch.requests import Reply, Request, check_conditions, listed, one
from tests.emulators.azure_batch.scaling import Scaling

MOST = 100
"""of remove_nodes"""
UNAVAILABLE = BatchError("NodeNotReady", 409, "The specified node is not in a state in which its files can be read.")


class NodeCalls:
    """Everything under the account's lock. `refresh`: brings the output files of what runs up to date."""

    def __init__(self, account: Account, scaling: Scaling, refresh: Callable[[Run], None]) -> None:
        self._account = account
        self._scaling = scaling
        self._refresh = refresh

    def list_nodes(self, request: Request) -> Reply:
        return listed(request, [node.told() for node in self._account.pool(request.path["poolId"]).nodes.values()], "BatchNode")

    def get_node(self, request: Request) -> Reply:
        node = self._node(request)
        return one(request, node, node.told(), "BatchNode")

    def remove_nodes(self, request: Request) -> Reply:
        pool = self._account.pool(request.path["poolId"])
        check_conditions(request, pool)
        if pool.allocation != "steady":
            raise BatchError("PoolBeingResized", 409, "The specified pool is being resized")
        names = request.body["nodeList"]
        if not 0 < len(names) <= MOST:
            raise BatchError("InvalidPropertyValue", 400, f"At most {MOST} nodes may be removed at once.", {"PropertyName": "nodeList"})
        nodes = [self._account.node(pool.id, name) for name in names]
        dedicated = sum(node.dedicated for node in nodes)
        option = request.body.get("nodeDeallocationOption", "requeue")
        self._scaling.resize(pool, pool.dedicated - dedicated, pool.low_priority - len(nodes) + dedicated, option)
        for node in nodes:
            self._scaling.release(node, option)
        return Reply()

    def reboot_node(self, request: Request) -> Reply:
        return self._restart(request, "rebooting")

    def reimage_node(self, request: Request) -> Reply:
        return self._restart(request, "reimaging")

    def _restart(self, request: Request, state: str) -> Reply:
        node = self._node(request)
        if node.state not in ("idle", "running", "starttaskfailed", "unusable", "offline"):
            raise BatchError("OperationNotValidOnNode", 409, "The specified operation is not valid on the node.")
        runs = list(node.runs.values())
        for run in runs:
            self._account.requeue(run, asked=True)
        self._account.force_node(node, state)
        self._account.boot(node)
        return Reply()

    def disable_node_scheduling(self, request: Request) -> Reply:
        node = self._node(request)
        if node.scheduling == "disabled":
            raise BatchError("NodeAlreadyInTargetSchedulingState", 409, "The specified node is already in the target scheduling state.")
        node.scheduling = "disabled"
        option = request.body.get("nodeDisableSchedulingOption", "requeue")
        for run in list(node.runs.values()):
            if option == "requeue":
                self._account.requeue(run, asked=True)
                self._account.stop(run)
            elif option == "terminate":
                self._account.end(run.task)
        return Reply()

    def enable_node_scheduling(self, request: Request) -> Reply:
        node = self._node(request)
        if node.scheduling == "enabled":
            raise BatchError("NodeAlreadyInTargetSchedulingState", 409, "The specified node is already in the target scheduling state.")
        node.scheduling = "enabled"
        self._account.lock.notify_all()
        return Reply()

    def _node(self, request: Request) -> Node:
        return self._account.node(request.path["poolId"], request.path["nodeId"])

    # -- files -------------------------------------------------------------------------------------------------------------

    def list_task_files(self, request: Request) -> Reply:
        task, root = self._of_task(request)
        found = _files(root, f"{task.url}/files", deep=request.query.get("recursive") == "true")
        return listed(request, found, "BatchNodeFile", key="name")

    def download_task_file(self, request: Request) -> Reply:
        return _download(request, self._of_task(request)[1])

    def get_task_file_properties(self, request: Request) -> Reply:
        return _download(request, self._of_task(request)[1])

    def list_node_files(self, request: Request) -> Reply:
        node, root = self._of_node(request)
        found = _files(root, f"{node.url}/files", deep=request.query.get("recursive") == "true")
        return listed(request, found, "BatchNodeFile", key="name")

    def download_node_file(self, request: Request) -> Reply:
        return _download(request, self._of_node(request)[1])

    def get_node_file_properties(self, request: Request) -> Reply:
        return _download(request, self._of_node(request)[1])

    def _of_node(self, request: Request) -> tuple[Node, pathlib.Path]:
        node = self._node(request)
        if node.state not in ("idle", "running", "starttaskfailed", "waitingforstarttask"):
            raise UNAVAILABLE
        return node, node.root

    def _of_task(self, request: Request) -> tuple[Task, pathlib.Path]:
        task = self._account.task(request.path["jobId"], request.path["taskId"])
        if task.last is None:
            raise BatchError("OperationInvalidForCurrentState", 409, "The specified operation is not valid for the current state of the resource.")
        if task.last.life.is_set() or task.last.node.id not in task.last.node.pool.nodes:
            raise not_found("Node")
        self._refresh(task.last)
        return task, task.last.directory


def _files(root: pathlib.Path, url: str, *, deep: bool) -> Iterator[Json]:
    for path in sorted(root.rglob("*") if deep else root.glob("*")):
        name = str(path.relative_to(root))
        told: Json = {"name": name, "url": f"{url}/{name}", "isDirectory": path.is_dir()}
        if path.is_file():
            status = path.stat()
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            told["properties"] = {"contentLength": str(status.st_size), "contentType": kind, "fileMode": f"0{status.st_mode:o}", "lastModified": stamp(now())}
        yield told


def _download(request: Request, root: pathlib.Path) -> Reply:
    """The file, or the part that ocp-range names."""
    path = (root / request.path["filePath"]).resolve()
    if not path.is_relative_to(root.resolve()) or not path.exists():
        raise not_found("File")
    if path.is_dir():
        raise BatchError("OperationInvalidForCurrentState", 409, "The specified path is a directory.")
    content = path.read_bytes()
    headers = {
        "Content-Type": "application/octet-stream",
        "Last-Modified": f"{now():%a, %d %b %Y %H:%M:%S GMT}",
        "ocp-batch-file-isdirectory": "false",
        "ocp-batch-file-mode": f"0{path.stat().st_mode:o}",
        "ocp-batch-file-url": request.url,
    }
    if asked := request.headers.get("ocp-range"):
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if part is None or int(part[1]) >= len(content):
            raise BatchError("InvalidRange", 416, "The range specified is invalid for the current size of the resource.")
        content = content[int(part[1]) : int(part[2]) + 1 if part[2] else None]
    return Reply(content, {**headers, "Content-Length": str(len(content))})
