"""A Kubernetes cluster for benchmarks: a namespace of its own, bare Jobs, and a proxy before its API server that counts.

KUBECONFIG names it. Its node needs the images `tes-test/busybox` and the server's (`--image`).
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import copy
import http.server
import json
import os
import pathlib
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

from benchmarks import server
from tes_server import errors
from tes_server.backends.kubernetes import calls
from tes_server.backends.kubernetes.calls import Answer, Calls
from tes_server.backends.kubernetes.objects import JobObject
from tes_server.backends.kubernetes.watch import Watch

Json = dict[str, Any]

AT_ONCE = 8
"""Creates side by side, as many as the backend makes."""

PATIENCE = 1800.0


class Cluster:
    """One namespace of the cluster that KUBECONFIG names."""

    def __init__(self, namespace: str) -> None:
        self.kubeconfig = os.environ.get("KUBECONFIG", "")
        self.calls = calls.connect(self.kubeconfig)
        self.namespace = namespace
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"

    def job(self, name: str) -> Json:
        """A Job as it was made: what another of the same shape is made from."""
        found: Json = json.loads(done(self.calls.get(f"{self.jobs}/{name}")).body)
        template = found["spec"]["template"]
        keep = {key: found["spec"][key] for key in ("backoffLimit", "completions", "parallelism", "podReplacementPolicy")}
        return {"spec": {**keep, "template": {"metadata": {}, "spec": template["spec"]}}}

    def rate(self, shape: Json, count: int) -> float:
        """Jobs a second, from the first create to the last of them complete, as a watch tells."""
        run = uuid.uuid4().hex[:8]
        finished: set[str] = set()
        last = threading.Event()

        def put(job: JobObject) -> None:
            if job.finished is not None:
                finished.add(job.metadata.name)
                if len(finished) == count:
                    last.set()

        def replace(jobs: Any) -> None:
            for job in jobs:
                put(job)

        def create(number: int) -> None:
            body = copy.deepcopy(shape)
            body["metadata"] = {"name": f"bare-{run}-{number}", "labels": {"run": run}}
            done(self.calls.post(self.jobs, body))

        watch = Watch(self.calls, self.jobs, JobObject, put, lambda _: None, replace, labelSelector=f"run={run}")
        watch.start()
        watch.wait(30)
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(create, range(count)))
        if not last.wait(PATIENCE):
            raise SystemExit(f"{len(finished)} of {count} bare Jobs are complete")
        taken = time.perf_counter() - begin
        watch.stop()
        self.clear()
        return count / taken

    def clear(self) -> None:
        """Remove all Jobs, wait until their pods have gone: taking them down would weigh on what is measured next."""
        end = time.monotonic() + PATIENCE
        # Of hundreds of Jobs the deletion takes longer than a call may; what was begun goes on, the next one does the rest.
        while json.loads(done(self.calls.get(self.jobs, limit="1")).body)["items"] and time.monotonic() < end:
            with contextlib.suppress(errors.Unavailable):
                done(self.calls.delete(self.jobs, {"propagationPolicy": "Background"}))
        while json.loads(done(self.calls.get(self.pods, limit="1")).body)["items"]:
            if time.monotonic() > end:
                raise SystemExit("pods do not go")
            time.sleep(0.5)
        time.sleep(2)


def one_container(image: str) -> Json:
    """A Job of one container that does nothing, and asks for as much as `benchmarks.server.no_op`."""
    resources = {"requests": {"cpu": "10m", "memory": "100000000"}, "limits": {"cpu": "10m", "memory": "100000000"}}
    container = {"name": "bare", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["true"], "resources": resources}
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container]}
    return {"spec": {"backoffLimit": 0, "template": {"spec": pod}}}


@contextlib.contextmanager
def namespace() -> Iterator[Cluster]:
    """A new one, deleted at the end."""
    name = f"tes-benchmark-{uuid.uuid4().hex[:8]}"
    cluster = Cluster(name)
    done(cluster.calls.post("/api/v1/namespaces", {"metadata": {"name": name}}))
    try:
        end = time.monotonic() + 60
        while cluster.calls.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").status != 200 and time.monotonic() < end:
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.calls.delete(f"/api/v1/namespaces/{name}")
        cluster.calls.close()


@contextlib.contextmanager
def serving(data: pathlib.Path, cluster: Cluster, image: str, way: str = "") -> Iterator[server.Server]:
    """`tes-server serve` whose tasks all run in the cluster; `way`: another kubeconfig that leads there."""
    settings = {"namespace": cluster.namespace, "kubeconfig": way or cluster.kubeconfig, "image": image}
    tree = {f"kubernetes__{name}": value for name, value in settings.items()}
    with server.running(data, local__enabled="false", **tree) as ours:
        yield ours


def done(answer: Answer) -> Answer:
    """The answer, if it is what was wanted."""
    if answer.status >= 300:
        raise SystemExit(f"the cluster answered with {answer.status}: {answer.words}")
    return answer


def kubeconfig(path: pathlib.Path, url: str) -> str:
    """A file that leads to an API server which asks nobody who they are; its path."""
    found = {"clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {"token": "t"}}]}
    whole = {"apiVersion": "v1", "kind": "Config", **found, "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "current-context": "c"}
    path.write_text(json.dumps(whole))
    return str(path)


class Proxy(http.server.ThreadingHTTPServer):
    """Before the API server: counts requests by verb and kind, and notes when the word of a task's end went by."""

    daemon_threads = True

    def __init__(self, upstream: Calls) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.ended: dict[str, float] = {}
        """task -> time (perf_counter)"""

    @property
    def url(self) -> str:
        """Where clients come to it."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """One, in threads of this process."""
    upstream = calls.connect(cluster.kubeconfig)
    made = Proxy(upstream)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
        upstream.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass(self) -> None:
        parsed = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parsed.query, keep_blank_values=True))
        kind, _, name = parsed.path.partition(f"/namespaces/{parsed.path.split('/namespaces/')[1].split('/')[0]}/")[2].partition("/")
        verb = "WATCH" if "watch" in query else "LIST" if self.command == "GET" and not name else self.command
        self.server.counts[verb, kind] += 1
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if verb == "WATCH":
            self._stream(parsed.path, kind, query)
            return
        sent = {"GET": lambda: self.server.upstream.get(parsed.path, **query), "POST": lambda: self.server.upstream.post(parsed.path, body or {})}
        sent |= {"PATCH": lambda: self.server.upstream.patch(parsed.path, body or {}), "DELETE": lambda: self.server.upstream.delete(parsed.path, body)}
        answer = sent[self.command]()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _stream(self, path: str, kind: str, query: dict[str, str]) -> None:
        with self.server.upstream.stream(path, 120.0, **query) as response, contextlib.suppress(OSError):
            self.send_response(response.status)
            self.send_header("Connection", "close")
            self.end_headers()
            rest = b""
            while piece := response.read1(1 << 16):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self.wfile.write(line + b"\n")
                    if kind == "pods" and line:
                        self._note(json.loads(line)["object"])
                self.wfile.flush()

    def _note(self, pod: Json) -> None:
        task = pod["metadata"].get("labels", {}).get("tes-server/task")
        statuses = pod.get("status", {}).get("containerStatuses", [])
        if task and statuses and all("terminated" in status["state"] for status in statuses):
            self.server.ended.setdefault(task, time.perf_counter())

    do_GET = do_POST = do_PATCH = do_DELETE = _pass  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Nothing."""
