"""What it costs to look after 10,000 running pods of which none changes: `python -m benchmarks.kubernetes_idle --json`.

A real `tes-server reconcile` beside a `serve --api-only`, on an API server in memory that answers as a cluster does and whose pods run for ever. Every
task goes the whole way: created by HTTP, submitted, watched until it is RUNNING. Baseline: an interpreter that has done nothing.
"""

from __future__ import annotations

import logging
import os
import pathlib
import subprocess
import tempfile
import threading
import time

from pytest_httpserver import HTTPServer

from benchmarks import figures, memory, server
from benchmarks.cluster import kubeconfig
from tests.fake_cluster import FakeCluster, Json

PATIENCE = 3600.0


def pod_of(job: Json) -> Json:
    """The pod of a Job, running, with all that a cluster says of one."""
    name, template = job["metadata"]["name"], job["spec"]["template"]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    spec = template["spec"]
    fields: Json = {"f:spec": {f"f:{key}": {} for key in spec}, "f:status": {"f:conditions": {}, "f:containerStatuses": {}, "f:phase": {}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-abcde",
            "namespace": "tes",
            "uid": f"pod-of-{name}",
            "creationTimestamp": now,
            "labels": {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": name},
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}],
            "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": now, "fieldsV1": fields}],
        },
        "spec": {**spec, "nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "startTime": now,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("PodScheduled", "Initialized", "Ready")],
            "containerStatuses": [
                {"name": each["name"], "ready": True, "image": each["image"], "imageID": each["image"], "state": {"running": {"startedAt": now}}}
                for each in spec["containers"]
            ],
        },
    }


def run(base: pathlib.Path, cluster: FakeCluster, tasks: int, seconds: float) -> tuple[float, float]:
    """MB (PSS) and share of a core of the reconciler while `tasks` run and nothing happens for `seconds`."""
    cluster.created = lambda job: threading.Thread(target=cluster.set, args=("pods", pod_of(job))).start()
    settings = {"namespace": "tes", "kubeconfig": kubeconfig(base / "kubeconfig", cluster.url.rstrip("/")), "image": "server:1"}
    tree = {f"TES_SERVER__KUBERNETES__{name.upper()}": value for name, value in settings.items()} | {"TES_SERVER__LOCAL__ENABLED": "false"}
    os.environ.update(tree)
    with (
        server.running(base / "data", "--api-only") as api,
        subprocess.Popen(server.command("reconcile", "--data", str(base / "data")), env={**os.environ, **server.SETTINGS}) as reconciler,
    ):
        try:
            for _ in range(tasks):
                last = api.create(server.no_op("busybox", ["sleep", "infinity"]))
            await_running(api, cluster, tasks)
            api.wait([last], {"RUNNING"}, pause=1.0)
            time.sleep(20)  # what the starts left behind is done
            before, begin = cpu(reconciler.pid), time.perf_counter()
            time.sleep(seconds)
            share = (cpu(reconciler.pid) - before) / (time.perf_counter() - begin)
            return memory.pss([reconciler.pid]), share
        finally:
            reconciler.terminate()


def await_running(api: server.Server, cluster: FakeCluster, tasks: int) -> None:
    """Wait until each task has its pod and is RUNNING."""
    end = time.monotonic() + PATIENCE
    while len(cluster.objects["pods"]) < tasks or api.ask("GET", "/v1/tasks?page_size=1&state=QUEUED")["tasks"] or _initializing(api):
        if time.monotonic() > end:
            raise SystemExit(f"{len(cluster.objects['pods'])} of {tasks} pods were made")
        time.sleep(2)


def _initializing(api: server.Server) -> bool:
    return bool(api.ask("GET", "/v1/tasks?page_size=1&state=INITIALIZING")["tasks"])


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="running tasks")
    parser.add_argument("--seconds", type=float, default=120.0, help="for which nothing changes: longer than a watch lasts")
    chosen = parser.parse_args()
    where = figures.machine()
    logging.getLogger("werkzeug").disabled = True
    with tempfile.TemporaryDirectory(dir=chosen.data) as base, HTTPServer(threaded=True) as http:
        cluster = FakeCluster(http)
        try:
            used, share = run(pathlib.Path(base), cluster, chosen.tasks, chosen.seconds)
        finally:
            cluster.close()
    nothing = memory.bare(1)
    figures.show(
        "kubernetes_idle",
        [
            figures.compared(f"reconciler with {chosen.tasks} running pods", "MB", [(used, nothing)], goal="<= 300", baseline_is="PSS of a bare interpreter"),
            figures.Figure(
                what="its processor time, nothing changes", figure=round(share * 100, 2), unit="% of a core", goal="<= 25", notes={"seconds": chosen.seconds}
            ),
        ],
        where,
        as_json=chosen.json,
    )


if __name__ == "__main__":
    main()
