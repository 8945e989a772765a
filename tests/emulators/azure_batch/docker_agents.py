"""Agents that run tasks through Docker, and what runs on the node itself as a process of this machine."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import docker.errors

from tests.emulators.azure_batch import run_options
from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.agents import Agents
from tests.emulators.azure_batch.pretence import image_failure
from tests.emulators.azure_batch.protocol import Json, now, stamp
from tests.emulators.azure_batch.records import Job, Node, Run
from tests.emulators.azure_batch.run_options import BadOptions
from tests.emulators.azure_batch.world import ACCOUNT
from tests.emulators.containers import Containers, attempt_directory

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT = "/run/boot_id"
"""Where containers find which life of their node it is. On a node of Azure the kernel says it (`runner.node.BOOT`); nodes here share one kernel."""
SOURCES = {"Shared": "shared", "Startup": "startup", "VfsMounts": "fsmounts", "Applications": "applications"}


class DockerAgents(Agents):
    """One thread a task that runs."""

    def __init__(self, account: Account, containers: Containers) -> None:
        super().__init__(account)
        self._containers = containers
        self._guard = threading.Lock()
        self._runs: dict[str, list[Run]] = collections.defaultdict(list)
        """all that was started on each node and has not been cleared away"""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        """by directory"""
        self._preparing: dict[tuple[str, str], threading.Lock] = collections.defaultdict(threading.Lock)
        """by node and job"""

    def start(self, run: Run) -> None:
        run.environment = self._environment(run)
        with self._guard:
            self._runs[run.node.id].append(run)
        self.threads.spawn(lambda: self._begin(run))

    def stop(self, run: Run) -> None:
        def stop() -> None:
            self.threads.pause(self.slow)
            self._kill(run)

        self.threads.spawn(stop)

    def kill(self, run: Run) -> None:
        """KILL the task's own container at once, and nothing else."""
        self._kill(run)

    def _kill(self, run: Run) -> None:
        if run.container:
            self._containers.kill(container_name(run))
        self._end_process(run.directory)

    def erase(self, node: Node) -> None:
        with self._guard:
            runs = self._runs.pop(node.id, [])
        for run in runs:
            self._kill(run)
            directory = attempt_directory(run.environment)
            if directory is not None:
                self._containers.clear(directory)
        for directory in (node.root / "startup", *node.root.glob("workitems/*/jobpreparation")):
            self._end_process(directory)
        self._containers.clear(node.root)

    def close(self) -> None:
        super().close()
        with self._guard:
            left = [run for runs in self._runs.values() for run in runs]
        for run in left:
            self._kill(run)
        self._containers.remove_all()

    # -- a task ------------------------------------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        try:
            self._run(run)
        except OSError:
            if not run.life.is_set():  # else the node's disk went meanwhile
                raise

    def _run(self, run: Run) -> None:
        if not self._prepared(run):
            with self._account.lock:
                self._account.requeue(run)
            return
        (run.directory / "wd").mkdir(parents=True, exist_ok=True)
        settings = run.task.spec.get("containerSettings")
        if settings is not None:
            code, failure = self._contained(run, settings)
        elif run.node.pool.has_containers:
            code, failure = None, settings_failure("a task of a pool with containers needs container settings")
        else:
            with self._account.lock:
                self._account.running(run)
            code, failure = self._process(run.task.spec["commandLine"], run.directory, run.environment, run.life)
        if run.life.is_set():
            return
        with self._account.lock:
            self._account.ended(run, code, failure)

    def _contained(self, run: Run, settings: Json) -> tuple[int | None, Json | None]:
        name, image = container_name(run), settings["imageName"]
        if image in self.broken:
            return None, image_failure(self.broken[image])
        try:
            self._containers.prepare(image, _login(settings, run))
        except docker.errors.APIError as error:
            return None, image_failure("ContainerInvalidImage", details=str(error.explanation or error))
        try:
            made = self._options(run, settings)
            run.container = self._containers.create(name, made)
            if not self._given_up(run):
                self._containers.start(name)
        except (docker.errors.APIError, BadOptions) as error:
            self._containers.remove(name)
            return None, settings_failure(str(error))
        if self._given_up(run):
            self._containers.kill(name)
        with self._account.lock:
            self._account.running(run, run.container)
        code = self._containers.wait(name)
        self.refresh(run)
        self._containers.remove(name)
        return code, None

    def _given_up(self, run: Run) -> bool:
        return run.task.run is not run or run.ending is not None or run.life.is_set()

    def _options(self, run: Run, settings: Json) -> dict[str, Any]:
        root = run.node.root
        asked = settings.get("containerHostBatchBindMounts")
        mounts = {root: "rw"}
        if asked is not None:
            mounts = {self._source(run, entry["source"]): "ro" if entry.get("isReadOnly") else "rw" for entry in asked}
        for path in mounts:
            path.mkdir(parents=True, exist_ok=True)
        made = run_options.config(settings["imageName"], run.task.spec["commandLine"], settings, run.environment, mounts, run.directory / "wd")
        made["HostConfig"]["Binds"].append(f"{_boot(run.node)}:{BOOT}:ro")
        return made

    def _source(self, run: Run, name: str) -> pathlib.Path:
        if name == "Task":
            return run.directory
        return run.directory.parents[1] / "jobpreparation" if name == "JobPrep" else run.node.root / SOURCES[name]

    def refresh(self, run: Run) -> None:
        if run.container and not run.life.is_set() and run.directory.is_dir():
            for name, stdout in (("stdout.txt", True), ("stderr.txt", False)):
                text = self._containers.log(container_name(run), stdout=stdout, stderr=not stdout)
                if text or not (run.directory / name).exists():
                    (run.directory / name).write_bytes(text)

    # -- on the node itself ------------------------------------------------------------------------------------------------

    def run_start_task(self, node: Node, given: Json) -> tuple[int | None, Json | None]:
        directory = node.root / "startup"
        environment = {**_node_environment(node, self._account.url), "AZ_BATCH_TASK_DIR": str(directory), "AZ_BATCH_TASK_WORKING_DIR": str(directory / "wd")}
        if "containerSettings" in given:
            return None, settings_failure("the emulator runs start tasks on the node itself")
        return self._process(given["commandLine"], directory, environment | _settings(given.get("environmentSettings", [])), node.lost)

    def _prepared(self, run: Run) -> bool:
        """Whether the job's preparation task has succeeded on the node, or there is none."""
        job = self._account.jobs.get(run.task.key[0])
        given = job.spec.get("jobPreparationTask") if job is not None else None
        if job is None or given is None:
            return True
        with self._guard:
            once = self._preparing[run.node.id, job.id]
        with once:
            told = run.node.prepared.get(job.id) or self._prepare(run, job, given)
        return told["result"] == "success" or not given.get("waitForSuccess", True)

    def _prepare(self, run: Run, job: Job, given: Json) -> Json:
        """How the preparation task went, as the service tells of it."""
        directory = run.directory.parents[1] / "jobpreparation"
        begin = stamp(now())
        environment = {**_node_environment(run.node, self._account.url), "AZ_BATCH_JOB_ID": job.id, "AZ_BATCH_JOB_PREP_DIR": str(directory)}
        code, failure = self._process(given["commandLine"], directory, environment | _settings(given.get("environmentSettings", [])), run.life)
        told = {"state": "completed", "startTime": begin, "endTime": stamp(now()), "retryCount": 0, "result": "failure" if failure else "success"}
        told |= {} if code is None else {"exitCode": code}
        told |= {} if failure is None else {"failureInfo": failure}
        with self._account.lock:
            run.node.prepared[job.id] = told
        return told

    def _process(self, command: str, directory: pathlib.Path, environment: Mapping[str, str], life: threading.Event) -> tuple[int | None, Json | None]:
        """A command line of the node's own: without a shell, in a session of its own that ends with it or with the node."""
        work = directory / "wd"
        work.mkdir(parents=True, exist_ok=True)
        try:
            with (directory / "stdout.txt").open("wb") as out, (directory / "stderr.txt").open("wb") as err:
                arguments = shlex.split(command)
                given = {"PATH": PATH, "HOME": str(work), **environment}
                process = subprocess.Popen(arguments, cwd=work, env=given, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        except (OSError, ValueError) as error:
            words = "The specified command program is not found" if isinstance(error, FileNotFoundError) else "Failed to launch the specified command line"
            code = "CommandProgramNotFound" if isinstance(error, FileNotFoundError) else "CommandLaunchFailed"
            return None, {"category": "usererror", "code": code, "message": words, "details": [{"name": "Message", "value": str(error)}]}
        with self._guard:
            self._processes[str(directory)] = process
        if life.is_set():
            self._end_process(directory)
        exited = process.wait()
        self._end_process(directory)
        with self._guard:
            self._processes.pop(str(directory), None)
        if exited == 0:
            return 0, None
        words = "The task exited with an exit code representing a failure"
        return exited, {"category": "usererror", "code": "FailureExitCode", "message": words, "details": [{"name": "Message", "value": words}]}

    def _end_process(self, directory: pathlib.Path) -> None:
        with self._guard:
            process = self._processes.get(str(directory))
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    # -- environment -------------------------------------------------------------------------------------------------------

    def _environment(self, run: Run) -> dict[str, str]:
        job = self._account.jobs.get(run.task.key[0])
        common = _settings(job.spec.get("commonEnvironmentSettings", [])) if job is not None else {}
        own = {
            "AZ_BATCH_JOB_ID": job.id if job is not None else run.task.key[0],
            "AZ_BATCH_TASK_ID": run.task.id,
            "AZ_BATCH_TASK_DIR": str(run.directory),
            "AZ_BATCH_TASK_WORKING_DIR": str(run.directory / "wd"),
            "AZ_BATCH_JOB_PREP_DIR": str(run.directory.parents[1] / "jobpreparation"),
        }
        return {**common, **_settings(run.task.spec.get("environmentSettings", [])), **_node_environment(run.node, self._account.url), **own}


def container_name(run: Run) -> str:
    """Of one start of a task on a node."""
    return f"azbatch-{run.node.root.name}-{'-'.join(run.task.key)}-{run.number}"


def settings_failure(words: str) -> Json:
    """The failureInfo of container settings that nobody can follow."""
    message = "One or more container settings are invalid"
    return {"category": "usererror", "code": "ContainerInvalidSettings", "message": message, "details": [{"name": "Message", "value": words}]}


def _boot(node: Node) -> pathlib.Path:
    """A file that goes with the node's disk."""
    path = node.root / "boot_id"
    path.write_text(f"{uuid.uuid5(uuid.NAMESPACE_URL, f'{node.url} {node.booted}')}\n")
    return path


def _settings(entries: list[Json]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in entries}


def _login(settings: Json, run: Run) -> dict[str, str] | None:
    """Of the task's registry, or of that one of the pool which the image is from."""
    containers = run.node.pool.spec["virtualMachineConfiguration"].get("containerConfiguration", {})
    for registry in [settings["registry"]] if "registry" in settings else containers.get("containerRegistries", []):
        if "username" in registry and settings["imageName"].startswith(f"{registry.get('registryServer', 'docker.io')}/"):
            return {"username": registry["username"], "password": registry.get("password", "")}
    return None


def _node_environment(node: Node, url: str) -> dict[str, str]:
    return {
        "AZ_BATCH_ACCOUNT_NAME": ACCOUNT,
        "AZ_BATCH_ACCOUNT_URL": f"{url}/",
        "AZ_BATCH_POOL_ID": node.pool.id,
        "AZ_BATCH_NODE_ID": node.id,
        "AZ_BATCH_NODE_IS_DEDICATED": "true" if node.dedicated else "false",
        "AZ_BATCH_NODE_ROOT_DIR": str(node.root),
        "AZ_BATCH_NODE_SHARED_DIR": str(node.root / "shared"),
        "AZ_BATCH_NODE_STARTUP_DIR": str(node.root / "startup"),
        "AZ_BATCH_NODE_STARTUP_WORKING_DIR": str(node.root / "startup" / "wd"),
        "AZ_BATCH_NODE_MOUNTS_DIR": str(node.root / "fsmounts"),
    }
