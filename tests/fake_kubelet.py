"""Runs the pods of a `FakeCluster` on this machine: each container a bubblewrap sandbox with the mounts, arguments and variables of the Job, PID 1 of its
own pid namespace; statuses, termination messages, logs, TERM and grace as a kubelet has them. Images are this machine's programs on a fresh root.

It takes the Job literally: a mount that is missing, a `$` that Kubernetes would expand or a program that needs a shell fails here as it would there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from tes_server.runner import bwrap
from tests.fake_cluster import FakeCluster, Json

logger = logging.getLogger(__name__)

ETC = ("passwd", "group", "hosts", "resolv.conf", "ld.so.cache", "nsswitch.conf")
PATIENCE = 60.0


class FakeKubelet:
    """`claims`: directory of each PersistentVolumeClaim. Call `close` before the cluster's."""

    def __init__(self, cluster: FakeCluster, directory: pathlib.Path, claims: Mapping[str, pathlib.Path]) -> None:
        self.cluster = cluster
        self.directory = directory
        self.claims = claims
        self.pods: dict[str, _Pod] = {}
        self._closed = False
        cluster.created = self._created
        cluster.patched = self._patched
        cluster.read_log = self._log

    def close(self) -> None:
        """Kill what runs, and wait for it."""
        self._closed = True
        for pod in list(self.pods.values()):
            pod.stop(0.0)
            pod.thread.join(PATIENCE)
            assert not pod.thread.is_alive()

    def _created(self, job: Json) -> None:
        name = job["metadata"]["name"]
        self.pods[name] = pod = _Pod(self, job)
        pod.thread.start()

    def _patched(self, job: Json) -> None:
        """The Job controller: a deadline that is over ends the pod."""
        pod = self.pods.get(job["metadata"]["name"])
        if pod is not None and job["spec"].get("activeDeadlineSeconds") == 1:
            grace = job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            threading.Thread(target=pod.stop, args=(float(grace),), daemon=True).start()

    def _log(self, pod: str, container: str) -> bytes | None:
        found = self.pods.get(pod.rpartition("-")[0])
        return found.log(container, "Stdout") if found else None


class _Pod:
    def __init__(self, kubelet: FakeKubelet, job: Json) -> None:
        self.kubelet = kubelet
        self.cluster = kubelet.cluster
        self.job: str = job["metadata"]["name"]
        self.spec: Json = job["spec"]["template"]["spec"]
        self.directory: pathlib.Path = kubelet.directory / self.job
        self.thread = threading.Thread(target=self._run, name=self.job, daemon=True)
        self.running: dict[str, _Container] = {}
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._states: dict[str, Json] = {}
        self._object: Json = {
            "metadata": {
                "name": f"{self.job}-fake1",
                "uid": f"pod-{self.job}",
                "creationTimestamp": _now(),
                "labels": {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": self.job},
                "annotations": job["spec"]["template"]["metadata"].get("annotations", {}),
            },
            "spec": {**self.spec, "nodeName": "here"},
            "status": {"phase": "Pending", "startTime": _now(), "conditions": [{"type": "PodScheduled", "status": "True"}]},
        }

    def stop(self, grace: float) -> None:
        """TERM to all containers, KILL after the grace."""
        self._stopping.set()
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with self._guard:
                left = list(self.running.values())
            for container in left:
                container.kill(sent)
            if sent is signal.SIGTERM and self.thread is not threading.current_thread():
                self.thread.join(grace)

    def log(self, container: str, stream: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "logs" / f"{container}.{stream}").read_bytes()
        return None

    def _run(self) -> None:
        for name in ("volumes", "logs", "messages"):
            (self.directory / name).mkdir(parents=True)
        volumes = {volume["name"]: self._volume(volume) for volume in self.spec["volumes"]}
        failed = self._run_together(self.spec.get("initContainers", []), volumes) or self._stopping.is_set()
        if not failed:
            failed = self._run_together(self.spec["containers"], volumes)
        self._tell("Failed" if failed else "Succeeded")
        condition = {"type": "Failed", "reason": "BackoffLimitExceeded"} if failed else {"type": "Complete", "reason": "CompletionsReached"}
        if self._stopping.is_set():
            condition = {"type": "Failed", "reason": "DeadlineExceeded"}
            self.cluster.remove("pods", self._object["metadata"]["name"])
        with contextlib.suppress(KeyError):  # deleted by a test
            job = self.cluster.objects["jobs"][self.job]
            self.cluster.set("jobs", {**job, "status": {"startTime": _now(), "conditions": [{**condition, "status": "True"}]}})
        shutil.rmtree(self.directory / "volumes")

    def _run_together(self, specs: list[Json], volumes: Mapping[str, pathlib.Path]) -> bool:
        """True if one of them failed."""
        with self._guard:
            if self._stopping.is_set():
                return True
            self.running = {spec["name"]: _Container(self, spec, volumes) for spec in specs}
        for container in self.running.values():
            container.wait_until_up()
        for container in self.running.values():
            self._states[container.name] = {"running": {"startedAt": _now()}}
        self._tell("Running" if specs is self.spec["containers"] else "Pending")
        codes = []
        left = dict(self.running)
        while left:
            for name, container in list(left.items()):
                code = container.process.poll()
                if code is None:
                    continue
                del left[name]
                codes.append(code)
                if code:
                    logger.warning("%s: %s ended with %s: %s", self.job, name, code, self.log(name, "Stderr"))
                ended = {"exitCode": code if code >= 0 else 128 - code, "reason": "Completed" if code == 0 else "Error", "finishedAt": _now()}
                self._states[name] = {"terminated": {**ended, "message": container.message.read_text()[: self._kept()]}}
                if left:
                    self._tell("Running" if specs is self.spec["containers"] else "Pending")
            time.sleep(0.01)
        return any(codes)

    def _kept(self) -> int:
        """Bytes of each container's message: 12 KiB are divided among all that the pod has."""
        return min(4096, 12 * 1024 // len([*self.spec.get("initContainers", []), *self.spec["containers"]]))

    def _tell(self, phase: str) -> None:
        status = self._object["status"]
        status["phase"] = phase
        for field, specs in (("initContainerStatuses", self.spec.get("initContainers", [])), ("containerStatuses", self.spec["containers"])):
            status[field] = [
                {
                    "name": spec["name"],
                    "state": self._states.get(spec["name"], {"waiting": {"reason": "PodInitializing"}}),
                    "imageID": f"here/{spec['image']}@sha256:0",
                }
                for spec in specs
            ]
        self.cluster.set("pods", self._object)

    def _volume(self, volume: Json) -> pathlib.Path:
        if "persistentVolumeClaim" in volume:
            claim: str = volume["persistentVolumeClaim"]["claimName"]
            return self.kubelet.claims[claim]
        path = self.directory / "volumes" / str(volume["name"])
        path.mkdir()
        path.chmod(0o777)
        if "configMap" in volume:
            data = self.cluster.objects["configmaps"][volume["configMap"]["name"]]["binaryData"]
            for name, text in data.items():
                (path / name).write_bytes(base64.b64decode(text))
                (path / name).chmod(volume["configMap"]["defaultMode"])
        for source in volume.get("projected", {}).get("sources", ()):
            name = source["secret"]["name"]
            self.cluster.until(lambda name=name: name in self.cluster.objects["secrets"])  # type: ignore[misc]
            for item in source["secret"]["items"]:
                (path / item["path"]).write_bytes(base64.b64decode(self.cluster.objects["secrets"][name]["data"][item["key"]]))
        return path


class _Container:
    def __init__(self, pod: _Pod, spec: Json, volumes: Mapping[str, pathlib.Path]) -> None:
        self.name: str = spec["name"]
        self.message = pod.directory / "messages" / self.name
        self.message.touch()
        environment = {"PATH": f"{pathlib.Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": "/root"}
        environment |= {item["name"]: _expanded(item["value"], environment) for item in spec.get("env", ())}
        arguments = [*_root(stage=self.name.startswith("stage")), "--bind", str(self.message), "/dev/termination-log"]
        for mount in sorted(spec["volumeMounts"], key=lambda mount: str(mount["mountPath"])):
            source = volumes[mount["name"]] / mount.get("subPath", "")
            assert source.exists(), f"{self.name}: {mount} would be made by the kubelet, as root's"
            arguments += ["--ro-bind" if mount.get("readOnly") else "--bind", str(source), mount["mountPath"]]
        for name, value in environment.items():
            arguments += ["--setenv", name, value]
        words = [_expanded(word, environment) for word in (*spec["command"], *spec["args"])]
        told, tell = os.pipe()
        logs = pod.directory / "logs"
        with (logs / f"{self.name}.Stdout").open("wb") as out, (logs / f"{self.name}.Stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [str(bwrap.find().path), *arguments, "--info-fd", str(tell), "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=[tell],
                start_new_session=True,
            )
        os.close(tell)
        with os.fdopen(told, "rb") as file:
            text = file.read()
        self._pid = int(json.loads(text)["child-pid"]) if text else 0

    def wait_until_up(self) -> None:
        """Until TERM would reach the program: PID 1 ignores what it does not handle, and bubblewrap has to get there first."""
        while self.process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = pathlib.Path(f"/proc/{self._pid}/status").read_text()
                masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk:", "SigCgt:"))]
                if any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks) and pathlib.Path(f"/proc/{self._pid}/exe").readlink().name != "bwrap":
                    return
            time.sleep(0.005)

    def kill(self, sent: signal.Signals) -> None:
        """To PID 1 of the container, from outside of it."""
        if self._pid and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, sent)


def _root(*, stage: bool) -> list[str]:
    """A fresh root with this machine's programs; for stage steps with this Python and its packages."""
    arguments = ["--unshare-pid", "--as-pid-1", "--die-with-parent", "--clearenv", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64"):
        path = pathlib.Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if stage:
        packages = {path for path in sys.path if pathlib.Path(path).is_dir()}
        for needed in sorted({sys.prefix, sys.base_prefix, str(pathlib.Path(__file__).parents[1]), *packages}):
            arguments += ["--ro-bind", needed, needed]
    return arguments


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """What Kubernetes makes of a variable's value or an argument."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def leftovers(cluster: FakeCluster) -> Any:
    """Pods that are still there and have not ended."""
    return [name for name, pod in cluster.objects["pods"].items() if pod["status"]["phase"] not in ("Succeeded", "Failed")]
